"""Prefixes and trees keep every token and call of the parent, once."""

import math

import pytest

from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall


def rollout_with_two_calls():
    # tokens:  0 1 2(call) 3 4(result) 5 6(call) 7 8(result) 9
    rollout = Rollout([1, 2], "prompt")
    rollout.append([10, 11, 12], [-0.1, -0.2, -0.3])
    rollout.append([13, 14], None)
    rollout.append([15, 16], [-0.4, -0.5])
    rollout.append([17, 18], None)
    rollout.append([19], [-0.6])
    rollout.tool_calls = [
        ToolCall("a", "x", 1, 3, result_start=3, result_end=5),
        ToolCall("a", "y", 6, 7, result_start=7, result_end=9),
    ]
    rollout.snapshots = ["start", "after a", "after b"]
    return rollout


def test_result_tokens_have_mask_0_and_no_logprob():
    rollout = rollout_with_two_calls()
    assert rollout.policy_mask == [1, 1, 1, 0, 0, 1, 1, 0, 0, 1]
    assert [math.isnan(x) for x in rollout.logprobs] == [not m for m in rollout.policy_mask]


@pytest.mark.parametrize(
    ("position", "calls", "snapshot"), [(0, 0, "start"), (2, 0, "start"), (6, 1, "after a"), (9, 2, "after b")]
)
def test_a_prefix_keeps_its_answered_calls_and_their_state(position, calls, snapshot):
    rollout = rollout_with_two_calls()
    prefix = rollout.prefix(position)
    assert prefix.completion_ids == rollout.completion_ids[:position]
    assert len(prefix.tool_calls) == calls
    assert prefix.snapshots[-1] == snapshot
    assert prefix.finish_reason is None


def test_a_prefix_is_independent_of_its_parent():
    rollout = rollout_with_two_calls()
    rollout.prefix(6).append([99], [-1.0])
    assert 99 not in rollout.completion_ids


@pytest.mark.parametrize("position", [-1, 11])
def test_a_prefix_outside_the_rollout_is_refused(position):
    with pytest.raises(ValueError, match="position"):
        rollout_with_two_calls().prefix(position)


def test_a_result_cannot_be_cut_in_two():
    with pytest.raises(ValueError, match="inside a tool result"):
        rollout_with_two_calls().prefix(4)


def test_a_branch_that_lost_a_token_is_refused():
    tree = RolloutTree({})
    tree.add_initial(rollout_with_two_calls())
    branch = rollout_with_two_calls()
    del branch.completion_ids[0]
    with pytest.raises(ValueError, match="does not repeat"):
        tree.add_branch(branch, 0, 6)
    with pytest.raises(ValueError, match="parent"):
        tree.add_branch(rollout_with_two_calls(), 7, 6)


def test_the_root_of_a_branch_of_a_branch():
    tree = RolloutTree({})
    tree.add_initial(rollout_with_two_calls())
    tree.add_branch(rollout_with_two_calls(), 0, 2)
    tree.add_branch(rollout_with_two_calls(), 1, 6)
    assert tree.root_of(tree.rollouts[2]) == (0, 2)
    assert (len(tree.initial), len(tree.branches), tree.own_tokens(2)) == (1, 2, 6)
    tree.drop_branches()
    assert len(tree.rollouts) == 1
