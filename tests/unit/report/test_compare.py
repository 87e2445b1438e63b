"""Two runs, paired by data row."""

import pytest
from report_parts import parts_of_run, read_pack, record, write_run

from appo.files import write_json
from appo.report.html.compare import RowSuccess, compare
from appo.report.html.write import write_report


def rows_of(run):
    found = RowSuccess(1.0)
    for part in parts_of_run(run):
        found.add(part)
    return found


def test_rows_are_paired_whatever_their_order_and_their_tasks(tmp_path):
    a = [record(0, 1.0, task="0"), record(1, 0.0, task="0"), record(0, 0.0, task="1"), record(0, 0.0, task="2")]
    b = [record(0, 1.0, task="1"), record(0, 1.0, task="0"), record(0, 1.0, task="9")]
    found = compare(rows_of(write_run(tmp_path / "a", a)), rows_of(write_run(tmp_path / "b", b)))["train"]
    assert (found["rows"], found["only_a"], found["only_b"]) == (2, 1, 1)
    assert (found["a"], found["b"]) == (0.25, 1.0)  # (1/2 + 0) / 2 against 1: each row once
    assert found["difference"] == 0.75
    assert (found["low"], found["high"]) == (0.5, 1.0)


def test_rows_with_the_same_content_are_the_same_whatever_the_order_of_their_fields(tmp_path):
    for name, row in (("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1})):
        write_run(tmp_path / name, [record(0, 1.0, row=row)])
    assert compare(rows_of(tmp_path / "a"), rows_of(tmp_path / "b"))["train"]["rows"] == 1


def test_without_rows_prompts_are_compared_and_without_both_nothing(tmp_path):
    write_run(tmp_path / "a", [record(0, 1.0, row=None), record(0, 1.0, task="1", row=None, prompt=None)])
    rows = rows_of(tmp_path / "a")
    assert compare(rows, rows)["train"]["rows"] == 1


def test_branches_and_rollouts_without_reward_say_nothing(tmp_path):
    write_run(tmp_path / "a", [record(0, 1.0), record(1, 0.0, parent=0, position=1), record(2, None)])
    rows = rows_of(tmp_path / "a")
    assert compare(rows, rows)["train"]["a"] == 1.0


def test_runs_that_share_nothing_have_no_difference(tmp_path):
    write_run(tmp_path / "a", [record(task="0")])
    write_run(tmp_path / "b", [record(task="1")])
    found = compare(rows_of(tmp_path / "a"), rows_of(tmp_path / "b"))["train"]
    assert (found["rows"], found["difference"], found["low"]) == (0, None, None)


def test_a_report_of_two_runs_compares_evaluations_of_one_name(tmp_path):
    runs = [
        write_run(
            tmp_path / name, [record(0, 0.0)], evaluations={"after": [record(0, 1.0)], "before": [record(0, reward)]}
        )
        for name, reward in (("a", 0.0), ("b", 1.0))
    ]
    pack = read_pack(write_report(runs[0], other=runs[1]))
    assert [one["name"] for one in pack["runs"]] == ["a", "b"]
    evaluations = pack["compare"]["evaluations"]
    assert [one["key"] for one in evaluations] == ["before", "after"]
    assert [one["difference"] for one in evaluations] == [1.0, 0.0]
    assert read_pack(write_report(runs[0]))["compare"] is None


def test_a_run_compared_with_itself_differs_by_nothing(tmp_path):
    rows = rows_of(write_run(tmp_path, [record(0, 1.0), record(0, 0.0, task="1")]))
    found = compare(rows, rows)["train"]
    assert (found["difference"], found["low"], found["high"]) == (pytest.approx(0.0), 0.0, 0.0)


def gain_of(directory, before, after, asked=None):
    """The gain of a run whose evaluations gave these rewards, task by task."""
    evaluations = {
        name: [record(0, reward, step=0, task=str(task)) for task, reward in enumerate(rewards)]
        for name, rewards in (("after", after), ("before", before))
    }
    run = write_run(directory, [record()], evaluations=evaluations)
    if asked:
        told = {"questions": asked, "success": 0.5, "low": 0.3, "high": 0.7}
        write_json(run / "evaluation-before.json", told)
    return read_pack(write_report(run))["runs"][0]["summary"]["gain"]


def test_a_gain_is_paired_by_row_from_the_first_evaluation_to_the_last(tmp_path):
    found = gain_of(tmp_path, [0.0, 0.0, 1.0, 1.0] * 25, [1.0, 0.0, 1.0, 1.0] * 25)
    assert (found["first"], found["last"], found["n"]) == ("before", "after", 100)
    assert found["difference"] == 0.25
    # Of 100 rows with 25 ones among zeros: 0.25 +- 1.96 sqrt(0.25 x 0.75 / 100) = 0.165 to 0.335
    assert (found["low"], found["high"]) == pytest.approx((0.165, 0.335), abs=0.015)


def test_a_question_that_comes_twice_counts_twice_in_a_gain(tmp_path):
    evaluations = {
        "before": [record(0, 0.0, task="a"), record(1, 0.0, task="a"), record(0, 1.0, task="b")],
        "after": [record(0, 1.0, task="a"), record(1, 1.0, task="a"), record(0, 1.0, task="b")],
    }
    run = write_run(tmp_path, [record()], evaluations=evaluations)
    found = read_pack(write_report(run))["runs"][0]["summary"]["gain"]
    assert found["difference"] == pytest.approx(2 / 3)
    assert found["n"] == 2


def test_a_gain_of_other_questions_or_of_unrecorded_ones_is_not_paired(tmp_path):
    unpaired = {"first": "before", "last": "after", "difference": None, "low": None, "high": None, "n": None}
    assert gain_of(tmp_path / "others", [0.0], [1.0] * 4) == unpaired
    assert gain_of(tmp_path / "unrecorded", [0.0, 1.0], [1.0, 1.0], asked=10) == unpaired


def test_a_gain_that_is_the_same_on_every_row_has_no_interval(tmp_path):
    found = gain_of(tmp_path, [0.0, 0.0], [1.0, 1.0])
    assert (found["difference"], found["low"], found["high"], found["n"]) == (1.0, None, None, 2)


def test_a_run_with_one_evaluation_has_no_gain(tmp_path):
    run = write_run(tmp_path, [record()], evaluations={"after": [record()]})
    assert read_pack(write_report(run))["runs"][0]["summary"]["gain"] is None
