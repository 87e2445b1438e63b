"""Ceilings by hand: what is credited when the truth is known, and where branches start."""

import torch
from method_parts import ScriptedWriter, make_method, make_scores, make_tree

from appo.rollout.decisions import Decision

MODULE = "appo.research.ceilings"


def ceiling(name, options=None, **settings):
    return make_method(f"{MODULE}:{name}", options, **settings)


def judge_of(*decisions):
    """Says the same of every rollout, the advantage times the skill."""

    def judge(row, rollout, skill):
        return [Decision(position, advantage * skill, advantage >= 0) for position, advantage in decisions]

    return judge


def test_known_blame_is_at_wrong_decisions_of_failures_alone():
    method = ceiling("KnownBlame", {"blame": 0.3})
    method.judge = judge_of((0, 0.5), (2, -0.5))
    tree = make_tree([1.0, 0.0])
    advantages = method.base_advantages([tree], make_scores([tree]))
    assert torch.equal(advantages, torch.tensor([[1.0, 1, 1, 1], [0, 0, -0.3, 0]]))


def test_known_advantages_are_scaled_and_hold_what_is_no_decision_of_a_success():
    method = ceiling("KnownAdvantages", {"scale": 2.0})
    method.judge = judge_of((0, 0.5), (2, -0.5))
    tree = make_tree([1.0, 0.0])
    advantages = method.base_advantages([tree], make_scores([tree]))
    # Half of the decisions are right, two of four: (2 + 1) / (4 + 2), and 2 * 0.5 * 0.5 = 0.5.
    assert torch.equal(advantages, torch.tensor([[0.5, 1, -0.5, 1], [0.5, 0, -0.5, 0]]))


def branched(rewards, start, end=None, **options):
    size = len(rewards)
    options.update(num_initial_rollouts=size, start=start)
    method = ceiling("BranchedRAFT", options, num_generations=2 * size)
    tree, writer = make_tree(rewards, length=8), ScriptedWriter(*[end] if end else [])
    return method, tree, writer


def test_branches_start_at_the_first_wrong_decision_of_failures():
    method, tree, writer = branched([1.0, 0.0, 0.0], "wrong")
    method.judge = judge_of((1, 0.5), (3, -0.5), (6, -0.5))
    method.expand([tree], writer)
    # Three branches for two failures: one of them, drawn, gets two.
    assert sorted(set(writer.points)) == [(1, 3), (2, 3)] and len(writer.points) == 3


def places(start):
    method, tree, writer = branched([0.0] * 40, start)
    method.expand([tree], writer)
    assert sorted(rollout for rollout, _ in writer.points) == list(range(40))
    return {position for _, position in writer.points}


def test_other_starts_are_any_token_one_of_the_second_half_or_the_first():
    assert places("random") == set(range(8))
    assert places("late") == {4, 5, 6, 7}
    assert places("root") == {0}


def test_nothing_is_branched_where_all_succeed():
    method, tree, writer = branched([1.0, 1.0], "random")
    method.expand([tree], writer)
    assert writer.points == [] and len(tree.rollouts) == 2


def test_a_prefix_that_successful_branches_share_is_trained_once():
    method, *_ = branched([0.0, 1.0], "random")
    tree = make_tree([0.0, 1.0], [(0, 1, 1.0), (0, 3, 1.0), (0, 2, 0.0), (0, 2, 1.0)])
    advantages = method.base_advantages([tree], make_scores([tree], "all"))
    assert advantages.tolist() == [
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],  # its prefix of one token is trained here
        [0, 1, 1, 1],  # .. and two more of the parent's tokens here
        [0, 0, 0, 0],
        [0, 0, 1, 1],
    ]


def test_the_contrast_is_at_the_token_in_whose_place_a_branch_succeeded():
    method, *_ = branched([0.0, 0.0], "random", contrast=0.5)
    tree = make_tree([0.0, 0.0], [(0, 1, 1.0), (1, 2, 0.0)])
    advantages = method.base_advantages([tree], make_scores([tree], "all"))
    assert advantages[:2].tolist() == [[0, -0.5, 0, 0], [0, 0, 0, 0]]
