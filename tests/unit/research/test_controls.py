"""Controls of a branching claim: they rank by what no method may know, by hand and with a scripted writer."""

import pytest
import torch
from method_parts import ScriptedWriter, add_branch, make_method, make_scores, make_tree

from appo.errors import UserError
from appo.methods import Needs
from appo.methods.base import EXPAND_STREAM

MODULE = "appo.research.controls"
LENGTH = 8
PAIR = {"num_initial_rollouts": 2, "num_branch_points": 1, "branching": "entropy"}


def control(name, options=PAIR, **settings):
    return make_method(f"{MODULE}:{name}", options, **settings)


def fill(reward):
    """Writes to the end, with a reward that depends on where the branch began."""

    def end(rollout):
        start = len(rollout.completion_ids)
        rollout.append([90] * (LENGTH - start), [-1.0] * (LENGTH - start))
        rollout.reward = reward(start)

    return end


# ---- the oracle ----


def test_the_oracle_branches_at_true_decisions():
    method = control("OracleBranching")
    method.decisions = lambda rollout: [5] if rollout.reward else [2]
    tree, writer = make_tree([1.0, 0.0], length=LENGTH), ScriptedWriter(fill(float))
    # Whatever the entropies say.
    method.branch([tree], make_scores([tree], entropies=[[9.0] + [0.0] * 7]), writer)
    assert writer.points == [(0, 5), (1, 2)]


def test_without_decisions_the_oracle_branches_at_random():
    method, places = control("OracleBranching"), set()
    method.decisions = lambda rollout: []
    for seed in range(8):
        tree, writer = make_tree([1.0, 0.0], length=LENGTH), ScriptedWriter(fill(float))
        writer.generator = lambda stream, seed=seed: torch.Generator().manual_seed(seed)
        method.branch([tree], make_scores([tree], entropies=[[9.0] + [0.0] * 7]), writer)
        places |= {position for _, position in writer.points}
    assert len(places) > 3


def test_decisions_are_those_of_each_rollout_of_each_task():
    method = control("OracleBranching")
    trees = [make_tree([1.0, 2.0], length=LENGTH), make_tree([3.0, 4.0], length=LENGTH)]
    method.decisions = lambda rollout: [int(rollout.reward)]
    writer = ScriptedWriter(fill(float))
    method.branch(trees, make_scores(trees), writer)
    assert writer.points == [(0, 1), (1, 2), (0, 3), (1, 4)]


def test_what_the_oracle_needs():
    assert control("OracleBranching").needs == Needs(current_scores=True, decisions=True)


# ---- outcome variance ----


def test_branches_start_where_the_rewards_of_continuations_differ_most():
    rewards = iter([1.0, 1.0, 1.0, 0.0, 1.0, 0.0] + [1.0] * 12 + [0.0] * 18)

    def end(rollout):
        fill(lambda start: next(rewards, 0.0))(rollout)

    tree, writer = make_tree([1.0, 0.0], length=LENGTH), ScriptedWriter(end)
    method = control("OutcomeVariance")
    scores_BT = method.known_scores([tree], make_scores([tree]), writer)
    # Six of eight tokens, evenly spaced, three continuations each; 0, 1, 0 has the mean 1/3 and variance 2/9.
    candidates = [0, 1, 2, 4, 5, 6]
    ((points, stream, branches_branch, counted),) = writer.calls("branch")
    assert points == [(row, position) for row in (0, 1) for position in candidates for _ in range(3)]
    assert (stream, branches_branch, counted) == (EXPAND_STREAM, False, False)
    expected = torch.zeros(2, LENGTH)
    expected[0, 1] = 2 / 9
    torch.testing.assert_close(scores_BT, expected)
    assert not tree.branches


def test_the_continuations_are_thrown_away_and_the_best_place_is_branched_at():
    # Every third continuation of token 4 fails, and none of any other.
    count = iter(range(10_000))
    end = fill(lambda start: float(start != 4 or next(count) % 3 > 0))
    tree, writer = make_tree([1.0, 0.0], length=LENGTH), ScriptedWriter(end)
    control("OutcomeVariance").branch([tree], make_scores([tree]), writer)
    assert [(b.parent, b.branch_position) for b in tree.branches] == [(0, 4), (1, 4)]
    assert [counted for *_, counted in writer.calls("branch")] == [False, True]


def test_branches_of_an_earlier_pass_are_none_of_the_samples():
    method, found = control("OutcomeVariance"), []
    for stale in (False, True):
        tree = make_tree([1.0, 0.0], length=LENGTH)
        if stale:
            add_branch(tree, 0, 0, 100.0)
        scores = make_scores([tree])
        found.append(method.known_scores([tree], scores, ScriptedWriter(fill(lambda start: float(start)))))
        assert not tree.branches
    assert torch.equal(*found)


def test_outcomes_vary_among_scored_continuations_only():
    count = iter(range(10_000))
    end = fill(lambda start: (None, 1.0)[next(count) % 2])
    tree = make_tree([1.0, 0.0], length=LENGTH)
    assert not control("OutcomeVariance").known_scores([tree], make_scores([tree]), ScriptedWriter(end)).any()


def test_short_rollouts_are_tried_at_every_token():
    tree, writer = make_tree([1.0, 0.0], length=2), ScriptedWriter()
    control("OutcomeVariance").known_scores([tree], make_scores([tree]), writer)
    assert writer.points == [(row, position) for row in (0, 1) for position in (0, 1) for _ in range(3)]


# ---- weights ----


def test_decisions_count_in_full_and_all_else_by_the_floor():
    method = control("DecisionWeights", {"weight_floor": 0.25})
    method.decisions = lambda rollout: [1, 3] if rollout.reward else []
    trees = [make_tree([1.0, 0.0])]
    credit = method.credit(trees, make_scores(trees))
    torch.testing.assert_close(credit.advantages_BT, torch.tensor([[0.25, 1.0, 0.25, 1.0], [-0.25] * 4]))
    assert list(credit.factors) == ["token_weight"]
    assert method.needs == Needs(decisions=True)


# ---- settings ----


@pytest.mark.parametrize("name", ["OracleBranching", "OutcomeVariance"])
def test_a_control_without_its_setting_is_refused(name):
    with pytest.raises(UserError, match="set branching to 'entropy' in method_args, got 'branching_score'"):
        control(name, {"num_initial_rollouts": 2, "num_branch_points": 1})


def test_two_kinds_of_token_weights_are_refused():
    with pytest.raises(UserError, match="leave token_weight at 'uniform'"):
        control("DecisionWeights", {"token_weight": "fork"})
