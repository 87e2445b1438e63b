"""Tree-GRPO: both of its comparisons, and the nodes that it branches at."""

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
from appo.methods.tree_grpo import tree_credit, tree_group_advantage


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_tree_group_hand_computed():
    # Tree 0: mean 1/2, std 1/2, so -1 and 1. Tree 1: equal, so 0. All: mean 3/4, std sqrt(3) / 4, so -sqrt(3) and
    # 1 / sqrt(3).
    low, high = -math.sqrt(3), 1 / math.sqrt(3)
    actual = tree_group_advantage(double([0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(actual, double([-1.0 + low, 1.0 + high, high, high]))


def test_tree_group_of_one_tree_and_of_lone_rollouts():
    rewards_R = torch.tensor([0.0, 1.0])
    # One tree: both terms are equal, so twice -1 and 1. A tree each: only the inter-tree term is left.
    torch.testing.assert_close(tree_group_advantage(rewards_R, torch.tensor([4, 4])), torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(tree_group_advantage(rewards_R, torch.tensor([4, 9])), torch.tensor([-1.0, 1.0]))
    assert (tree_group_advantage(rewards_R, torch.tensor([4, 4]), eps=0.6) == 0).all()


def test_tree_group_errors():
    with pytest.raises(ValueError, match=r"rewards_R holds inf at \[0\]"):
        tree_group_advantage(torch.tensor([math.inf, 0.0]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"tree_R must be an integer tensor of shape .*, as rewards_R, got"):
        tree_group_advantage(torch.rand(2), torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_no_gradient_flows(dtype):
    result = tree_group_advantage(torch.rand(3, dtype=dtype, requires_grad=True), torch.zeros(3, dtype=torch.int32))
    assert result.dtype == dtype
    assert not result.requires_grad


# ---- credit ----


def test_a_tree_is_an_initial_rollout_with_its_branches():
    tree = make_tree([1.0, 0.0])
    add_branch(tree, 0, 3, 0.0)
    add_branch(tree, 2, 1, 0.0)  # a branch of a branch belongs to the same root
    # All: mean 1/4, std sqrt(3)/4: sqrt(3) and -1/sqrt(3). The first tree: 1, 0, 0: mean 1/3, std sqrt(2)/3.
    high, low, root_high, root_low = 3**0.5, -(3**-0.5), 2**0.5, -(2**-0.5)
    expected = torch.tensor([high + root_high, low, low + root_low, low + root_low])
    torch.testing.assert_close(tree_credit(tree), expected)
    method = make_method("tree_grpo", {"num_initial_rollouts": 2, "num_branch_points": 1})
    credit = method.credit([tree], make_scores([tree], "all"))
    torch.testing.assert_close(credit.advantages_BT, expected[:, None].expand(-1, 4))


def test_trees_leave_out_what_is_not_scored():
    tree = make_tree([1.0, None, 0.0], [(0, 3, 0.0), (1, 3, None)])
    # Scored: 1, 0, 0: mean 1/3, std sqrt(2)/3; the first tree has 1 and 0, the last 0 alone.
    high, low = 2**0.5, -(2**-0.5)
    torch.testing.assert_close(tree_credit(tree), torch.tensor([high + 1.0, 0.0, low, low - 1.0, 0.0]))


def test_a_task_without_any_reward_gives_no_signal():
    assert not tree_credit(make_tree([None, None], [(0, 3, None)])).any()


def test_every_rollout_carries_loss_with_the_tokens_that_it_shares():
    tree = make_tree([1.0, 0.0], [(0, 2, 0.0)])
    method = make_method("tree_grpo", {"num_initial_rollouts": 2, "num_branch_points": 1})
    assert method.credit([tree], make_scores([tree], "all")).loss_mask_BT.tolist() == [[1] * 4, [1] * 4, [1, 1, 1, 0]]


# ---- where it branches ----


def tree_grpo(initial, points):
    options = {"num_initial_rollouts": initial, "num_branch_points": points}
    return make_method("tree_grpo", options, num_generations=initial * (points + 1))


def test_it_branches_at_starts_of_turns_and_at_all_of_them():
    tree, writer = tree_with_turns(rollout_with_turns(["a", "b"])), ScriptedWriter()
    assert tree_grpo(1, 60).expand([tree], writer) == [tree]
    places = [position for _, position in writer.points]
    # Each of three nodes is as likely: 20 of 60 times, give or take.
    assert set(places) == {0, 4, 8}
    assert all(10 < places.count(node) < 30 for node in (0, 4, 8))


def test_its_nodes_are_drawn_by_the_writers_own_numbers():
    tree, writer = tree_with_turns(rollout_with_turns(["a", "b"])), ScriptedWriter()
    tree_grpo(1, 8).expand([tree], writer)
    drawn = torch.randint(3, (8,), generator=torch.Generator().manual_seed(EXPAND_STREAM)).tolist()
    assert [position for _, position in writer.points] == [[0, 4, 8][k] for k in drawn]


def test_each_initial_rollout_has_as_many_branches_written_in_one_go():
    trees = [tree_with_turns(*(rollout_with_turns(["a"]) for _ in range(2))) for _ in range(2)]
    writer = ScriptedWriter()
    tree_grpo(2, 3).expand(trees, writer)
    ((points, stream, branches_branch, counted),) = writer.calls("branch")
    assert [rollout for rollout, _ in points] == [0, 0, 0, 1, 1, 1] * 2
    assert (stream, branches_branch, counted) == (EXPAND_STREAM, False, True)
    assert [[b.parent for b in tree.branches] for tree in trees] == [[0, 0, 0, 1, 1, 1]] * 2


def test_a_result_at_the_very_end_is_no_node():
    tree, writer = tree_with_turns(rollout_with_turns(["a"], last=0)), ScriptedWriter()
    tree_grpo(1, 20).expand([tree], writer)
    assert {position for _, position in writer.points} == {0}


# ---- settings ----


def test_what_it_needs():
    assert tree_grpo(2, 3).needs == Needs(trains="all", shared_tokens=True)
    assert tree_grpo(2, 3).num_initial == 2


def test_rollouts_and_branches_are_the_tasks_size():
    with pytest.raises(
        UserError, match=r"must equal num_generations, got 4 \* \(3 \+ 1\) = 16 and num_generations = 4"
    ):
        make_method("tree_grpo")
