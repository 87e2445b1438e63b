"""Where successes come from, counted by hand."""

import math

import pytest
import torch
from method_parts import make_tree

from appo.research.successes import best, described, ratio, read_flags


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
