"""Where successes come from, counted by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from method_parts import ScriptedWriter, make_tree

from appo.research.successes import best, described, failures, ratio, read_flags, starts_of
from appo.rollout.decisions import Decision


def test_a_branch_pays_for_its_own_tokens_and_a_success_counts_once():
    tree = make_tree([0.0], [(0, 1, 1.0), (0, 1, 1.0), (0, 3, 0.0)])
    row = described(tree.branches, [7, 7, 7], solved=set(), success=1.0)
    # Two equal successes; three tokens written, each branch being one token long.
    assert row["written"] == 3 and row["tokens each"] == 1.0
    assert row["success"].mean == pytest.approx(2 / 3)
    assert row["successes per 1,000 tokens"].mean == pytest.approx(2000 / 3)
    assert row["distinct ones"].mean == pytest.approx(1000 / 3)
    assert row["tasks solved anew"].mean == pytest.approx(1000 / 3)


def test_a_task_that_was_solved_before_is_not_solved_anew():
    tree = make_tree([0.0], [(0, 1, 1.0)])
    assert described(tree.branches, [7], solved={7}, success=1.0)["tasks solved anew"].mean == 0.0


def test_a_ratio_of_sums_has_an_interval_over_tasks():
    sure, none = (
        ratio(torch.ones(20).numpy(), torch.full((20,), 4.0).numpy()),
        ratio(torch.ones(0).numpy(), torch.ones(0).numpy()),
    )
    assert (sure.mean, sure.low, sure.high, sure.count) == (0.25, 0.25, 0.25, 20)
    assert math.isnan(none.mean) and none.count == 0


def test_the_best_tokens_are_the_policys_and_come_again_where_there_are_too_few():
    scores_RT = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    assert best(scores_RT, torch.tensor([[1, 0, 1, 1]]), 4) == [[3, 2, 0, 3]]


def test_what_was_not_scored_is_no_failure():
    tree = make_tree([1.0, None, 0.0])
    assert failures([tree], success=1.0) == [(tree, 2)]


def test_starts_are_drawn_among_all_tokens_that_a_kind_of_start_allows():
    class Doubtful(ScriptedWriter):
        def score(self, rollouts, **options):
            batch, scores = super().score(rollouts, **options)
            scores.log_sum_sq_probs_BT = torch.full_like(scores.entropies_BT, -0.5)
            return batch, scores

    tree = make_tree([0.0], length=8)
    decided = [Decision(1, 0.5, True), Decision(4, -0.5, False), Decision(6, -0.5, False)]
    method = SimpleNamespace(judge=lambda row, rollout, skill: decided)
    starts = starts_of(SimpleNamespace(writer=Doubtful(), method=method), [(tree, 0)], 200)
    # 200 draws of one in eight miss one of them with a chance below 1e-10.
    assert {name: sorted(set(places)) for name, (places,) in starts.items()} == {
        "root": [0],
        "random": [0, 1, 2, 3, 4, 5, 6, 7],
        "late": [4, 5, 6, 7],
        "entropy": [0, 1, 2, 3, 4, 5, 6, 7],
        "fork weight": [0, 1, 2, 3, 4, 5, 6, 7],
        "first wrong decision": [4],
        "any decision": [1, 4, 6],
    }


def test_the_help_says_what_each_flag_is(capsys):
    with pytest.raises(SystemExit):
        read_flags(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "--model DIR the policy",
        "--questions N questions asked; default 64",
        "Other flags are the recipe's",
    ):
        assert part in said


def test_the_model_and_unknown_flags_are_the_recipes():
    options, overrides = read_flags(["r.yaml", "--model", "m", "--output", "o", "--seed", "3", "--branches", "2"])
    assert (options.recipe, options.branches, overrides) == ("r.yaml", 2, ["--seed", "3", "--model", "m"])
