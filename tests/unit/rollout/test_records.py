"""A run's records as Parquet: what comes back, and what kills, restarts and several processes leave."""

import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appo.environments import kinship
from appo.errors import UserError
from appo.files import append_lines
from appo.rollout import records
from appo.rollout.record_columns import CALL, FIXED
from appo.rollout.record_files import record_files
from appo.rollout.records import RecordWriter, read_meta, read_records, read_vocabulary
from appo.rollout.types import ToolCall


def record(step=1, **values):
    return {
        "step": step,
        "task": "0",
        "rollout": 0,
        "completion_ids": [5, 6, 7, 8],
        "policy_mask": [1, 1, 0, 1],
        **values,
    }


FULL = {
    "kind": "train", "step": 3, "task": "7", "rollout": 1, "parent": 0, "branch_position": 2, "branch_score": 0.1,
    "branch_rank": 1, "alternatives": [[5, -0.1], [9, -2.5]],
    "row": {"answer": "four", "extra": {"a": [1, None]}}, "prompt": [{"role": "user", "content": "2 + 2?"}],
    "completion_ids": [5, 6, 7, 2**31 - 1], "policy_mask": [1, 1, 0, 1], "decisions": [1, 3],
    "finish_reason": "stop", "reward": 1234567.891, "rewards": {"f": 0.123456789, "g": -1.0},
    "initial_mean": 0.5, "initial_std": 0.25, "branch_mean": 1.0, "branch_std": 0.0,
    "tool_calls": [
        {
            "name": "add", "arguments": {"a": 1234567.891, "b": [0.123456789]}, "start": 0, "end": 2, "result": "r",
            "error": None, "result_start": 2, "result_end": 3, "ran": True,
        }
    ],
    "logprobs": [-0.5, -2.0, None, -1e-30], "factors": {"base": [1.0, 1.0, None, 1.0], "loss_mask": None},
}  # fmt: skip


def written(tmp_path, *rows, name="records"):
    RecordWriter(tmp_path / name).append(1, rows)
    return list(read_records(tmp_path / name))


def test_every_column_comes_back(tmp_path):
    (found,) = written(tmp_path, FULL)
    assert found.keys() == FULL.keys()
    for name, value in FULL.items():
        if name != "logprobs":
            assert found[name] == value, name
    assert found["logprobs"] == [-0.5, -2.0, None, pytest.approx(-1e-30, rel=2e-5)]
    assert FIXED.keys() <= FULL.keys()


def test_none_stays_none_and_is_neither_0_nor_nan_nor_empty(tmp_path):
    empty = {"completion_ids": [], "policy_mask": [], "tool_calls": [], "rewards": {}, "decisions": []}
    lists = {"logprobs": [], "alternatives": [], "factors": {"base": []}}
    none, nothing, full = written(tmp_path, record(), {**record(), **empty, **lists}, FULL)
    for name in FULL.keys() - record().keys() - {"kind"}:
        assert none[name] is None, name
    for name, value in {**empty, **lists}.items():
        assert nothing[name] == (value if name != "factors" else {"base": [], "loss_mask": None}), name
    assert full["reward"] == FULL["reward"]


def test_nan_and_infinity_of_the_policy_stay_and_tool_results_have_nothing(tmp_path):
    odd = np.array([math.nan, -math.inf, 5.0, np.finfo(np.float32).max], np.float32)
    found, listed = written(
        tmp_path,
        record(omega=odd, reward=math.nan, rewards={"f": math.nan, "g": math.inf}),
        record(omega=[math.nan, None, 5.0, math.inf]),
    )
    assert repr(found["omega"]) == f"[nan, -inf, None, {float(np.finfo(np.float32).max)!r}]"
    assert repr(listed["omega"]) == "[nan, None, None, inf]"
    assert math.isnan(found["reward"]) and math.isnan(found["rewards"]["f"]) and found["rewards"]["g"] == math.inf


def test_numbers_per_token_keep_five_digits(tmp_path):
    values = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    (found,) = written(tmp_path, record(omega=values, completion_ids=[1] * 4000, policy_mask=[1] * 4000))
    np.testing.assert_allclose(found["omega"], values, rtol=2**-16)
    assert np.abs(found["omega"] / values - 1).max() > 2**-18  # it is rounded, or the size could not be what it is


def test_values_of_another_length_and_calls_without_a_column_are_refused(tmp_path):
    with pytest.raises(ValueError, match="omega has 3 values for 4 tokens"):
        written(tmp_path, record(omega=[1.0] * 3))
    with pytest.raises(ValueError, match="a tool call has colour"):
        written(tmp_path, record(tool_calls=[{**FULL["tool_calls"][0], "colour": "red"}]))
    assert record_files(tmp_path / "records") == []  # nothing half written


def test_a_call_has_a_column_for_everything_but_its_seconds():
    call = vars(ToolCall("add", {}, 0, 1))
    assert {field.name for field in CALL} == call.keys() - {"seconds"}


def test_a_file_is_read_by_any_reader_of_parquet(tmp_path):
    written(tmp_path, FULL)
    table = pq.read_table(tmp_path / "records" / "000001.parquet")
    assert table["logprobs"].to_pylist()[0][:3] == [-0.5, -2.0, None]
    assert table["factors"].to_pylist()[0]["base"] == [1.0, 1.0, None, 1.0]
    assert json.loads(table["row"].to_pylist()[0])["answer"] == "four"


def test_an_update_in_several_parts_comes_back_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "TOKENS_PER_GROUP", 8)  # two rollouts of four tokens
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 3)
    rows = [record(rollout=i, omega=[float(i)] * 4 if i % 2 else None) for i in range(7)]
    found = written(tmp_path, *rows)
    assert pq.read_metadata(tmp_path / "records" / "000001.parquet").num_row_groups == 4
    assert [one["rollout"] for one in found] == list(range(7))
    assert [one["omega"] for one in found] == [[i, i, None, i] if i % 2 else None for i in range(7)]


def test_only_wanted_columns_steps_and_kinds_are_read(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    for step in (1, 2):
        writer.append(step, [record(step, omega=[1.0] * 4)])
    writer.append_evaluation("before", [record(0)])
    assert list(read_records(tmp_path, columns=["step", "missing"])) == [{"step": 1}, {"step": 2}]
    assert [one["step"] for one in read_records(tmp_path, step=2)] == [2]
    assert [one["kind"] for one in read_records(tmp_path, kind="evaluation")] == ["evaluation"]
    assert [one["step"] for one in read_records(tmp_path, kind=None)] == [0, 1, 2]
    assert len(list(read_records(tmp_path / "records" / "evaluation-before.parquet"))) == 1


def test_a_partial_file_of_a_kill_is_ignored_and_removed(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    writer.append(1, [record(1)])
    torn = tmp_path / "records" / "000002.parquet.partial"
    torn.write_bytes((tmp_path / "records" / "000001.parquet").read_bytes()[:100])
    assert [one["step"] for one in read_records(tmp_path)] == [1]
    assert RecordWriter(tmp_path / "records").start(1) == 1
    assert not torn.exists()


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    writer = RecordWriter(tmp_path / "records")
    writer.append(1, [record(1)])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer.append(2, [record(2)])
    assert {path.name for path in (tmp_path / "records").iterdir()} == {"000001.parquet", "meta.json"}


def test_a_resumed_run_drops_the_steps_it_will_do_again(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    for step in (1, 2, 3):
        writer.append(step, [record(step)] * step)
    for name in ("before", 2, 3, "000002-4", "000003-5", "000003-hard-set-6", "2024-08-01"):
        writer.append_evaluation(name, [record(0)])
    assert RecordWriter(tmp_path / "records").start(2) == 1 + 2
    assert [one["step"] for one in read_records(tmp_path)] == [1, 2, 2]
    evaluations = [path.name for path in record_files(tmp_path, "evaluation")]
    assert evaluations == [
        "evaluation-000002-4.parquet", "evaluation-2.parquet", "evaluation-2024-08-01.parquet",
        "evaluation-before.parquet",
    ]  # fmt: skip


def test_a_run_does_not_go_on_with_a_file_that_is_broken(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    writer.append(1, [record(1)])
    (tmp_path / "records" / "000001.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"000001\.parquet cannot be read as Parquet .*; move it away"):
        RecordWriter(tmp_path / "records").start(1)


def test_a_new_run_moves_old_records_away(tmp_path):
    for step in (1, 2):
        writer = RecordWriter(tmp_path / "records")
        assert writer.start(0) == 0
        writer.append(step, [record(step)])
    append_lines(tmp_path / "records.jsonl", [record(9)])
    assert RecordWriter(tmp_path / "records").start(0) == 0
    assert list(read_records(tmp_path)) == []
    assert [next(read_records(tmp_path / f"records.{n}"))["step"] for n in (1, 2)] == [1, 2]
    assert next(read_records(tmp_path / "records.1.jsonl"))["step"] == 9


def test_a_new_run_keeps_the_evaluation_that_it_began_with(tmp_path):
    old, new = RecordWriter(tmp_path / "records"), RecordWriter(tmp_path / "records")
    for name in ("before", "after"):
        old.append_evaluation(name, [record(0, task="old")])
    old.append(1, [record(1)])
    new.append_evaluation("before", [record(0, task="new")])
    new.start(0)
    assert [one["task"] for one in read_records(tmp_path, kind=None)] == ["new"]
    assert [one["kind"] for one in read_records(tmp_path / "records.1", kind=None)] == ["evaluation", "train"]


def test_an_update_that_is_written_again_replaces_the_first(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    for task in ("first", "second"):
        assert writer.append(1, [record(task=task)]) == 1
    assert [one["task"] for one in read_records(tmp_path)] == ["second"]


def test_parts_of_several_processes_are_read_in_their_order(tmp_path):
    writers = [RecordWriter(tmp_path / "records", process=p, processes=11) for p in range(11)]
    for step in (1, 2):
        for process in (10, 2, 0):
            writers[process].append(step, [record(step, task=str(process))])
    assert [(one["step"], one["task"]) for one in read_records(tmp_path)] == [
        (1, "0"), (1, "2"), (1, "10"), (2, "0"), (2, "2"), (2, "10"),
    ]  # fmt: skip
    # Each counts its own once the first one has cleared up.
    waited = []
    assert [writers[p].start(1, lambda: waited.append(1)) for p in (0, 10, 1)] == [1, 1, 0]
    assert len(waited) == 3
    assert [one["task"] for one in read_records(tmp_path)] == ["0", "2", "10"]


def test_files_are_opened_one_after_another(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    for step in (1, 2, 3):
        writer.append(step, [record(step)])
    (tmp_path / "records" / "000003.parquet").write_bytes(b"broken")
    reading = read_records(tmp_path)
    assert [next(reading)["step"], next(reading)["step"]] == [1, 2]
    with pytest.raises(UserError, match=r"000003.parquet cannot be read as Parquet \(.+\); move it away"):
        next(reading)


def test_records_of_a_later_version_and_none_at_all_are_one_sentence(tmp_path):
    written(tmp_path, record())
    path = tmp_path / "records" / "000001.parquet"
    later = pq.read_table(path).replace_schema_metadata({b"appo_records": b"3"})
    pq.write_table(later, path)
    with pytest.raises(UserError, match=r"written by a later appo \(records of version 3\)"):
        list(read_records(tmp_path))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    for missing in (tmp_path / "none", tmp_path / "other.parquet"):
        with pytest.raises(UserError, match="holds no records; give a run's output_dir"):
            list(read_records(missing))


def test_lines_of_an_older_run_are_read(tmp_path):
    append_lines(
        tmp_path / "records.jsonl", [{"step": step, "completion_ids": [1], "omega": [0.5]} for step in (1, 2)]
    )
    for path in (tmp_path, tmp_path / "records.jsonl"):
        assert [one["step"] for one in read_records(path)] == [1, 2]
    assert list(read_records(tmp_path, step=2, columns=["omega", "step"])) == [{"step": 2, "omega": [0.5]}]
    assert next(read_records(tmp_path, texts=True))["texts"] == [None]


def test_tokens_are_told_as_texts_without_a_tokenizer(tmp_path):
    _, tokenizer = kinship.make_model()
    ids = tokenizer("start mother friend")["input_ids"]
    writer = RecordWriter(tmp_path / "records", {"seed": 5, "place": tmp_path}, tokenizer)
    writer.append(1, [record(completion_ids=[*ids, 10**6], policy_mask=[1] * 4)])
    (found,) = read_records(tmp_path, texts=True)
    assert found["texts"] == [" start", " mother", " friend", None]
    assert len(read_vocabulary(tmp_path)) == len(tokenizer)
    meta = read_meta(tmp_path)
    assert (meta["version"], meta["settings"]) == (2, {"seed": 5, "place": str(tmp_path)})
    assert meta["appo"] and "texts" not in next(read_records(tmp_path))


def test_reading_needs_no_torch(tmp_path):
    written(tmp_path, FULL)
    code = (
        "import sys; from appo.cli.main import main; "
        f"code = main(['records', {str(tmp_path)!r}, '--jsonl']); "
        "assert not {'torch', 'transformers'} & sys.modules.keys(); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["row"] == FULL["row"]
