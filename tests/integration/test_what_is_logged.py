"""What a training run logs and records, and what an evaluation within it leaves alone."""

import json
import math

import pytest
from recorded import recorded
from training_parts import make_trainer
from transformers import TrainerCallback

from appo.cli.main import main
from appo.environments import kinship
from appo.evaluation import evaluate
from appo.rollout.records import read_records


def test_every_metric_of_the_readme_is_logged(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    last = trainer.state.log_history[1]
    for name in (
        "success", "reward/initial", "reward/branches", "branch/tokens", "branch/position", "branch/in_think",
        "branch/in_call", "branch/in_answer", "omega/mean", "omega/std", "omega/clipped", "groups_without_signal",
        "tools/calls_per_rollout", "tools/failures_per_rollout", "tokens/generated", "tokens/trained", "entropy",
        "time/generate", "time/score", "time/branch", "time/tools", "time/train",
        "tools/search/calls", "tools/search/failures", "tools/search/timeouts", "time/tools/search",
    ):  # fmt: skip
        assert name in last, name
        assert math.isfinite(last[name]), name


def test_records_hold_whole_trees(tmp_path):
    make_trainer(tmp_path).train()
    records = list(read_records(tmp_path))
    assert {r["step"] for r in records} == {1, 2}
    tasks = {}
    for record in records:
        tasks.setdefault((record["step"], record["task"]), []).append(record)
    assert len(tasks) == 4  # two tasks in each of two mini-batches
    for group in tasks.values():
        assert len(group) == 8
        assert [r["parent"] is None for r in group] == [True] * 4 + [False] * 4
        for record in group[4:]:
            parent, at = group[record["parent"]], record["branch_position"]
            assert record["completion_ids"][:at] == parent["completion_ids"][:at]
            assert parent["policy_mask"][at] == 1


def test_records_are_printed_as_json_without_nan(tmp_path, capsys):
    make_trainer(tmp_path).train()
    capsys.readouterr()  # the log
    assert main(["records", str(tmp_path), "--jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * 8
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in records"))


def test_evaluation_logs_success_and_leaves_training_alone(tmp_path):
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=8, num_generations_eval=1, max_steps=2)
    trainer.eval_dataset = kinship.make_dataset(16, seed=4)
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_success"] <= 1
    trainer.train()
    alone = make_trainer(tmp_path / "alone", max_steps=2)
    alone.train()
    assert recorded(tmp_path) == recorded(tmp_path / "alone") != {}


class Measuring(TrainerCallback):
    """Evaluates after each step, in TRL's way and in ours."""

    trainer = None

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = True
        evaluate(self.trainer, kinship.make_dataset(5, seed=5), 4)


def test_totals_are_of_training_alone_whoever_evaluates(tmp_path):
    trainer = make_trainer(tmp_path / "measured", per_device_eval_batch_size=8, num_generations_eval=1)
    trainer.eval_dataset = kinship.make_dataset(8, seed=4)
    callback = Measuring()
    callback.trainer = trainer
    trainer.add_callback(callback)
    trainer.train()
    assert sum("eval_success" in entry for entry in trainer.state.log_history) == 2
    alone = make_trainer(tmp_path / "alone")
    alone.train()
    totals = trainer.counters.totals()
    assert totals == alone.counters.totals()
    # Two updates of two tasks: 4 initial rollouts and 4 branches each. Branches write what is behind their prefix.
    records = list(read_records(tmp_path / "measured"))
    assert totals["rollouts/generated"] == len(records) == 2 * 2 * 8
    written = sum(sum(record["policy_mask"][record["branch_position"] or 0 :]) for record in records)
    assert totals["tokens/generated"] == written
    assert [e["tokens/generated"] for e in trainer.state.log_history if "tokens/generated" in e][-1] == written


def test_same_seed_same_records(tmp_path):
    for run in ("a", "b"):
        make_trainer(tmp_path / run, max_steps=3).train()
    a, b = (recorded(tmp_path / run) for run in ("a", "b"))
    assert a == b and len(a) == 3
    make_trainer(tmp_path / "c", max_steps=3, seed=43).train()
    assert recorded(tmp_path / "c") != a


def test_gradient_checkpointing_and_completion_tables_work(tmp_path):
    trainer = make_trainer(tmp_path, gradient_checkpointing=True, log_completions=True)
    trainer.train()
    assert list((tmp_path / "completions").glob("*.parquet"))
