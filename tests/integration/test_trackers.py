"""Traces in trackers: what a trainer hands over, and what real trackers have of it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from training_parts import make_searching_trainer

import appo.report.trainer
from appo.rollout.records import read_records

# A training that reports to a tracker, in a process of its own: a tracker reads its settings when it is imported.
TRAINING = """
import sys
from transformers.integrations import TrackioCallback, WandbCallback
from training_parts import make_searching_trainer

directory, name = sys.argv[1:]
trainer = make_searching_trainer(directory)
trainer.args.report_to, trainer.args.project, trainer.args.run_name = [name], "appo-tests", "run"
trainer.add_callback({"trackio": TrackioCallback, "wandb": WandbCallback}[name])
trainer.evaluate(trainer.train_dataset)  # no run is open yet, or any more, for what TRL times there
trainer.train()
trainer.evaluate(trainer.train_dataset)
"""
READING = """
import json
from trackio.sqlite_storage import SQLiteStorage

print(json.dumps(SQLiteStorage.get_traces("appo-tests", "run")))
"""


def train(directory, name, **environment):
    """Trains for two updates; returns what each trained rollout is recorded with, by (step, task, rollout)."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-c", TRAINING, str(directory / "run"), name]
    environment = {**os.environ, **environment, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = list(read_records(directory / "run"))
    return {(r["step"], r["task"], r["rollout"]): mean_advantage(r) for r in records if r["advantages"] is not None}


def mean_advantage(record):
    values = [value for value in record["advantages"] if value is not None]
    return sum(values) / len(values)


def close(found, recorded):
    """Whether both have the same rollouts, with the same advantages; records keep five digits."""
    return found == pytest.approx(recorded, rel=1e-4) and len(found) == 16  # two updates, two tasks, four rollouts


@pytest.fixture
def handed_over(monkeypatch):
    """(step, traces) of each time that a trainer logged to W&B, in whose place TRL logs nothing without a run."""
    seen = []
    monkeypatch.setattr(appo.report.trainer, "log_to_wandb", lambda traces, step: seen.append((step, traces)))
    return seen


def test_each_log_hands_over_its_own_updates_rollouts(tmp_path, handed_over):
    trainer = make_searching_trainer(tmp_path)
    trainer.args.report_to = ["wandb"]
    trainer.train()
    found = {
        (step, trace.metadata["task"], trace.metadata["rollout"]): trace.metadata["advantage"]
        for step, traces in handed_over
        for trace in traces
    }
    records = [record for record in read_records(tmp_path) if record["advantages"] is not None]
    assert close(found, {(r["step"], r["task"], r["rollout"]): mean_advantage(r) for r in records})
    branches = [branch for _, traces in handed_over for trace in traces for branch in trace.metadata["branches"]]
    assert len(branches) == 16  # one of each rollout


def test_the_last_update_before_a_log_is_handed_over_even_without_records(tmp_path, handed_over):
    trainer = make_searching_trainer(tmp_path, logging_steps=2, traces_per_log=3, save_records=False)
    trainer.args.report_to = ["wandb"]
    trainer.train()
    ((step, traces),) = handed_over
    assert (step, len(traces)) == (2, 3)


@pytest.mark.parametrize(("report_to", "most"), [([], 16), (["wandb"], 0)])
def test_nothing_is_handed_over_unless_asked_for(tmp_path, handed_over, report_to, most):
    trainer = make_searching_trainer(tmp_path, traces_per_log=most)
    trainer.args.report_to = report_to
    trainer.train()
    assert handed_over == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed: pip install 'appo[trackio]'")
def test_trackio_has_the_rollouts_as_traces(tmp_path):
    recorded = train(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run([sys.executable, "-c", READING], env=environment, check=True, capture_output=True, text=True)
    traces = json.loads(done.stdout.splitlines()[-1])
    facts = [(trace["step"], trace["metadata"]) for trace in traces]
    assert close({(step, fact["task"], fact["rollout"]): fact["advantage"] for step, fact in facts}, recorded)
    assert all(trace["messages"][0]["role"] == "user" and trace["spans"] for trace in traces)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed: pip install 'appo[wandb]'")
def test_wandb_has_the_rollouts_as_a_table(tmp_path):
    recorded = train(tmp_path, "wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    tables = [json.loads(path.read_text()) for path in tmp_path.rglob("media/table/rollouts_*.table.json")]
    rows = [dict(zip(table["columns"], row, strict=True)) for table in tables for row in table["data"]]
    assert close({(row["step"], row["task"], row["rollout"]): row["advantage"] for row in rows}, recorded)
