"""A small report keeps whole tasks, evenly over the updates, and the figures of all of them."""

import numpy as np
import pytest
from report_parts import parts_of_run, read_index, read_pack, record, write_run

from appo.report.html.sampling import among, chosen_trees
from appo.report.html.write import write_report


@pytest.fixture
def run(tmp_path):
    """10 updates of 6 trees of 2 rollouts."""
    updates = [
        [record(n, n * 1.0, step=step, task=f"{step}.{task}", base=0.5) for task in range(6) for n in range(2)]
        for step in range(1, 11)
    ]
    return write_run(
        tmp_path / "run",
        *updates,
        evaluations={"before": [record(n, task=f"e{task}") for task in range(6) for n in range(2)]},
    )


@pytest.mark.parametrize(("rollouts", "trees", "per_step"), [(40, 20, {2}), (4, 2, {1}), (1, 1, {1}), (9999, 60, {6})])
def test_about_as_many_rollouts_as_wanted_are_spread_over_the_updates(run, rollouts, trees, per_step):
    chosen = chosen_trees(run, "train", rollouts)
    assert len(chosen) == trees
    steps = [step for step, _ in chosen]
    assert {steps.count(step) for step in steps} == per_step


def test_few_trees_are_of_the_first_and_the_last_update(run):
    assert {step for step, _ in chosen_trees(run, "train", 4)} == {1, 10}


def test_the_same_trees_are_chosen_every_time(run):
    assert chosen_trees(run, "train", 40) == chosen_trees(run, "train", 40)


def test_all_rollouts_of_a_tree_are_kept(run):
    chosen = chosen_trees(run, "train", 2)
    kept = np.concatenate([among(part, chosen) for part in parts_of_run(run)])
    assert kept.sum() == 2


def test_figures_are_of_the_whole_run_and_rollouts_of_the_sample(run):
    whole, part = (read_pack(write_report(run, sample=sample))["runs"][0] for sample in (None, 20))
    index = read_index(part)
    assert (index["kind"] == 0).sum() == 16
    assert (index["kind"] == 1).sum() == 4  # a fifth of 20
    assert part["summary"]["sampled"] == part["index"]["n"] == 20
    assert whole["summary"]["sampled"] is None
    for name in ("num_rollouts", "num_tokens", "num_steps", "series", "evaluations", "gain"):
        assert part["summary"][name] == whole["summary"][name]
    assert part["atlas"] == whole["atlas"]
    checks = [{k: v for k, v in one["summary"]["credit_check"].items() if k != "samples"} for one in (whole, part)]
    assert checks[0] == checks[1]


def test_a_run_without_evaluations_gives_all_of_a_sample_to_training(tmp_path):
    trees = [record(n, task=f"{task}") for task in range(6) for n in range(2)]
    found = read_pack(write_report(write_run(tmp_path, trees), sample=10))["runs"][0]
    assert found["summary"]["sampled"] == 10


def test_the_check_of_a_sample_names_rollouts_that_are_in_it(run):
    found = read_pack(write_report(run, sample=4))["runs"][0]
    samples = found["summary"]["credit_check"]["samples"]
    assert {rollout for rollout, _, _ in samples} == {0, 1, 2, 3}


def test_a_run_without_records_of_a_kind_has_nothing_to_choose(tmp_path):
    assert chosen_trees(write_run(tmp_path, [record()]), "evaluation", 10) == set()
