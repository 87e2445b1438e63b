"""VinePPO: differences of values by hand, and how Monte-Carlo rollouts are dealt out."""

import math

import pytest
import torch
from method_parts import (
    ScriptedWriter,
    add_branch,
    make_method,
    make_scores,
    make_tree,
    rollout_with_turns,
    tree_with_turns,
)

from appo.errors import UserError
from appo.methods import Needs
from appo.methods.base import EXPAND_STREAM
from appo.methods.vineppo import vine_advantage, vine_credit

NAN = math.nan
LENGTH = 7


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_vine_hand_computed():
    expected = double([0.25, -0.5, 0.75])
    torch.testing.assert_close(vine_advantage(double([0.5, 0.75, 0.25]), 1.0), expected)
    torch.testing.assert_close(vine_advantage(torch.tensor([0.25]), 0.0), torch.tensor([-0.25]))


def test_vine_merges_steps_without_a_value():
    # Spans 0-1 (0.5 to 0.75) and 2-4 (0.75 to the reward).
    actual = vine_advantage(double([0.5, NAN, 0.75, NAN, NAN]), 1.0)
    torch.testing.assert_close(actual, double([0.25] * 5))
    actual = vine_advantage(double([0.5, NAN, 0.75, NAN, NAN]), 0.0)
    torch.testing.assert_close(actual, double([0.25, 0.25, -0.75, -0.75, -0.75]))


@pytest.mark.parametrize(
    ("values_S", "reward", "message"),
    [
        (torch.tensor([NAN, 0.5]), 1.0, r"^values_S must begin .*, which no earlier step can replace\.$"),
        (torch.zeros(0), 1.0, "values_S must begin with the value of the first state"),
        (torch.rand(1, 2), 1.0, "values_S must have one dimension"),
        (torch.tensor([0.5, math.inf]), 1.0, r"^values_S and reward must not be infinite, nor reward NaN\.$"),
        (torch.rand(2), NAN, "values_S and reward must not be infinite, nor reward NaN"),
    ],
)
def test_vine_errors(values_S, reward, message):
    with pytest.raises(ValueError, match=message):
        vine_advantage(values_S, reward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_no_gradient_flows(dtype):
    result = vine_advantage(torch.rand(3, dtype=dtype, requires_grad=True), 1.0)
    assert result.dtype == dtype
    assert not result.requires_grad


# ---- credit ----


def make_calling(*rewards):
    return tree_with_turns(*(rollout_with_turns(["same"], reward) for reward in rewards))


def test_the_value_of_a_turn_is_the_mean_of_what_began_there():
    tree = make_calling(1.0, 0.0)
    for position, reward in ((4, 1.0), (4, 0.5), (1, 0.0)):  # the last is no start of a turn
        add_branch(tree, 0, position, reward)
    add_branch(tree, 1, 4, 0.5)
    # Both begin at 1/2. Rollout 0: 3/4 - 1/2, then 1 - 3/4. Rollout 1: 1/2 - 1/2, then 0 - 1/2.
    expected = torch.tensor([[0.25] * 4 + [0.25] * 3, [0.0] * 4 + [-0.5] * 3])
    torch.testing.assert_close(vine_credit(tree, LENGTH), expected)


def test_values_leave_out_what_is_not_scored():
    tree = make_calling(1.0, None, 0.5)
    for parent, reward in ((0, 1.0), (0, None), (1, 0.0), (2, None)):
        add_branch(tree, parent, 4, reward)
    # All begin at 3/4. Rollout 0: 1 - 3/4, then 1 - 1. Rollout 2: nothing is known of its second turn, so that both
    # have 1/2 - 3/4.
    expected = torch.tensor([[0.25] * 4 + [0.0] * 3, [0.0] * LENGTH, [-0.25] * LENGTH])
    torch.testing.assert_close(vine_credit(tree, LENGTH), expected)


def test_a_task_without_any_reward_gives_no_signal():
    tree = make_calling(None, None)
    add_branch(tree, 0, 4, None)
    assert not vine_credit(tree, LENGTH).any()


def test_initial_rollouts_alone_carry_loss():
    trees = [make_calling(1.0, 0.0), make_tree([1.0, 0.0])]
    add_branch(trees[0], 0, 4, 1.0)
    credit = vineppo(2, 1).credit(trees, make_scores(trees))
    # All begin at 1/2. Of the first rollout 1 - 1/2, then 1 - 1; nothing is known inside the others.
    expected = torch.tensor([[0.5] * 4 + [0.0] * 2, [-0.5] * 6, [0.5] * 6, [-0.5] * 6])
    torch.testing.assert_close(credit.advantages_BT, expected)
    assert credit.loss_mask_BT.tolist() == [[1, 1, 0, 0, 1, 1]] * 2 + [[1, 1, 1, 1, 0, 0]] * 2


# ---- where Monte-Carlo rollouts begin ----


def vineppo(initial, points):
    options = {"num_initial_rollouts": initial, "num_branch_points": points}
    return make_method("vineppo", options, num_generations=initial * (points + 1))


def test_rollouts_are_dealt_out_over_the_starts_of_turns():
    tree, writer = tree_with_turns(rollout_with_turns(["a", "b"]), rollout_with_turns(["a"])), ScriptedWriter()
    assert vineppo(2, 5).expand([tree], writer) == [tree]
    expected = [*((0, position) for position in (4, 8, 4, 8, 4)), *[(1, 4)] * 5]
    assert writer.calls("branch") == [(expected, EXPAND_STREAM, False, True)]
    assert [(b.parent, b.branch_position) for b in tree.branches] == expected


def test_a_rollout_without_results_has_them_from_its_start():
    trees, writer = [make_tree([0.0]), tree_with_turns(rollout_with_turns(["a"], last=0))], ScriptedWriter()
    vineppo(1, 2).expand(trees, writer)
    assert writer.points == [(0, 0)] * 4  # a result at the very end leaves nothing to write either


# ---- settings ----


def test_few_rollouts_with_many_others_each_are_the_default():
    method = make_method("vineppo", num_generations=16)
    assert (method.num_initial, method.options.num_branch_points) == (2, 7)
    assert method.needs == Needs()


def test_rollouts_and_branches_are_the_tasks_size():
    with pytest.raises(
        UserError, match=r"must equal num_generations, got 2 \* \(7 \+ 1\) = 16 and num_generations = 4"
    ):
        make_method("vineppo")


def test_rollouts_that_call_no_tool_are_credited_by_the_branches_from_their_prompt():
    # Two successes, and six rollouts from the same prompt that fail: a value of 2/8.
    tree = make_tree([1.0, 1.0], [(k % 2, 0, 0.0) for k in range(6)])
    torch.testing.assert_close(vine_credit(tree, 4), torch.full((2, 4), 0.75))
