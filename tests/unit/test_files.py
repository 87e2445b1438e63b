"""What a later run trusts is there whole or not at all."""

import math

import pytest

from appo.files import (
    append_lines,
    fingerprint,
    fingerprint_files,
    new_directory,
    new_file,
    read_json,
    read_lines,
    set_aside,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_that_was_cut_off_reads_as_nothing(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text('{"a":')
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "missing.json") is None


def test_a_directory_is_replaced_whole(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "stale").write_text("")
    with new_directory(path) as directory:
        (directory / "weights").write_text("new")
        assert (path / "stale").exists()
    assert [p.name for p in path.iterdir()] == ["weights"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_directory_that_was_not_finished_changes_nothing(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")

    def interrupted():
        with new_directory(path) as directory:
            (directory / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (path / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_fingerprint_is_of_the_content_not_of_the_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"b": [1, 2]}) != fingerprint({"b": [2, 1]})


def test_a_fingerprint_of_files_sees_content_and_names(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("x")
    before = fingerprint_files(paths)
    assert fingerprint_files(reversed(paths)) == before
    paths[0].write_text("y")
    assert fingerprint_files(paths) != before


def test_a_file_that_was_not_finished_changes_nothing(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def interrupted():
        with new_file(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_in_lines_nan_becomes_null_and_nothing_is_rounded(tmp_path):
    path = tmp_path / "a.jsonl"
    append_lines(path, [{"x": [math.nan, 1234567.891], "y": {"z": math.inf, "score": 0.123456789}}])
    append_lines(path, [2])
    assert list(read_lines(path)) == [{"x": [None, 1234567.891], "y": {"z": None, "score": 0.123456789}}, 2]


def test_a_line_cut_off_by_a_kill_is_skipped_and_a_broken_one_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    assert list(read_lines(path)) == [{"step": 1}]
    path.write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        list(read_lines(path))


def test_what_is_set_aside_never_replaces_anything(tmp_path):
    assert set_aside(tmp_path / "a.jsonl") is None
    for content in ("first", "second"):
        (tmp_path / "a.jsonl").write_text(content)
        set_aside(tmp_path / "a.jsonl")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.1.jsonl": "first",
        "a.2.jsonl": "second",
    }
