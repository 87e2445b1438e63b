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


def test_known_blame_is_not_for_what_was_not_scored():
    method = ceiling("KnownBlame")
    method.judge = judge_of((2, -0.5))
    tree = make_tree([None, 0.0])
    advantages = method.base_advantages([tree], make_scores([tree]))
    assert torch.equal(advantages, torch.tensor([[0.0, 0, 0, 0], [0, 0, -1, 0]]))


def test_the_skill_counts_one_decision_more_on_either_side():
    method = ceiling("KnownAdvantages")
    method.judge = judge_of((0, 1.0))
    tree = make_tree([0.0, 0.0])
    # Two of two decisions are right: (2 + 1) / (2 + 2).
    assert method.base_advantages([tree], make_scores([tree]))[:, 0].tolist() == [0.75, 0.75]


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
