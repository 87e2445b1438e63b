"""The pilot study: its numbers by hand, and one small run of everything on a model with random weights."""

import argparse
import math
from dataclasses import replace

import pytest
import torch

from appo.environments import kinship
from appo.environments.base import Task
from appo.research import pilot


def test_decision_variance_is_that_of_the_means_less_the_noise_in_them():
    assert pilot.variance_parts(torch.tensor([[1.0, 1.0], [0.0, 0.0]])) == pytest.approx((0.5, 0.5))
    # Means 1/2 and 1/2; within a draw the variance is 1/2, which two continuations turn into 1/4 in the mean.
    assert pilot.variance_parts(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx((-0.25, 0.25))


def test_decision_variance_is_unbiased():
    # Values 0.2 and 0.8 with equal chance: Var[Q] = 0.09, and the reward's is 1/4.
    generator = torch.Generator().manual_seed(0)
    value_NM1 = torch.randint(2, (4000, 4, 1), generator=generator) * 0.6 + 0.2
    rewards_NMK = (torch.rand(4000, 4, 4, generator=generator) < value_NM1).float()
    decision, outcome = torch.tensor([pilot.variance_parts(rewards) for rewards in rewards_NMK]).mean(dim=0).tolist()
    assert decision == pytest.approx(0.09, abs=0.005)
    assert outcome == pytest.approx(0.25, abs=0.005)


def test_pass_at_k_counts_the_choices_that_all_fail():
    rewards_MK = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    # First column: 3 of 4 draws fail, so 3 of 6 pairs; second column: all fail.
    assert [pilot.pass_at(rewards_MK, k, 1.0) for k in (1, 2, 4)] == pytest.approx([0.125, 0.25, 0.5])


def test_means_are_over_picks_and_intervals_over_rollouts():
    values = {(0, 0): 1.0, (0, 1): 2.0, (1, 2): 6.0}
    found = pilot.mean_over([[0, 1], [2], []], values)
    assert (found.mean, found.count) == (3.0, 3)
    # Two rollouts: both draws are the first, or both the second, in a quarter of the samples each.
    assert pilot.mean_over([[0], [2]], {(0, 0): 0.0, (1, 2): 1.0}) == pilot.Interval(0.5, 0.0, 1.0, 2)
    assert pilot.mean_over([[0, 1], [2]], dict.fromkeys(values, 2.0)) == pilot.Interval(2.0, 2.0, 2.0, 3)
    assert math.isnan(pilot.mean_over([[], []], {}).mean)


def test_rank_correlation_with_ties():
    assert pilot.spearman([1, 2, 3], [10, 20, 900]) == pytest.approx(1)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: 1.5 / sqrt(1.5 x 2).
    assert pilot.spearman([0.1, 0.1, 7], [1, 2, 3]) == pytest.approx(math.sqrt(0.75))
    assert math.isnan(pilot.spearman([1, 1], [1, 2]))


def test_distance_to_the_nearest_decision():
    distance_RT = pilot.distance_to([[1, 4], []], 6)
    assert distance_RT[0].tolist() == [1, 0, 1, 1, 0, 1]
    assert distance_RT[1].min() > 10**6


def test_kinds_of_tokens_are_the_tasks_but_for_decisions():
    words = ["well", "plan", "mother", "e3", "</think>", "<eos>"]
    assert pilot.kinds_of(words, [], kinship.TASK) == ["filler", "format", "name", "name", "format", "format"]
    assert pilot.kinds_of(words, [2], kinship.TASK)[1:4] == ["format", "decision", "name"]
    letters = Task(kinship.TASK.dataset, token_kinds=lambda words: [word[0] for word in words])
    assert pilot.kinds_of(words, [0], letters) == ["decision", "p", "m", "e", "<", "<"]
    assert pilot.kinds_of(words[:2], [1], Task(kinship.TASK.dataset)) == ["other", "decision"]


def test_a_task_that_leaves_tokens_without_a_kind_is_one_sentence():
    short = Task(kinship.TASK.dataset, token_kinds=lambda words: words[1:])
    with pytest.raises(ValueError, match="token_kinds of the task returned 2 kinds for 3 tokens; give one each"):
        pilot.kinds_of(["a", "b", "c"], [], short)


def test_tables_show_intervals():
    rows = pilot.tabulate("criterion", {"entropy": [[0], [1]]}, {"score": {(0, 0): 0.5, (1, 1): 0.5}})
    table = pilot.markdown({"Picks": rows})
    assert "| criterion | tokens | score |" in table
    assert "| entropy | 2 | 0.500 [0.500, 0.500] |" in table


def test_all_of_it_on_a_model_that_knows_nothing(tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = argparse.Namespace(
        model=str(tmp_path / "model"),
        task="kinship:LOUD",
        output=tmp_path,
        questions=2,
        tasks=1,
        max_length=12,
        rows=64,
        seed=0,
    )
    studied = pilot.move(options, updates=2, rate=1e-2, warm_up=0)
    assert [len(rollout.completion_ids) <= 12 for rollout in studied.rollouts] == [True, True]
    assert (studied.omega_RT == 1).all()  # without any reward the policy stays where it is
    told = []
    found = pilot.study_tokens(studied, 2, 2, lambda *stage: told.append(stage))
    assert [row["kind"] for row in found["Policy tokens by kind"]] == ["decision", "filler", "format", "name"]
    # Each stage tells where it stands, from nothing to all of it.
    for name in ("tokens swapped", "tokens drawn anew"):
        parts = [(done, total) for stage, done, total in told if stage == name]
        assert parts[0][0] == 0 and parts[-1][0] == parts[-1][1] > 0 and parts == sorted(parts)
    tables = {**found, "Omega": [pilot.describe_omega(studied)]}
    picks = {row["criterion"]: row["tokens"] for row in tables["What the picks decide"]}
    # It plans nothing, so that there are no decisions; the other criteria always find tokens.
    assert picks["true decision"] == picks["just before"] == 0
    assert picks["branching score"] == picks["entropy"] == 6
    pilot.draw(tables, tmp_path / "pilot.png")
    assert (tmp_path / "pilot.png").stat().st_size > 0


def test_what_no_reward_function_scored_is_no_failure(tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = {"questions": 3, "tasks": 1, "max_length": 12, "rows": 64, "seed": 0}
    options = argparse.Namespace(model=str(tmp_path / "model"), task="kinship:LOUD", output=tmp_path, **sizes)
    studied = pilot.move(options, updates=1, rate=1e-2, warm_up=0)
    for rollout, reward in zip(studied.rollouts, (1.0, None, 0.0), strict=True):
        rollout.reward = reward
    studied.look_back(replace(kinship.LOUD, decision_positions=lambda words: []))
    assert (studied.failed, studied.success) == ([False, False, True], 0.5)
    # A pick whose continuations have no reward says nothing about what it decides.
    studied.trainer.reward_funcs = [lambda completions, **kwargs: [None] * len(completions)]
    studied.trainer.reward_func_names = ["none"]
    tables = pilot.study_tokens(studied, draws=2, repeats=2)
    assert {row["tokens"] for row in tables["What the picks decide"]} == {0}
