"""The end of a training: what is drawn and told, and that nothing of it can lose a finished run."""

import io
import re

import pytest
from report_parts import read_pack
from rich.console import Console
from training_parts import make_trainer

from appo.environments import kinship
from appo.evaluation.success import Evaluation
from appo.report import finish
from appo.report.finish import Measured, places, print_ending, recorded_evaluations, write_pictures
from appo.report.html.write import write_report
from appo.rollout.records import RecordWriter

PNG = b"\x89PNG"


def row(step, rollout, reward, calls=(), mask=(1, 0, 1), finish_reason="stop"):
    own = [
        {"name": "search", "arguments": "x", "error": error, "start": 0, "end": 1, "result": "", "ran": True,
         "result_start": 1, "result_end": 2}
        for error in calls
    ]  # fmt: skip
    return {
        "step": step, "task": "0", "rollout": rollout, "parent": None, "branch_position": None,
        "completion_ids": [5, 6, 7], "policy_mask": list(mask), "reward": reward, "entropies": [1.0, None, 1.0],
        "tool_calls": own, "finish_reason": finish_reason,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Records of one update, and of evaluations after 3 and 6 updates of two questions, twice each."""
    writer = RecordWriter(tmp_path / "records")
    writer.append(1, [row(1, 0, 1.0)])
    writer.append_evaluation("000003-1", [row(3, 0, 1.0, [None, "timeout"]), row(3, 1, 0.0)])
    writer.append_evaluation("000003-2", [row(3, 0, 1.0), row(3, 1, 1.0, finish_reason="length")])
    writer.append_evaluation("000006-3", [row(6, 0, None), row(6, 1, 1.0)])
    return tmp_path


def printed(work):
    file = io.StringIO()
    work(Console(file=file, markup=False, highlight=False, soft_wrap=True))
    return file.getvalue().splitlines()


def test_recorded_evaluations_are_summed_up_by_update(run):
    third, sixth = recorded_evaluations(run, 1.0)
    assert (third.name, third.step, sixth.step) == ("update 3", 3, 6)
    # Three of four rollouts succeed; the interval is Wilson's for 1.5 of 2 questions: with z^2 = 3.8416 its centre is
    # (0.75 + 0.9604) / 2.9208 = 0.5856, and its half 1.96 / 2.9208 * sqrt(0.1875 / 2 + 0.2401) = 0.3877.
    found = third.evaluation
    assert (found.questions, found.success, found.reward, found.unscored) == (2, 0.75, 0.75, 0)
    assert (found.low, found.high) == pytest.approx((0.1979, 0.9733), abs=1e-4)
    assert (found.tool_calls, found.tool_failures, found.tokens, found.truncated) == (0.5, 0.25, 2.0, 0.25)
    assert (sixth.evaluation.questions, sixth.evaluation.success, sixth.evaluation.unscored) == (1, 1.0, 1)


def test_evaluations_of_two_data_sets_are_told_apart_in_table_and_report(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    writer.append(1, [row(1, 0, 1.0)])
    for part, reward in (("easy-1", 1.0), ("hard-2", 0.0), ("easy-3", 1.0)):
        writer.append_evaluation(f"000003-{part}", [row(3, 0, reward)])
    found = {one.name: (one.step, one.evaluation.success) for one in recorded_evaluations(tmp_path, 1.0)}
    assert found == {"update 3, easy": (3, 1.0), "update 3, hard": (3, 0.0)}
    told = read_pack(write_report(tmp_path))["runs"][0]["summary"]["evaluations"]
    assert [(one["name"], one["questions"], one["success"]) for one in told] == [
        ("after update 3, easy", 2, 1.0), ("after update 3, hard", 1, 0.0),
    ]  # fmt: skip


def test_the_report_says_the_same_interval_as_the_table(run):
    told = read_pack(write_report(run))["runs"][0]["summary"]["evaluations"]
    for one, measured in zip(told, recorded_evaluations(run, 1.0), strict=True):
        found = measured.evaluation
        assert (one["questions"], one["low"], one["high"]) == (found.questions, found.low, found.high)
    assert told[0]["low"] == pytest.approx(0.1979, abs=1e-4)  # as above


def test_a_training_with_two_evaluation_sets_keeps_them_apart(tmp_path):
    sets = {"easy": kinship.make_dataset(1, seed=9), "hard set": kinship.make_dataset(2, seed=8)}
    trainer = make_trainer(
        tmp_path, save_report=False, eval_strategy="steps", eval_steps=1, max_steps=1, num_generations_eval=1,
        per_device_eval_batch_size=1, extra={"eval_dataset": sets},
    )  # fmt: skip
    trainer.train()
    found = {one.name: one.evaluation.questions for one in recorded_evaluations(tmp_path, 1.0)}
    assert found == {"update 1, easy": 1, "update 1, hard_set": 2}


def test_a_run_without_evaluations_or_records_has_none(tmp_path):
    assert recorded_evaluations(tmp_path, 1.0) == []
    RecordWriter(tmp_path / "records").append(1, [row(1, 0, 1.0)])
    assert recorded_evaluations(tmp_path, 1.0) == []


def test_the_table_names_what_is_there_and_leaves_out_what_is_not():
    evaluation = Evaluation(20, 0.5, 0.3, 0.7, 0.5, tool_calls=1.25, tool_failures=0.5, tokens=30.4, truncated=0.0)
    where = {"records": "run/records", "curves": None, "report": "run/report.html"}
    lines = printed(lambda console: print_ending([Measured("before", 0.0, evaluation)], where, console))
    assert lines == [
        "before      success 50.0% [30.0%, 70.0%] of 20 questions, 1.2 tool calls (0.5 failed), 30 tokens each",
        "records     run/records",
        "report      run/report.html",
    ]


def test_places_depend_on_records_and_on_the_wish(run, tmp_path_factory):
    there = {"records": str(run / "records"), "curves": str(run / "curves.png"), "report": str(run / "report.html")}
    assert places(run) == there
    assert places(run, drawn=False) == {**there, "curves": None, "report": None}
    assert set(places(run, recorded=False).values()) == {None}
    assert set(places(tmp_path_factory.mktemp("empty")).values()) == {None}


def test_what_cannot_be_written_is_a_sentence_and_not_named_as_there(run, monkeypatch):
    """A directory where the picture should be, and a fault in the report."""
    (run / "curves.png").mkdir()

    def write_report(directory, console):
        raise KeyError("entropy")

    monkeypatch.setattr(finish, "_report_of", write_report)
    where = places(run)
    lines = printed(lambda console: write_pictures(run, where, recorded_evaluations(run, 1.0), 1.0, console))
    assert where == {"records": str(run / "records"), "curves": None, "report": None}
    assert lines[0].startswith(f"{run / 'curves.png'} could not be written: UserError: the picture")
    assert lines[1:] == [
        f"{run / 'report.html'} could not be written: KeyError: 'entropy'",
        f"try `appo report {run}`, which says more.",
    ]


def test_a_training_in_python_ends_with_curves_report_and_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(finish, "_report_of", lambda directory, console: (directory / "report.html").write_text("<p>"))
    questions = kinship.make_dataset(4, seed=9)
    trainer = make_trainer(
        tmp_path, save_report=True, disable_tqdm=False, eval_strategy="steps", eval_steps=1, num_generations_eval=2,
        per_device_eval_batch_size=4, extra={"eval_dataset": questions},
    )  # fmt: skip
    trainer.train()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("APPO")] == ["APPO 1/2", "APPO 2/2"]
    ending = [line for line in lines if not line.startswith("APPO")]
    assert re.match(r"update 1    success [\d.]+% \[.*\] of 4 questions, ", ending[0])
    assert re.match(r"update 2    success [\d.]+% \[.*\] of 4 questions, ", ending[1])
    assert ending[2:] == [
        f"records     {tmp_path / 'records'}", f"curves      {tmp_path / 'curves.png'}",
        f"report      {tmp_path / 'report.html'}",
    ]  # fmt: skip
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert (tmp_path / "trainer_state.json").is_file()


@pytest.mark.parametrize("options", [{"save_report": False}, {"save_report": True, "save_records": False}])
def test_a_training_that_is_asked_not_to_ends_without(tmp_path, capsys, options):
    trainer = make_trainer(tmp_path, max_steps=1, disable_tqdm=False, method="raft", **options)
    trainer.train()
    printed = capsys.readouterr().out.splitlines()
    assert printed and all(line.startswith("RAFT 1/1") for line in printed)
    assert not list(tmp_path.glob("curves*"))
