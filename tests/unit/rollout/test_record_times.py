"""Seconds of tool calls: beside the records, and never in them."""

from appo.rollout.record_times import read_times, times_path, write_times
from appo.rollout.records import RecordWriter, read_records
from appo.rollout.rollout_records import rollout_records
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall


def record(seconds=(), step=1, **values):
    calls = [{"name": "add", "arguments": "x", "start": 0, "end": 1, "error": None, "ran": True} for _ in seconds]
    return {
        "step": step, "task": "0", "rollout": 0, "completion_ids": [5], "policy_mask": [1], "tool_calls": calls,
        "call_seconds": list(seconds), **values,
    }  # fmt: skip


def seconds_of(directory, **options):
    found = read_records(directory, times=True, **options)
    return [[call["seconds"] for call in one["tool_calls"]] for one in found]


def test_calls_come_back_with_their_seconds_where_they_are_asked_for(tmp_path):
    RecordWriter(tmp_path).append(1, [record([0.5, 0.25]), record(), record([2.0])])
    assert seconds_of(tmp_path) == [[0.5, 0.25], [], [2.0]]
    assert all("seconds" not in call for one in read_records(tmp_path) for call in one["tool_calls"])


def test_records_are_the_same_to_the_byte_whatever_their_calls_took(tmp_path):
    for name, seconds in (("a", 0.5), ("b", 0.75)):
        RecordWriter(tmp_path / name).append(1, [record([seconds])])
    first, second = ((tmp_path / name / "000001.parquet").read_bytes() for name in ("a", "b"))
    assert first == second
    assert seconds_of(tmp_path / "a") != seconds_of(tmp_path / "b")


def test_a_run_without_calls_has_no_file_of_seconds(tmp_path):
    RecordWriter(tmp_path).append(1, [record(), record()])
    assert not (tmp_path / "times").exists()


def test_seconds_of_a_missing_or_broken_file_are_none(tmp_path):
    RecordWriter(tmp_path).append(1, [record([0.5])])
    path = times_path(tmp_path / "000001.parquet")
    path.write_bytes(b"half of a fi")
    assert seconds_of(tmp_path) == [[None]]
    path.unlink()
    assert seconds_of(tmp_path) == [[None]]


def test_seconds_of_another_number_of_rollouts_are_none(tmp_path):
    """A kill may leave those of another writing, which would be told of the wrong calls."""
    RecordWriter(tmp_path).append(1, [record([0.5]), record([2.0])])
    path = times_path(tmp_path / "000001.parquet")
    write_times(tmp_path / "other.parquet", [[0.25]])
    times_path(tmp_path / "other.parquet").rename(path)
    assert read_times(tmp_path / "000001.parquet", 2) is None


def test_a_resumed_run_drops_the_seconds_of_steps_that_it_will_do_again(tmp_path):
    writer = RecordWriter(tmp_path)
    for step in (1, 2, 3):
        writer.append(step, [record([float(step)], step)])
    RecordWriter(tmp_path).start(1)
    assert [path.name for path in (tmp_path / "times").iterdir()] == ["000001.parquet"]
    assert seconds_of(tmp_path) == [[1.0]]


def test_a_new_run_takes_the_seconds_of_its_evaluation_with_it(tmp_path):
    directory = tmp_path / "records"
    RecordWriter(directory).append(1, [record([9.0])])
    writer = RecordWriter(directory)
    writer.append_evaluation("before", [record([0.5])])
    writer.start(0)
    assert seconds_of(directory, kind="evaluation") == [[0.5]]
    assert seconds_of(tmp_path / "records.1") == [[9.0]]


def test_an_update_that_is_written_again_without_calls_leaves_no_old_seconds(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.append(1, [record([0.5])])
    writer.append(1, [record()])
    assert seconds_of(tmp_path) == [[]]
    assert not times_path(tmp_path / "000001.parquet").exists()


def test_seconds_stay_with_their_rollouts_when_columns_are_chosen(tmp_path):
    RecordWriter(tmp_path).append(1, [record([0.5], reward=0.0), record([0.75], reward=1.0)])
    found = list(read_records(tmp_path, columns=["reward"], times=True))
    assert [(one["reward"], one["tool_calls"][0]["seconds"]) for one in found] == [(0.0, 0.5), (1.0, 0.75)]


def test_a_rollout_hands_its_calls_seconds_to_its_record(tmp_path):
    rollout = Rollout([1], completion_ids=[5, 6], policy_mask=[1, 1], logprobs=[-1.0, -1.0])
    rollout.tool_calls.append(ToolCall("add", "x", 0, 2, seconds=0.125))
    tree = RolloutTree({}, "0", [rollout], num_initial=1)
    RecordWriter(tmp_path).append(1, rollout_records([tree], {}, 1))
    assert seconds_of(tmp_path) == [[0.125]]
