"""records.jsonl survives kills and restarts."""

import math

import pytest

from appo.records import append_records, read_records, start_records


def test_nan_becomes_null_and_floats_are_short(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [{"step": 1, "x": [math.nan, 0.123456789], "y": {"z": math.inf}}])
    assert list(read_records(path)) == [{"step": 1, "x": [None, 0.12346], "y": {"z": None}}]


def test_a_line_cut_off_by_a_kill_is_skipped_and_a_broken_one_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    assert list(read_records(path)) == [{"step": 1}]
    path.write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        list(read_records(path))


def test_a_resumed_run_drops_the_steps_it_will_do_again(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [{"step": step} for step in (1, 1, 2, 3)])
    start_records(path, 2)
    assert [record["step"] for record in read_records(path)] == [1, 1, 2]


def test_a_new_run_moves_old_records_away(tmp_path):
    path = tmp_path / "records.jsonl"
    for step in (1, 2):
        append_records(path, [{"step": step}])
        start_records(path, 0)
    assert not path.exists()
    assert [next(read_records(tmp_path / f"records.{n}.jsonl"))["step"] for n in (1, 2)] == [1, 2]
