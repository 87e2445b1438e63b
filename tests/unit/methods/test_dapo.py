"""DAPO: which tasks make room for others, and how they are replaced."""

import math
from itertools import cycle

import pytest
import torch
from method_parts import ScriptedWriter, make_method, make_scores, make_tree

from appo.errors import UserError
from appo.methods import Needs
from appo.methods.dapo import MOST_EXTRA_ROUNDS, SAMPLING_STREAM, mixed_groups

NAN = math.nan


def test_mixed_groups_hand_computed():
    rewards_GN = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    assert mixed_groups(rewards_GN).tolist() == [False, True, False, True]


def test_mixed_groups_threshold_and_small_groups():
    assert mixed_groups(torch.tensor([[0.1, 0.3]]), eps=0.1).tolist() == [True]
    assert mixed_groups(torch.tensor([[0.1, 0.3]]), eps=0.25).tolist() == [False]
    assert mixed_groups(torch.tensor([[0.0, 0.25]]), eps=0.25).tolist() == [False]
    assert mixed_groups(torch.rand(2, 1)).tolist() == [False, False]
    assert mixed_groups(torch.rand(2, 0)).tolist() == [False, False]
    assert mixed_groups(torch.rand(0, 4)).tolist() == []


def test_mixed_groups_leave_out_what_is_not_scored():
    rewards_GN = torch.tensor([[NAN, 1.0, 1.0], [0.0, NAN, 1.0], [NAN, NAN, 1.0], [NAN] * 3])
    assert mixed_groups(rewards_GN).tolist() == [False, True, False, False]


def test_mixed_groups_errors():
    with pytest.raises(ValueError, match="rewards_GN must have two dimensions"):
        mixed_groups(torch.rand(3))
    with pytest.raises(ValueError, match=r"rewards_GN holds inf at \[0, 1\]"):
        mixed_groups(torch.tensor([[0.0, math.inf]]))


def test_no_gradient_flows_through_the_choice():
    assert not mixed_groups(torch.rand(2, 3, requires_grad=True)).requires_grad


# ---- replacing tasks ----


def dapo(**settings):
    return make_method("dapo", loss_type="dapo", **{"num_generations": 2, **settings})


def writer_with(*rewards):
    """A writer whose rollouts have these rewards, again and again."""
    following = cycle(rewards)

    def end(rollout):
        rollout.append([90], [-1.0])
        rollout.reward = next(following)

    return ScriptedWriter(end)


def test_tasks_whose_rewards_are_all_equal_are_replaced():
    equal, mixed, unknown = make_tree([1.0, 1.0]), make_tree([1.0, 0.0]), make_tree([1.0, None])
    writer = writer_with(0.0, 1.0)
    found = dapo().expand([equal, mixed, unknown], writer)
    assert len(found) == 3
    assert found[0] is mixed
    # One round: two other rows, as many rollouts each as a task has, from random numbers of their own.
    assert writer.calls("draw_rows") == [(2,)]
    assert writer.calls("generator") == [(SAMPLING_STREAM,)]
    ((rows, size, stream),) = writer.calls("write")
    assert (size, stream) == (2, SAMPLING_STREAM)
    assert [tree.row for tree in found[1:]] == rows
    assert all(tree.id.startswith("task ") and tree.id.endswith(".1") for tree in found[1:])


def test_nothing_is_written_where_every_task_has_spread():
    trees, writer = [make_tree([1.0, 0.0]), make_tree([0.0, 1.0])], ScriptedWriter()
    assert dapo().expand(trees, writer) == trees
    assert writer.asked == []


def test_a_second_round_replaces_what_the_first_could_not():
    writer = writer_with(0.0, 0.0, 0.0, 1.0)  # of four rollouts the first two are of one task without spread
    found = dapo().expand([make_tree([1.0, 1.0]), make_tree([0.0, 0.0]), make_tree([0.5, 0.5])], writer)
    # Three are missing; of three tasks one has spread, then of two one, then one of one (the next pair is 0, 1).
    assert [count for (count,) in writer.calls("draw_rows")] == [3, 2, 1]
    assert [stream for *_, stream in writer.calls("write")] == [SAMPLING_STREAM + extra for extra in range(3)]
    assert [tree.id[-2:] for tree in found] == [".1", ".2", ".3"]
    assert all({rollout.reward for rollout in tree.rollouts} == {0.0, 1.0} for tree in found)


def test_it_gives_up_after_a_few_rounds_and_takes_tasks_as_they_are():
    trees, writer = [make_tree([1.0, 1.0]), make_tree([0.0, 0.0])], writer_with(1.0)
    assert dapo().expand(trees, writer) == trees
    assert len(writer.calls("write")) == MOST_EXTRA_ROUNDS == 3


def test_what_has_spread_comes_before_what_fills_up():
    mixed, equal = make_tree([1.0, 0.0]), make_tree([1.0, 1.0])
    assert dapo().expand([equal, mixed], writer_with(1.0)) == [mixed, equal]


def test_advantages_are_grpos():
    trees = [make_tree([1.0, 0.0, None, 0.0, 1.0])]
    credit = dapo().credit(trees, make_scores(trees))
    assert credit.advantages_BT[:, 0].tolist() == [1.0, -1.0, 0.0, -1.0, 1.0]


def test_its_rounds_differ_in_number_so_that_it_runs_on_one_process():
    assert dapo().needs == Needs(one_process=True)


def test_another_loss_is_refused():
    with pytest.raises(
        UserError, match="method = 'dapo' means its loss too, got loss_type = 'grpo'; set it to 'dapo'"
    ):
        make_method("dapo", loss_type="grpo")
