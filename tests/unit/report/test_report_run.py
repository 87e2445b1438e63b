"""What a report says of a run besides its records, whatever of it is missing."""

import importlib.metadata as metadata
import json
import math
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_parts import call, read_pack, record, write_run

from appo.errors import UserError
from appo.files import append_lines, write_json
from appo.report.html.run import evaluation_name, read_run
from appo.report.html.write import write_report
from appo.rollout.records import RecordWriter

EVALUATION = {"questions": 4, "success": 0.5, "low": 0.15, "high": 0.85}


def summary(run):
    return read_pack(write_report(run))["runs"][0]["summary"]


def test_settings_come_from_the_start_of_the_run_and_else_from_its_records(tmp_path):
    run = write_run(tmp_path, [record()], settings={"method": "grpo", "success_reward": 0.5, "seed": 1})
    assert (read_run(run).method, read_run(run).success_reward) == ("grpo", 0.5)
    write_json(run / "run.json", {"settings": {"method": "raft", "task": "kinship"}})
    found = read_run(run)
    assert (found.method, found.settings["task"], found.success_reward) == ("raft", "kinship", 0.5)


def test_versions_and_a_methods_options_are_those_of_the_beginning(tmp_path):
    own = {"method": "appo", "method_args": {"num_branch_points": 2}}
    run = write_run(
        tmp_path, [record()], settings={**own, "method_options": {"num_initial_rollouts": 4, "num_branch_points": 2}}
    )
    write_json(run / "run.json", {"settings": own})
    found = summary(run)
    assert found["settings"]["method_args"] == {"num_initial_rollouts": 4, "num_branch_points": 2}
    assert found["settings"]["method"] == "appo"
    assert list(found["versions"]) == ["appo", "torch", "transformers", "trl", "records"]
    assert found["versions"]["torch"] == metadata.version("torch")


def test_a_run_of_which_nothing_but_records_is_there_has_a_report(tmp_path):
    run = write_run(tmp_path, [record(0, 1.0, base=0.5)])
    (run / "records" / "meta.json").unlink()
    (run / "records" / "vocabulary.parquet").unlink()
    found = summary(run)
    assert (found["method"], found["task"], found["settings"]) == (None, None, {})
    assert (found["base_kind"], found["num_rollouts"], found["evaluations"]) == (None, 1, [])


def test_an_older_run_has_a_report(tmp_path):
    append_lines(tmp_path / "records.jsonl", [record(0, 1.0), record(1, 0.0, step=2)])
    found = summary(tmp_path)
    assert (found["num_steps"], found["series"]["success"]) == (2, [1.0, 0.0])
    assert found["versions"] == {"records": 1}


def test_a_run_that_has_written_nothing_yet_has_an_empty_report(tmp_path):
    RecordWriter(tmp_path / "records", {"method": "appo"}).start(0)
    found = summary(tmp_path)
    assert (found["num_rollouts"], found["num_steps"], found["series"]) == (0, 0, {"step": []})


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_what_is_no_run_is_told_in_one_sentence(tmp_path, place):
    with pytest.raises(UserError, match=r"does not exist|holds no records"):
        write_report(tmp_path / place)


def test_a_broken_file_of_records_is_named(tmp_path):
    run = write_run(tmp_path, [record()])
    (run / "records" / "000001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"000001\.parquet cannot be read"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_foreign_file_under_a_records_name_is_named(tmp_path):
    run = write_run(tmp_path, [record()])
    pq.write_table(pa.table({"x": [1]}), run / "records" / "000002.parquet")
    with pytest.raises(UserError, match=r"000002\.parquet is called like records and has no column kind"):
        write_report(run)


def test_settings_that_are_none_are_told_or_passed_over(tmp_path):
    run = write_run(tmp_path, [record()])
    write_json(run / "run.json", {"settings": {"success_reward": "abc"}})
    with pytest.raises(UserError, match="success_reward = 'abc'"):
        write_report(run)
    write_json(run / "run.json", {"settings": {"method": ["x"], "method_args": 3, "success_reward": "0.5"}})
    found = summary(run)
    assert (found["method"], found["success_reward"]) == ("appo", 0.5)


@pytest.mark.parametrize("field", [{"policy_mask": [1]}, {"tool_calls": 5}, {"tool_calls": ["x"]}])
def test_a_line_that_is_no_record_is_told(tmp_path, field):
    append_lines(tmp_path / "records.jsonl", [record(), {**record(1), **field}])
    with pytest.raises(UserError, match=f"holds a line whose {next(iter(field))}"):
        write_report(tmp_path)


def test_records_that_were_set_aside_have_their_own_settings_and_report(tmp_path):
    run = write_run(tmp_path, [record(0, 1.0)], settings={"method": "grpo"})
    (run / "records").rename(run / "records.1")
    write_run(tmp_path, [record(0, 0.0)])
    write_json(run / "run.json", {"settings": {"method": "raft"}})
    write_json(run / "evaluation-after.json", EVALUATION)
    old = write_report(run / "records.1")
    assert old.name == "report-records.1.html"
    found = read_pack(old)["runs"][0]["summary"]
    assert (found["method"], found["evaluations"]) == ("grpo", [])
    assert summary(run)["method"] == "raft"
    assert write_report(run / "records").name == "report.html"
    assert write_report(run / "records" / "000001.parquet").name == "report-000001.html"


def test_curves_are_means_of_initial_rollouts_and_branches_apart(tmp_path):
    tree = [
        record(0, 1.0, base=0.5, length=5, entropies=[1.0, 2.0, 3.0, 2.0, 2.0], tool_calls=[call(0, 1, 2)]),
        record(1, 0.0, base=0.5, length=5),
        record(2, 0.5, length=3, parent=0, position=1),
    ]
    found = summary(write_run(tmp_path, tree))["series"]
    assert found["step"] == [1.0]
    assert (found["reward"], found["success"], found["branch_reward"]) == ([0.5], [0.5], [0.5])
    assert found["entropy"] == [1.25]  # of 2.0 and 0.5
    assert found["branch_position"] == [0.25]  # 1 of 0 .. 4
    assert found["calls"] == [pytest.approx(1 / 3, abs=1e-6)]
    assert "omega" not in found  # measured nowhere, which is not 0


def test_what_the_trainer_logged_stands_beside_it_with_none_where_it_logged_nothing(tmp_path):
    run = write_run(tmp_path, [record(step=1)], [record(step=2)])
    history = [{"step": 2, "loss": 0.5, "reward": 9.0}, {"step": 2, "train_runtime": 5.0}, {"no step": 1}]
    (run / "checkpoint-2").mkdir()
    write_json(run / "checkpoint-2" / "trainer_state.json", {"log_history": history})
    found = summary(run)["series"]
    assert found["loss"] == [None, 0.5]
    assert found["reward"] == [0.0, 0.0]  # the records' own
    assert "train_runtime" not in found


def test_the_newest_state_is_the_one_that_counts(tmp_path):
    run = write_run(tmp_path, [record()])
    for step in (9, 10):
        (run / f"checkpoint-{step}").mkdir()
        state = {"log_history": [{"step": 1, "loss": float(step)}]}
        write_json(run / f"checkpoint-{step}" / "trainer_state.json", state)
    assert summary(run)["series"]["loss"] == [10.0]


def test_evaluations_are_told_in_order_with_their_intervals(tmp_path):
    during = [record(0, float(n < 3), step=20, task=f"e{n}", tool_calls=[call(0, 1, 2)]) for n in range(4)]
    run = write_run(
        tmp_path, [record()], settings={"max_steps": 40}, evaluations={"000020-1": during[:2], "000020-2": during[2:]}
    )
    write_json(run / "evaluation-after.json", EVALUATION)
    write_json(run / "evaluation-before.json", {**EVALUATION, "success": 0.25})
    before, after, middle = summary(run)["evaluations"]
    assert (before["key"], before["step"], before["success"], before["low"]) == ("before", 0, 0.25, 0.15)
    assert (after["key"], after["step"], after["success"]) == ("after", 40, 0.5)
    assert (middle["name"], middle["step"], middle["questions"]) == ("after update 20", 20, 4)
    assert (middle["success"], middle["tool_calls"]) == (0.75, 1.0)
    assert middle["low"] < 0.75 < middle["high"]


def test_an_evaluation_of_several_files_is_one():
    names = {
        "before-000256": "before", "000020-3": "000020", "before": "before", "000020-hard-3": "000020-hard",
        "000020-3.1": "000020", "before.1": "before",  # of the second of several processes
    }  # fmt: skip
    assert {name: evaluation_name(f"evaluation-{name}") for name in names} == names


def test_nan_and_infinity_become_null(tmp_path):
    run = write_run(tmp_path, [record(0, math.nan, rewards={"exact": math.nan})], settings={"epsilon": math.inf})
    text = write_report(run).read_text()
    assert "NaN" not in text.split('id="appo-pack">')[1].split("</script>")[0]
    assert json.loads(text.split('id="appo-pack">')[1].split("</script>")[0])


def test_a_report_needs_no_torch(tmp_path):
    run = str(write_run(tmp_path, [record(0, 1.0, base=0.5)]))
    write = f"from appo.report.html.write import write_report; write_report({run!r})"
    code = f"{write}\nimport sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
