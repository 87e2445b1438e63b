"""`appo records RUN`: a run's records for people."""

import json
import math

import pytest

from appo.cli.main import main
from appo.files import append_lines
from appo.rollout.records import RecordWriter


@pytest.fixture
def run(tmp_path):
    writer = RecordWriter(tmp_path / "run" / "records", {}, None)
    for step in (1, 3):
        row = {"step": step, "task": "0", "rollout": 0, "completion_ids": [5, 6, 7], "policy_mask": [1, 1, 0]}
        scores = {"omega": [0.123456789, math.nan, 1.0], "factors": {"base": [0.123456789, 1.0, None]}}
        writer.append(step, [{**row, **scores, "reward": 0.123456789}] * step)
    writer.append_evaluation("before", [{**row, "step": 0, "reward": math.nan}])
    return str(tmp_path / "run")


def lines(capsys):
    return [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]


def test_lines_have_five_digits_per_token_and_no_nan(run, capsys):
    assert main(["records", run, "--jsonl", "--step", "3"]) == 0
    found = lines(capsys)
    assert [record["step"] for record in found] == [3, 3, 3]
    assert found[0]["omega"] == [0.12346, None, None]
    assert found[0]["factors"] == {"base": [0.12346, 1.0, None]}
    assert found[0]["reward"] == 0.123456789


def test_evaluations_are_asked_for(run, capsys):
    assert main(["records", run, "--jsonl", "--kind", "evaluation"]) == 0
    (record,) = lines(capsys)
    assert (record["kind"], record["reward"]) == ("evaluation", None)


def test_the_summary_counts(run, capsys):
    assert main(["records", run]) == 0
    out = capsys.readouterr().out
    assert "(3 files, " in out
    assert "updates     2 (1 to 3)" in out
    assert "train       4 rollouts, 12 tokens, 8 of them by the policy" in out
    assert "evaluation  1 rollouts, 3 tokens, 2 of them by the policy" in out


def test_an_older_run_is_told_too(tmp_path, capsys):
    append_lines(tmp_path / "records.jsonl", [{"step": 1, "completion_ids": [5], "policy_mask": [1]}])
    assert main(["records", str(tmp_path)]) == 0
    assert "train       1 rollouts, 1 tokens, 1 of them by the policy" in capsys.readouterr().out


def test_a_directory_without_records_is_one_sentence(tmp_path, capsys):
    assert main(["records", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"appo: {tmp_path} holds no records") and error.count("\n") == 1
