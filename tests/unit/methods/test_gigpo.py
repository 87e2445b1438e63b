"""GiGPO: episodes and steps from the same state, by hand."""

import math

import pytest
import torch
from method_parts import make_method, make_scores, make_tree, rollout_with_turns, tree_with_turns

from appo.methods import Needs
from appo.methods.gigpo import step_credit, step_group_advantage

NAN = math.nan
LENGTH = 7


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_nested_close(actual, expected):
    assert [len(row) for row in actual] == [len(row) for row in expected]
    for row, expected_row in zip(actual, expected, strict=True):
        assert row == pytest.approx(expected_row)


def test_step_group_hand_computed():
    # A_E: 1 and -1. Returns at gamma 1/2: rollout 0 has 1/4, 1/2, 1; rollout 1 has 0, 0.
    # "a": 1/4, 0 to 1, -1. "b": 1/2, 1, 0 have mean 1/2, std sqrt(1/6), so 0, sqrt(3/2), -sqrt(3/2).
    rewards_R, anchors = torch.tensor([1.0, 0.0]), [["a", "b", "b"], ["a", "b"]]
    step = math.sqrt(3 / 2)
    actual = step_group_advantage(rewards_R, anchors, gamma=0.5)
    assert_nested_close(actual, [[2.0, 1.0, 1.0 + step], [-2.0, -1.0 - step]])
    actual = step_group_advantage(rewards_R, anchors, gamma=0.5, weight=0.1)
    assert_nested_close(actual, [[1.1, 1.0, 1.0 + 0.1 * step], [-1.1, -1.0 - 0.1 * step]])


@pytest.mark.parametrize(("gamma", "first"), [(0.0, 0.0), (1.0, 1.0)])
def test_step_group_discounts_may_leave_all_or_nothing(gamma, first):
    # Episodes 1 and -1, not normalised: 1/2 and -1/2. The first step's returns are gamma and 0, the second's 1 and 0.
    actual = step_group_advantage(double([1.0, 0.0]), [["a", "b"]] * 2, gamma=gamma, normalise=False)
    assert actual == [[0.5 + first / 2, 1.0], [-0.5 - first / 2, -1.0]]


def test_step_group_without_normalisation_hand_computed():
    # As above, with A_E 1/2 and -1/2; "a" has mean 1/8, "b" mean 1/2.
    actual = step_group_advantage(
        torch.tensor([1.0, 0.0]), [["a", "b", "b"], ["a", "b"]], gamma=0.5, weight=2.0, normalise=False
    )
    assert_nested_close(actual, [[0.5 + 0.25, 0.5, 0.5 + 1.0], [-0.5 - 0.25, -0.5 - 1.0]])


@pytest.mark.parametrize("normalise", [True, False])
def test_step_group_alone_or_equal_has_no_step_term(normalise):
    # States met once, and a state whose steps have the same return: only A_E is left, and no rollout is dropped.
    rewards_R, anchors = torch.tensor([1.0, 1.0, 0.0, 0.0]), [[("x", 1), "z"], [("x", 2), "z"], [], [0]]
    actual = step_group_advantage(rewards_R, anchors, normalise=normalise)
    size = 1.0 if normalise else 0.5
    assert_nested_close(actual, [[size, size], [size, size], [], [-size]])
    assert step_group_advantage(torch.zeros(2), [[], []]) == [[], []]
    assert step_group_advantage(torch.zeros(0), []) == []


def test_step_group_errors():
    with pytest.raises(ValueError, match="anchors has 1 rollouts, but rewards_R has 2"):
        step_group_advantage(torch.rand(2), [["a"]])
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]"):
        step_group_advantage(torch.rand(1), [["a"]], gamma=1.1)
    with pytest.raises(ValueError, match=r"rewards_R holds nan at \[0\]"):
        step_group_advantage(torch.tensor([NAN]), [["a"]])


def test_no_gradient_flows_through_a_step():
    rewards_R = torch.rand(3, requires_grad=True)
    assert isinstance(step_group_advantage(rewards_R, [["a"]] * 3)[0][0], float)


# ---- credit ----


def make_calling(rewards, results=("same", "same", "same")):
    return tree_with_turns(*(rollout_with_turns([x], reward) for x, reward in zip(results, rewards, strict=False)))


def test_steps_are_compared_where_they_answer_the_same_result():
    # Episodes: 1, 0, 0 -> sqrt(2) and -1/sqrt(2). First steps: .95, 0, 0, so the same again. Second steps: after
    # "same" 1 and 0 -> 1 and -1; "other" is alone.
    credit = step_credit(make_calling([1.0, 0.0, 0.0], ["same", "same", "other"]), LENGTH)
    high, low = 2**0.5, -(2**-0.5)
    expected = [[2 * high] * 4 + [high + 1] * 3, [2 * low] * 4 + [low - 1] * 3, [2 * low] * 4 + [low] * 3]
    torch.testing.assert_close(credit, torch.tensor(expected))


def test_an_empty_result_is_not_the_first_state():
    # Of 1 and 0 each group gives 1 and -1; were all four one group, it would not.
    expected = torch.tensor([[2.0] * LENGTH, [-2.0] * LENGTH])
    torch.testing.assert_close(step_credit(make_calling([1.0, 0.0], ["", ""]), LENGTH), expected)


def test_steps_leave_out_what_is_not_scored():
    # Of 1 and 0 each group gives 1 and -1, twice.
    expected = torch.tensor([[2.0] * LENGTH, [0.0] * LENGTH, [-2.0] * LENGTH])
    torch.testing.assert_close(step_credit(make_calling([1.0, None, 0.0]), LENGTH), expected)


def test_a_task_without_any_reward_gives_no_signal():
    assert not step_credit(make_calling([None, None]), LENGTH).any()


def test_states_of_different_tasks_are_never_compared():
    # Each task by itself: 1 and 0 give 1 and -1 in each group, and a task of equal rewards nothing.
    trees = [make_calling([1.0, 0.0]), make_calling([1.0, 1.0])]
    credit = make_method("gigpo").credit(trees, make_scores(trees))
    torch.testing.assert_close(credit.advantages_BT[:, 0], torch.tensor([2.0, -2.0, 0.0, 0.0]))
    assert credit.advantages_BT.shape == (4, 6)


def test_rollouts_without_calls_are_one_step():
    # Episode and step are the same comparison: 1 and -1, twice.
    trees = [make_tree([1.0, 0.0])]
    credit = make_method("gigpo").credit(trees, make_scores(trees))
    torch.testing.assert_close(credit.advantages_BT, torch.tensor([[2.0] * 4, [-2.0] * 4]))


def test_it_writes_plain_rollouts():
    method = make_method("gigpo", num_generations=8)
    assert (method.needs, method.num_initial) == (Needs(), 8)
