"""The file: whole or not there, harmless whatever the records hold; where it would be large, a folder beside it."""

import base64
import hashlib
import io
import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from report_parts import call, heat_values, read_index, read_pack, read_shards, record, unpacked, write_run
from rich.console import Console

from appo.cli.main import main
from appo.errors import UserError
from appo.report.html import pack
from appo.report.html.write import write_report

EVIL = "</script><img src=x onerror=alert(1)><!--"


def test_texts_of_a_run_cannot_leave_their_element(tmp_path):
    texts = {10: EVIL}
    one = record(row={"answer": EVIL}, prompt=EVIL, tool_calls=[call(0, 1, 2, EVIL, error=EVIL)])
    page = write_report(write_run(tmp_path, [one], texts=texts, settings={"task": EVIL}))
    text = page.read_text()
    assert EVIL not in text
    assert read_pack(page)["runs"][0]["summary"]["task"] == EVIL
    run = read_pack(page)["runs"][0]
    assert unpacked(run["tasks"])[0]["prompt"] == EVIL
    assert unpacked(run["vocabulary"])[0] == [10, EVIL]


def test_marks_of_the_page_in_a_run_are_only_text(tmp_path):
    page = write_report(
        write_run(tmp_path, [record()], settings={"task": "/*APPO_JS*/<!--APPO_SHARDS-->/*APPO_DATA*/"})
    )
    assert read_pack(page)["runs"][0]["summary"]["task"] == "/*APPO_JS*/<!--APPO_SHARDS-->/*APPO_DATA*/"
    assert page.read_text().count('id="appo-shard-0-0"') == 1


def test_the_page_forbids_every_script_but_its_own(tmp_path):

    text = write_report(write_run(tmp_path, [record()])).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    own = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "APPO_" not in policy


def test_the_index_has_a_row_per_rollout_in_order(tmp_path):
    updates = [
        [record(0, 1.0, step=step, task=f"{step}.{task}"), record(1, None, step=step, task=f"{step}.{task}", parent=0,
         position=2, branch_score=0.5, branch_rank=1, length=3, finish_reason="length")]
        for step in (1, 2) for task in (0,)
    ]  # fmt: skip
    run = write_run(
        tmp_path, *updates, evaluations={"before": [record(0, 0.0, step=0, task="e", finish_reason="odd")]}
    )
    found = read_index(read_pack(write_report(run))["runs"][0])
    assert found["step"].tolist() == [1, 1, 2, 2, 0]
    assert found["tree"].tolist() == [0, 0, 1, 1, 2]
    assert found["parent"].tolist() == [-1, 0, -1, 0, -1]
    assert found["branch_position"].tolist() == [-1, 2, -1, 2, -1]
    assert found["finish"].tolist() == [0, 1, 0, 1, 255]
    assert found["kind"].tolist() == [0, 0, 0, 0, 1]
    assert found["evaluation"].tolist() == [255, 255, 255, 255, 0]
    assert found["n_tokens"].tolist() == [4, 3, 4, 3, 4]
    np.testing.assert_equal(found["reward"], np.float32([1.0, np.nan, 1.0, np.nan, 0.0]))


def test_a_data_row_that_comes_again_has_the_same_key(tmp_path):
    updates = [[record(step=step, task=f"{step}.0", row={"a": 1}, prompt="p")] for step in (1, 2)]
    found = unpacked(read_pack(write_report(write_run(tmp_path, *updates)))["runs"][0]["tasks"])
    assert [task["id"] for task in found] == ["1.0", "2.0"]
    assert found[0]["row_key"] == found[1]["row_key"]


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answer": "4"}, ["4"]),
        ({"golden_answers": ["a", "b"]}, ["a", "b"]),
        ({"reward_model": {"ground_truth": 7}}, ["7"]),
        ({"question": "?"}, []),
    ],
)
def test_reference_answers_are_found_by_the_names_that_data_sets_give_them(tmp_path, row, answers):
    found = unpacked(read_pack(write_report(write_run(tmp_path, [record(row=row)])))["runs"][0]["tasks"])
    assert found[0]["answers"] == answers


def test_shards_hold_whole_trees_and_count_their_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "SHARD_TOKENS", 10)
    updates = [[record(n, step=step, base=0.5) for n in range(2)] for step in (1, 2, 3)]
    page = write_report(write_run(tmp_path, *updates))
    shards = read_shards(page)
    assert [(shard["first"], shard["n"], shard["tokens"]) for shard in shards] == [(0, 4, 16), (4, 2, 8)]
    assert read_index(read_pack(page)["runs"][0])["shard"].tolist() == [0, 0, 0, 0, 1, 1]


def test_heat_maps_have_a_code_per_token_of_the_policy(tmp_path):
    one = record(base=0.5, policy_mask=[1, 0, 1, 1], entropies=[0.0, None, 1.0, 2.0], length=4,
                 logprobs=[-1.0, None, -0.5, 0.0], behaviour_logprobs=[-1.5, None, -0.5, -0.25])  # fmt: skip
    (shard,) = read_shards(write_report(write_run(tmp_path, [one])))
    assert heat_values(shard["heat"]["entropy"]) == pytest.approx([0.0, 1.0, 2.0], abs=0.02)
    assert heat_values(shard["heat"]["ratio"]) == pytest.approx([0.5, 0.0, 0.25], abs=0.01)
    assert "omega" not in shard["heat"]


def test_a_branch_has_no_log_probabilities_of_what_is_its_parents(tmp_path):
    tree = [record(0, base=0.5, logprobs=[-1.0] * 4), record(1, parent=0, position=2, logprobs=[-1.0] * 4)]
    (shard,) = read_shards(write_report(write_run(tmp_path, tree)))
    assert np.isnan(heat_values(shard["heat"]["logprob"])).tolist() == [False] * 4 + [True, True, False, False]


def test_calls_are_told_by_their_tokens_where_these_say_it_all(tmp_path):
    texts = {10: " add", 11: " 1 2", 12: " r", 13: " end"}
    calls = [call(0, 2, 3, "r"), call(3, 4, -1, "lost", error="timeout", result_start=-1, ran=False)]
    one = record(length=4, policy_mask=[1, 1, 0, 1], tool_calls=calls, call_seconds=[0.1234, 2.0],
                 alternatives=[[12, -0.123]], decisions=[1, 3], rewards={"a": 1.0, "b": float("nan")})  # fmt: skip
    (shard,) = read_shards(write_report(write_run(tmp_path, [one], texts=texts)))
    ((calls, rewards, alternatives, decisions),) = unpacked(shard["details"])
    assert calls == [
        ["add", 0, 2, 0, 1, None, 0.123],
        ["add", 0, 1, None, 0, "timeout", 2.0, False, "1 2", "lost"],
    ]
    assert (shard["reward_names"], rewards) == (["a", "b"], [1.0, None])
    assert (alternatives, decisions) == ([[12, -0.12]], [1, 2])


def test_many_tokens_go_into_a_folder_of_scripts(tmp_path):
    run = write_run(tmp_path / "run", [record(n, base=0.5) for n in range(3)])
    inline = write_report(run, tmp_path / "inline.html")
    page = write_report(run, tmp_path / "page.html", folder_from=5)
    (script,) = (tmp_path / "page.data").iterdir()
    assert read_pack(page)["runs"][0]["shards"] == [
        {"src": f"page.data/{script.name}", "first": 0, "n": 3, "tokens": 12}
    ]
    assert read_shards(page) == read_shards(inline)
    assert "appo-shard-0-0" not in page.read_text()
    assert list(tmp_path.glob("*.partial")) == []


def test_a_smaller_report_takes_the_old_folder_away(tmp_path):
    run = write_run(tmp_path / "run", [record()])
    write_report(run, tmp_path / "page.html", folder_from=1)
    write_report(run, tmp_path / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]


@pytest.mark.parametrize("name", ["page.data", "page.data.partial"])
def test_a_folder_that_is_no_reports_is_never_removed(tmp_path, name):
    """A large report that needs its name is refused before anything is written; a small one leaves it alone."""
    run = write_run(tmp_path / "run", [record()])
    theirs = tmp_path / name / "thesis.csv"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    (theirs.parent / "0-0.js").write_text("APPO_SHARD(0,0,{})")
    with pytest.raises(UserError, match=f"{name} holds other things"):
        write_report(run, tmp_path / "page.html", folder_from=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "run"]
    write_report(run, tmp_path / "page.html")
    assert theirs.read_text() == "years of work"


def test_a_file_that_is_called_like_the_folder_is_no_reports(tmp_path):
    run = write_run(tmp_path / "run", [record()])
    (tmp_path / "page.data").write_text("mine")
    with pytest.raises(UserError, match=r"page\.data holds other things"):
        write_report(run, tmp_path / "page.html", folder_from=1)
    assert (tmp_path / "page.data").read_text() == "mine"


def test_a_large_report_replaces_its_own_folder(tmp_path):
    run = write_run(tmp_path / "run", [record()])
    for _ in range(2):
        page = write_report(run, tmp_path / "page.html", folder_from=1)
    assert len(read_shards(page)) == 1


@pytest.mark.parametrize(
    ("name", "src"), [("a#b.html", "a%23b.data"), ("50%20.html", "50%2520.data"), ("a?b.data", "a%3Fb.data.data")]
)
def test_the_folder_is_found_whatever_the_file_is_called(tmp_path, name, src):
    page = write_report(write_run(tmp_path / "run", [record()]), tmp_path / name, folder_from=1)
    assert read_pack(page)["runs"][0]["shards"][0]["src"] == f"{src}/0-0.js"
    assert (tmp_path / unquote(src) / "0-0.js").is_file()


def test_the_bounds_of_a_heat_map_are_those_of_all_shards():
    scales = pack.Scales()
    for values in ([1.0, 4.0], [0.5, 2.0], [np.nan, 3.0]):
        scales.add("entropy", np.array(values))
    found = scales.summary()["entropy"]
    assert (found["low"], found["high"], found["p50"]) == (0.5, 4.0, 2.0)  # of 0.5, 1, 2, 3, 4


def test_an_empty_name_of_a_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"out = '\.' names no file"):
        write_report(write_run(tmp_path, [record()]), "")


def test_the_index_holds_numbers_of_large_trees(tmp_path):
    tree = [record(40_000, 1.0), record(70_000, 0.0, parent=40_000, position=1)]
    found = read_index(read_pack(write_report(write_run(tmp_path, tree)))["runs"][0])
    assert (found["rollout"].tolist(), found["parent"].tolist()) == ([40_000, 70_000], [-1, 40_000])


def test_a_mistake_leaves_the_old_report_and_nothing_half_done(tmp_path):
    run = write_run(tmp_path / "run", [record()], [record(step=2)])
    page = write_report(run, tmp_path / "page.html", folder_from=1)
    before = page.read_text()
    (run / "records" / "000002.parquet").write_bytes(b"broken")
    with pytest.raises(UserError):
        write_report(run, page, folder_from=1)
    assert page.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.data", "page.html", "run"]
    assert read_shards(page)


def test_the_same_run_gives_the_same_file(tmp_path):
    run = write_run(tmp_path, [record(n, float(n), base=0.5) for n in range(3)])
    assert write_report(run, tmp_path / "a.html").read_bytes() == write_report(run, tmp_path / "b.html").read_bytes()


def test_the_command_writes_beside_the_run_and_says_where(tmp_path, capsys):
    run = write_run(tmp_path, [record()])
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"report      {run / 'report.html'}\n"
    assert (run / "report.html").is_file()


def test_the_command_takes_two_runs_a_file_and_a_sample(tmp_path, capsys):
    runs = [write_run(tmp_path / name, [record()]) for name in ("a", "b")]
    out = tmp_path / "both.html"
    assert main(["report", str(runs[0]), str(runs[1]), "--out", str(out), "--sample", "1"]) == 0
    assert [run["name"] for run in read_pack(out)["runs"]] == ["a", "b"]


@pytest.mark.parametrize("flags", [["nowhere"], ["RUN", "--out", "no/such/folder/page.html"]])
def test_mistakes_are_one_sentence_and_exit_code_2(tmp_path, capsys, flags):
    run = write_run(tmp_path, [record()])
    assert main(["report", *(str(run) if flag == "RUN" else flag for flag in flags)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("appo: ")
    assert error.count("\n") == 1


def test_a_sample_of_nothing_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["report", "run", "--sample", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_the_pack_says_its_format(tmp_path):
    found = read_pack(write_report(write_run(tmp_path, [record()])))
    assert found["format"] == 1
    assert found["made"].startswith("appo ")
    assert json.dumps(found)


def test_the_files_of_the_page_are_part_of_the_package():
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["appo"]
    files = list((root / "src" / "appo" / "report" / "html" / "page").iterdir())
    assert len(files) > 3
    for file in files:
        assert any(fnmatch(str(file.relative_to(root / "src" / "appo")), pattern) for pattern in patterns)


def test_a_console_is_told_what_is_read_and_a_log_nothing_that_is_quick(tmp_path):
    run = write_run(tmp_path / "run", [record()], [record(step=2)])
    said = {}
    for terminal in (True, False):
        out = io.StringIO()
        write_report(run, console=Console(file=out, force_terminal=terminal, width=80))
        said[terminal] = out.getvalue()
    assert "reading run" in said[True]
    assert "2/2" in said[True]
    assert said[False] == ""
