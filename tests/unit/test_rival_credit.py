"""Credit of the rivals' trees, by hand: turns, anchors, roots, and rollouts that no reward function scored."""

import pytest
import torch

from appo.rival_credit import result_at, spread, step_credit, tree_credit, turn_end, vine_credit
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall

LENGTH = 7


def make_tree(rewards, results=("same", "same", "same")):
    """Rollouts of two policy tokens that call, a result of two tokens (2, 3), and two more policy tokens."""
    tree = RolloutTree({})
    for reward, result in zip(rewards, results, strict=False):
        rollout = Rollout([1], reward=reward)
        rollout.append([5, 6], [-1.0] * 2)
        rollout.append([7, 7], None)
        rollout.append([8, 9], [-1.0] * 2)
        rollout.tool_calls = [ToolCall("search", "x", 1, 2, result, None, 2, 4)]
        tree.add_initial(rollout)
    return tree


def add_branch(tree, parent, position, reward):
    branch = tree.rollouts[parent].prefix(position)
    branch.append([9], [-1.0])
    branch.reward = reward
    tree.add_branch(branch, parent, position)


def test_a_tree_is_an_initial_rollout_with_its_branches():
    tree = make_tree([1.0, 0.0])
    add_branch(tree, 0, 4, 0.0)
    add_branch(tree, 2, 1, 0.0)  # a branch of a branch belongs to the same root
    # All: mean 1/4, std sqrt(3)/4: sqrt(3) and -1/sqrt(3). The first tree: 1, 0, 0: mean 1/3, std sqrt(2)/3.
    high, low, root_high, root_low = 3**0.5, -(3**-0.5), 2**0.5, -(2**-0.5)
    expected = torch.tensor([high + root_high, low, low + root_low, low + root_low])
    torch.testing.assert_close(tree_credit(tree, LENGTH), expected[:, None].expand(-1, LENGTH))


def test_trees_leave_out_what_is_not_scored():
    tree = make_tree([1.0, None, 0.0])
    add_branch(tree, 0, 4, 0.0)
    add_branch(tree, 1, 4, None)
    # Scored: 1, 0, 0: mean 1/3, std sqrt(2)/3; the first tree has 1 and 0, the last 0 alone.
    high, low = 2**0.5, -(2**-0.5)
    expected = torch.tensor([high + 1.0, 0.0, low, low - 1.0, 0.0])
    torch.testing.assert_close(tree_credit(tree, LENGTH), expected[:, None].expand(-1, LENGTH))


def test_steps_are_compared_where_they_answer_the_same_result():
    # Episodes: 1, 0, 0 -> sqrt(2) and -1/sqrt(2). First steps: .95, 0, 0, so the same again. Second steps: after
    # "same" 1 and 0 -> 1 and -1; "other" is alone.
    credit = step_credit(make_tree([1.0, 0.0, 0.0], ["same", "same", "other"]), LENGTH)
    high, low = 2**0.5, -(2**-0.5)
    expected = [[2 * high] * 4 + [high + 1] * 3, [2 * low] * 4 + [low - 1] * 3, [2 * low] * 4 + [low] * 3]
    torch.testing.assert_close(credit, torch.tensor(expected))


def test_an_empty_result_is_not_the_first_state():
    # Of 1 and 0 each group gives 1 and -1; were all four one group, it would not.
    expected = torch.tensor([[2.0] * LENGTH, [-2.0] * LENGTH])
    torch.testing.assert_close(step_credit(make_tree([1.0, 0.0], ["", ""]), LENGTH), expected)


def test_steps_leave_out_what_is_not_scored():
    # Of 1 and 0 each group gives 1 and -1, twice.
    expected = torch.tensor([[2.0] * LENGTH, [0.0] * LENGTH, [-2.0] * LENGTH])
    torch.testing.assert_close(step_credit(make_tree([1.0, None, 0.0]), LENGTH), expected)


def test_the_value_of_a_turn_is_the_mean_of_what_began_there():
    tree = make_tree([1.0, 0.0])
    for position, reward in ((4, 1.0), (4, 0.5), (1, 0.0)):  # the last is no start of a turn
        add_branch(tree, 0, position, reward)
    add_branch(tree, 1, 4, 0.5)
    # Both begin at 1/2. Rollout 0: 3/4 - 1/2, then 1 - 3/4. Rollout 1: 1/2 - 1/2, then 0 - 1/2.
    expected = torch.tensor([[0.25] * 4 + [0.25] * 3, [0.0] * 4 + [-0.5] * 3])
    torch.testing.assert_close(vine_credit(tree, LENGTH), expected)


def test_values_leave_out_what_is_not_scored():
    tree = make_tree([1.0, None, 0.5])
    for parent, reward in ((0, 1.0), (0, None), (1, 0.0), (2, None)):
        add_branch(tree, parent, 4, reward)
    # All begin at 3/4. Rollout 0: 1 - 3/4, then 1 - 1. Rollout 2: nothing is known of its second turn, so that both
    # have 1/2 - 3/4.
    expected = torch.tensor([[0.25] * 4 + [0.0] * 3, [0.0] * LENGTH, [-0.25] * LENGTH])
    torch.testing.assert_close(vine_credit(tree, LENGTH), expected)


@pytest.mark.parametrize("credit", [tree_credit, step_credit, vine_credit])
def test_a_task_without_any_reward_gives_no_signal(credit):
    tree = make_tree([None, None])
    add_branch(tree, 0, 4, None)
    assert not credit(tree, LENGTH)[:2].any()


def test_credits_are_spread_from_each_turns_start_to_the_next():
    tree = make_tree([1.0, None])
    expected = torch.tensor([[1.0] * 4 + [2.0] * 3, [0.0] * LENGTH])
    assert torch.equal(spread(tree.initial, [[1.0, 2.0], None], LENGTH), expected)


@pytest.mark.parametrize("credits", [[[1.0, 2.0]], [[1.0, 2.0], [1.0]], [[1.0, 2.0], [1.0, 2.0, 3.0]]])
def test_credits_of_another_number_are_refused(credits):
    with pytest.raises(ValueError, match="zip"):
        spread(make_tree([1.0, 0.0]).initial, credits, LENGTH)


def test_results_and_turns_are_found_by_position():
    (rollout,) = make_tree([1.0]).initial
    rollout.tool_calls.append(ToolCall("search", "y", 1, 2, "more", None, 2, 4))
    assert (result_at(rollout, 4), result_at(rollout, 3)) == ("same more", "")
    assert [turn_end(rollout, start) for start in (0, 2, 4)] == [2, 6, 6]
