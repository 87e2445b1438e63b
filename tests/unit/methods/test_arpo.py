"""ARPO: which turns it branches at while writing, and both credits of shared tokens."""

import math

import pytest
import torch
from method_parts import (
    ScriptedWriter,
    make_method,
    make_scores,
    make_tree,
    rollout_with_turns,
    tree_with_turns,
)

from appo.errors import UserError
from appo.methods import Needs
from appo.methods.base import EXPAND_STREAM

NAN = math.nan


# ---- where it branches ----


def arpo(rollouts=4, **options):
    return make_method("arpo", {"num_initial_rollouts": 1, "branch_chance": 1.0, "entropy_slope": 0.0, **options},
                       num_generations=rollouts)  # fmt: skip


def test_every_turn_after_a_result_may_branch():
    tree, writer = tree_with_turns(*(rollout_with_turns(["a"]) for _ in range(2))), ScriptedWriter()
    assert arpo().expand([tree], writer) == [tree]
    # Once in the first turn after a result, then the budget is used up; a branch may be branched again.
    assert writer.calls("branch") == [([(0, 4), (1, 4)], EXPAND_STREAM + 1, True, True)]
    assert [(b.parent, b.branch_position) for b in tree.branches] == [(0, 4), (1, 4)]


def test_what_is_left_of_the_budget_becomes_fresh_rollouts():
    tree, writer = tree_with_turns(rollout_with_turns(["a"])), ScriptedWriter()
    arpo(branch_chance=0.0).expand([tree], writer)
    assert writer.points == [(0, 0)] * 3
    assert writer.calls("branch")[-1] == ([(0, 0)] * 3, EXPAND_STREAM, True, True)
    assert len(tree.rollouts) == 4


def test_rollouts_without_results_are_written_afresh():
    trees, writer = [make_tree([0.0]), make_tree([0.0])], ScriptedWriter()
    arpo(rollouts=2).expand(trees, writer)
    assert writer.calls("branch") == [([(0, 0), (0, 0)], EXPAND_STREAM, True, True)]
    assert [len(tree.rollouts) for tree in trees] == [2, 2]


def test_it_goes_on_turn_by_turn_into_its_own_branches():
    def end(rollout):  # each branch calls once more
        later = rollout_with_turns(["b"])
        for call in later.tool_calls:
            shift = len(rollout.completion_ids)
            call.result_start, call.result_end = call.result_start + shift, call.result_end + shift
            rollout.tool_calls.append(call)
        rollout.append([5, 6], [-1.0] * 2)
        rollout.append([7, 7], None)
        rollout.append([8, 8], [-1.0] * 2)

    tree, writer = tree_with_turns(rollout_with_turns(["a"])), ScriptedWriter(end)
    arpo().expand([tree], writer)
    # The initial rollout has one result. Its branch at 4 has another, up to 8, and so on: turns are each one's own.
    assert [call[0] for call in writer.calls("branch")] == [[(0, 4)], [(1, 8)], [(2, 12)]]
    assert [call[1] for call in writer.calls("branch")] == [EXPAND_STREAM + turn for turn in (1, 2, 3)]


def test_a_branch_is_not_branched_again_where_it_began():
    tree, writer = tree_with_turns(rollout_with_turns(["a", "b"])), ScriptedWriter()
    arpo().expand([tree], writer)
    # Turn 1: the rollout. Turn 2: the rollout again; its branches end before they call. Then one is left.
    assert [call[0] for call in writer.calls("branch")] == [[(0, 4)], [(0, 8)], [(0, 0)]]


def test_no_more_branches_than_there_is_room_for():
    tree, writer = tree_with_turns(*(rollout_with_turns(["a"]) for _ in range(3))), ScriptedWriter()
    arpo().expand([tree], writer)
    assert writer.points == [(0, 4)]


def test_a_full_task_is_left_alone_while_others_are_filled():
    full = tree_with_turns(*(rollout_with_turns(["a"]) for _ in range(2)))
    other, writer = tree_with_turns(rollout_with_turns(["a"])), ScriptedWriter()
    arpo(rollouts=2).expand([full, other], writer)
    assert (len(full.rollouts), len(other.rollouts)) == (2, 2)
    assert [(b.parent, b.branch_position) for b in other.branches] == [(0, 4)]


def test_a_result_at_the_very_end_leaves_nothing_to_redraw():
    tree, writer = tree_with_turns(rollout_with_turns(["a"], last=0)), ScriptedWriter()
    arpo(rollouts=2).expand([tree], writer)
    assert writer.points == [(0, 0)]


def test_a_turn_branches_the_likelier_the_more_its_entropy_has_risen():
    # With a base of 0 and a slope of 1 the chance is the rise in shares of log(vocabulary): all of it, and nothing.
    uncertain, sure = rollout_with_turns(["a"]), rollout_with_turns(["a"])
    high = math.log(100)

    def entropy(rollout):
        first = 0.0 if rollout is uncertain else high
        return [first, first, NAN, NAN, high, high][: len(rollout.completion_ids)]

    tree, writer = tree_with_turns(sure, uncertain), ScriptedWriter(entropy=entropy)
    arpo(branch_chance=0.0, entropy_slope=1.0).expand([tree], writer)
    assert writer.points == [(1, 4), (0, 0)]


def test_the_chance_is_drawn_for_each_turn():
    trees, writer = [tree_with_turns(rollout_with_turns(["a"])) for _ in range(40)], ScriptedWriter()
    arpo(rollouts=2, branch_chance=0.5).expand(trees, writer)
    generator = torch.Generator().manual_seed(EXPAND_STREAM)
    drawn = [torch.rand((), generator=generator).item() < 0.5 for _ in range(40)]
    assert [tree.branches[0].branch_position == 4 for tree in trees] == drawn
    assert 10 < sum(drawn) < 30


def test_the_first_turn_is_measured_from_its_first_token():
    # The first turn has log(100) and 0, on average half of it; the second 0: chance 1 - 2 x 0.5 = 0. From its second
    # token on it would have 0, and a chance of 1.
    high = math.log(100)
    trees = [tree_with_turns(rollout_with_turns(["a"])) for _ in range(20)]
    writer = ScriptedWriter(entropy=lambda r: [high, 0.0, NAN, NAN, 0.0, 0.0][: len(r.completion_ids)])
    arpo(rollouts=2, branch_chance=1.0, entropy_slope=2.0).expand(trees, writer)
    assert {position for _, position in writer.points} == {0}


def test_what_it_scores_while_writing_is_remembered():
    tree, writer = tree_with_turns(rollout_with_turns(["a"])), ScriptedWriter()
    arpo(branch_chance=0.0).expand([tree], writer)
    assert writer.calls("score") == [(1, True), (1, True)]


# ---- credit ----


def advantages(tree, **options):
    return arpo(**options).credit([tree], make_scores([tree], "all")).advantages_BT


def test_softly_every_rollout_keeps_its_own_advantage():
    # 1, 0, 0: mean 1/3, std sqrt(2)/3.
    found = advantages(make_tree([1.0, 0.0], [(0, 2, 0.0)]))
    torch.testing.assert_close(found, torch.tensor([[2.0] * 4, [-1.0] * 4, [-1.0] * 4]) / 2**0.5)


def test_hard_shared_tokens_have_the_mean_of_their_rollouts():
    high, low = 2**0.5, -(2**-0.5)
    shared = (high + low) / 2
    found = advantages(make_tree([1.0, 0.0], [(0, 2, 0.0)]), shared_prefix="hard")
    expected = [[shared, shared, high, high], [low] * 4, [shared, shared, low, low]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_softly_the_scored_rollouts_of_the_task_are_compared():
    # 1, 0, 0: mean 1/3, standard deviation sqrt(2)/3.
    expected = torch.tensor([2**0.5, 0.0, -(2**-0.5), -(2**-0.5)])
    found = advantages(make_tree([1.0, None, 0.0], [(1, 2, 0.0)]))
    torch.testing.assert_close(found, expected[:, None].expand(-1, 4))


def test_hard_shared_tokens_have_the_mean_of_the_scored_rollouts():
    found = advantages(make_tree([1.0, None], [(1, 2, 0.0)]), shared_prefix="hard")
    expected = torch.tensor([[1.0] * 4, [-1.0, -1.0, 0.0, 0.0], [-1.0] * 4])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shared_prefix", ["soft", "hard"])
@pytest.mark.parametrize("reward", [0.1, None])
def test_a_task_without_spread_gives_no_signal(shared_prefix, reward):
    tree = make_tree([reward] * 2, [(0, 2, reward), (1, 2, reward)])
    assert not advantages(tree, shared_prefix=shared_prefix).any()


def test_trees_of_a_mini_batch_are_credited_apart():
    one, two = make_tree([1.0, 0.0], [(0, 2, 0.0)]), make_tree([0.0, 5.0])
    both = arpo().credit([one, two], make_scores([one, two], "all")).advantages_BT
    torch.testing.assert_close(both, torch.cat([advantages(one), advantages(two)]))
    torch.testing.assert_close(both[3:, 0], torch.tensor([-1.0, 1.0]))


def test_shared_tokens_carry_loss_in_every_rollout_that_has_them():
    tree = make_tree([1.0, 0.0], [(0, 2, 0.0)])
    credit = arpo().credit([tree], make_scores([tree], "all"))
    assert credit.loss_mask_BT.tolist() == [[1] * 4, [1] * 4, [1, 1, 1, 0]]


# ---- settings ----


def test_half_of_the_rollouts_are_written_first_unless_told_otherwise():
    assert [make_method("arpo", num_generations=count).num_initial for count in (16, 5, 1)] == [8, 2, 1]
    assert make_method("arpo", {"num_initial_rollouts": 3}).num_initial == 3


def test_what_it_needs():
    assert make_method("arpo").needs == Needs(trains="all", shared_tokens=True, one_process=True)


@pytest.mark.parametrize("count", [0, 5])
def test_initial_rollouts_are_some_of_the_task(count):
    sentence = f"num_initial_rollouts must lie between 1 and num_generations = 4, got {count}"
    with pytest.raises(UserError, match=sentence):
        make_method("arpo", {"num_initial_rollouts": count})


@pytest.mark.parametrize("options", [{"branch_chance": 1.5}, {"branch_chance": -0.1}, {"entropy_slope": math.nan}])
def test_chances_are_chances(options):
    with pytest.raises(UserError, match=f"method_args: {next(iter(options))} must"):
        make_method("arpo", options)
