"""`appo show RUN`: a run's rollouts in a terminal."""

import subprocess
import sys

import pytest

from appo.cli.main import main
from appo.environments import kinship
from appo.files import append_lines
from appo.rollout.records import RecordWriter

TEXT = "<think> plan start boss </think> <search> boss e1 </search> <result> e2 </result> <answer> {} </answer>"
REDRAWN = "at token 1, ' plan' drawn again (score 2.5, rank 1)"
MASK = [1] * 9 + [0] * 3 + [1] * 3
SETTINGS = {"tool_protocol": "tags", "success_reward": 1.0}


@pytest.fixture(scope="module")
def tokenizer():
    return kinship.make_model()[1]


@pytest.fixture
def record(tokenizer):
    """Makes a record of a rollout that calls once and answers."""

    def make(answer="e2", *, error=None, scores=True, **values):
        ids = tokenizer(TEXT.format(answer), add_special_tokens=False)["input_ids"]
        assert len(ids) == len(MASK)
        call = {"name": "search", "arguments": "boss e1", "result": "e2", "error": error, "ran": True}
        measured = {
            "entropies": [0.1 * place for place in range(15)],
            "omega": [1.5] * 15,
            "score": [float(-place) for place in range(15)],
            "advantages": [-0.5 if place != 4 else 2.0 for place in range(15)],
            "factors": {"base": [-0.25] * 15, "future_factor": [2.0 if place != 4 else -8.0 for place in range(15)]},
        }
        return {
            "step": 1, "task": "0.0.7", "rollout": 0, "prompt": "start boss e1", "row": {"answer": "e2"},
            "completion_ids": ids, "policy_mask": MASK, "finish_reason": "stop", "reward": 1.0,
            "rewards": {"exact_answer": 1.0, "style": float("nan")},
            "tool_calls": [{**call, "start": 5, "end": 9, "result_start": 9, "result_end": 12}],
            "initial_mean": 0.5, "initial_std": 0.5, **(measured if scores else {}), **values,
        }  # fmt: skip

    return make


@pytest.fixture
def run(tmp_path, record, tokenizer):
    """Two updates and an evaluation; the second update has two tasks, one of them with a branch."""
    writer = RecordWriter(tmp_path / "run" / "records", SETTINGS, tokenizer)
    writer.append(1, [record(reward=0.0, task="0.0.1")])
    branch = {"parent": 1, "branch_position": 1, "branch_score": 2.5, "branch_rank": 1, "rollout": 2}
    first = [
        record(step=2),
        record("e1", step=2, rollout=1, reward=0.0, error="timeout"),
        record(step=2, scores=False, **branch, logprobs=[-0.5] * 15),
    ]
    second = [record("e3", step=2, task="0.0.8", reward=0.25, initial_mean=0.25, row={"answers": ["e9"]})]
    writer.append(2, [*first, *second])
    writer.append_evaluation("before", [record(step=0, task="4", reward=0.0)])
    writer.append_evaluation("after", [record(step=2, task="4", scores=False)])
    return str(tmp_path / "run")


@pytest.fixture
def shown(run, capsys):
    """What the command prints."""

    def show(*flags, code=0):
        assert main(["show", run, *flags]) == code
        return capsys.readouterr().out if code == 0 else capsys.readouterr().err

    return show


def test_the_last_updates_tasks_are_shown_unasked(shown, run):
    lines = shown().splitlines()
    assert lines[0] == "update 2: mean rewards of each task's rollouts"
    # Rewards 1 and 0 initially, 1 of the branch; three calls of three rollouts, one of which failed.
    assert lines[2].split() == [
        "0.0.7", "0.50", "of", "2", "1.00", "of", "1", "1.0", "1", "0", "e2", "start", "boss", "e1",
    ]  # fmt: skip
    assert lines[3].split()[:5] == ["0.0.8", "0.25", "of", "1", "-"]
    assert lines[4] == "2 tasks, 4 rollouts, 1 of 3 initial rollouts succeeded"
    assert lines[6].startswith(f"appo show {run} --step 2 --task 0.0.7 ")


def test_every_update_has_its_own_head(shown):
    out = shown("--step", "all")
    assert out.index("update 1: ") < out.index("1 task, 1 rollout") < out.index("update 2: ")


def test_what_is_beyond_the_limit_is_told(shown):
    out = shown("--limit", "1")
    assert "1 task, 3 rollouts shown" in out and "more follow: --limit 0 shows all" in out and "0.0.8" not in out


def test_a_task_shows_texts_calls_errors_rewards_and_branches(shown):
    out = shown("--task", "0.0.7")
    for line in [
        "update 2, task 0.0.7",
        "prompt     start boss e1",
        "reference  e2",
        "rewards    2 initial, mean 0.5, standard deviation 0.5; 1 branch, mean -, standard deviation -",
        "rollout 1: reward 0; ended by stop; 12 tokens written, 3 of results; 1 call, 1 failed",
        "parts      exact_answer 1, style does not apply",
        "advantage  -0.2917 on average, -0.5 to 2",  # (11 * -0.5 + 2) / 12
        "thought    <think> plan start boss </think>",
        "call       <search> boss e1 </search>",
        "result     <result> e2 </result>",
        "error      search: timeout",
        "answer     <answer> e1 </answer>",
        f"branch     rollout 2 {REDRAWN}: reward 1 (+1), <answer> e2 </answer>",
    ]:
        assert line in out.splitlines()
    assert "0.0.8" not in out


def test_a_branch_begins_where_it_left_its_parent(shown):
    lines = shown("--task", "0.0.7", "--rollout", "2").splitlines()
    assert f"branch     left rollout 1 {REDRAWN}; what stands before is its parent's" in lines
    assert "thought    plan start boss </think>" in lines


def test_one_rollout_shows_its_weightiest_tokens(shown):
    out = shown("--task", "0.0.7", "--rollout", "1")
    advantages, scores = out.split("the highest scores, where branches are drawn\n")
    head, first = advantages.splitlines()[-11:-9]
    assert head.split() == ["at", "token", "part", "entropy", "score", "future_factor", "advantage", "branches"]
    assert first.split() == ["4", "'", "</think>'", "thought", "0.4", "-4", "-8", "2"]
    assert scores.splitlines()[2].split()[-2:] == ["2:", "1"]  # token 1: branch 2 earned 1
    assert "at every token: omega 1.5, base -0.25" in out


def test_every_tokens_numbers_are_shown_when_asked_for(shown):
    rows = shown("--task", "0.0.7", "--rollout", "0", "--tokens").split("every token\n")[1].splitlines()[1:16]
    assert [row.split()[0] for row in rows] == [str(place) for place in range(15)]
    assert rows[9].split() == ["9", "'", "<result>'", "result", "-", "-", "-", "-"]  # a tool's: no number, not 0


def test_a_rollout_without_numbers_says_so(shown):
    out = shown("--kind", "evaluation", "--task", "4", "--rollout", "0")
    assert "no advantages were written down for this rollout's tokens" in out


def test_failures_are_those_below_the_runs_own_bound(shown):
    out = shown("--failed")
    assert [line.split(";")[0] for line in out.splitlines() if line.startswith("rollout")] == [
        "rollout 1: reward 0",
        "rollout 0: reward 0.25",
    ]


def test_the_worst_of_equal_rewards_is_that_of_the_best_task(shown):
    out = shown("--worst", "2", "--step", "all")
    tasks = [line for line in out.splitlines() if line.startswith("update")]
    assert tasks == ["update 2, task 0.0.7", "update 1, task 0.0.1"]  # whose other rollouts earned 2/3, and 0


def test_the_last_evaluation_is_that_of_the_latest_step(shown):
    assert "evaluation after" in shown("--kind", "evaluation")
    assert "evaluation before, task 4" in shown("--kind", "evaluation", "--step", "0", "--failed")
    assert "has no rollout without success there." in shown("--kind", "evaluation", "--failed")


def test_a_rollout_that_nobody_scored_has_not_failed(tmp_path, record, capsys):
    RecordWriter(tmp_path / "records", SETTINGS).append(1, [record(reward=None)])
    assert main(["show", str(tmp_path), "--failed"]) == 0
    assert "has no rollout without success there." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--step", "9"], "holds nothing of step 9; there are steps 1 to 2."),
        (["--task", "nix"], "task = 'nix': "),
        (["--task", "0.0.7", "--step", "1"], "holds none of this name at step 1."),
        (["--task", "0.0.7", "--rollout", "3"], "task 0.0.7 of update 2 has none of this number, but 0 to 2."),
    ],
)
def test_what_is_not_there_is_one_sentence(shown, flags, sentence):
    error = shown(*flags, code=2)
    assert sentence in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--rollout", "0"],
        ["--tokens"],
        ["--step", "last"],
        ["--worst", "0"],
        ["--task", "0", "--rollout", "0", "--failed"],
    ],
)
def test_flags_that_say_too_little_are_refused(run, flags):
    with pytest.raises(SystemExit, match="2"):
        main(["show", run, *flags])


def test_what_a_model_wrote_does_not_reach_the_terminal_as_a_command(tmp_path, record, capsys):
    prompt = "a\x1b[2Jb\u202ec\ud800\r\nd"
    RecordWriter(tmp_path / "records", SETTINGS).append(1, [record(prompt=prompt)])
    assert main(["show", str(tmp_path), "--task", "0.0.7"]) == 0
    out = capsys.readouterr().out
    assert "prompt     a\\x1b[2Jb\\u202ec\\ud800\n           d\n" in out


def test_tokens_are_ids_where_no_vocabulary_was_written(tmp_path, record, capsys):
    made = record()
    RecordWriter(tmp_path / "records", SETTINGS).append(1, [made])
    assert main(["show", str(tmp_path), "--task", "0.0.7"]) == 0
    assert f"thought    <{made['completion_ids'][0]}><{made['completion_ids'][1]}>" in capsys.readouterr().out


def test_an_older_runs_last_update_is_shown(tmp_path, capsys):
    lines = [{"step": step, "task": "0", "rollout": 0, "completion_ids": [5], "policy_mask": [1]} for step in (1, 2)]
    append_lines(tmp_path / "records.jsonl", lines)
    assert main(["show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "update 2: " in out and "update 1: " not in out
    assert main(["show", str(tmp_path), "--task", "0", "--step", "2"]) == 0
    assert "rollout 0: reward -; ended by nothing that is known; 1 token written" in capsys.readouterr().out


def test_colours_are_for_terminals_and_no_color(run, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich's way to call anything a terminal
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["show", run, "--task", "0.0.7"]) == 0
    assert "\x1b[36m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["show", run, "--task", "0.0.7"]) == 0
    assert "\x1b[36m" not in capsys.readouterr().out


def test_a_reader_who_has_seen_enough_ends_it_quietly(run):
    code = "import sys; from appo.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "show", run, "--step", "all", "--limit", "0", "--failed"]
    # Nobody reads: the pipe is closed before the first line.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


@pytest.mark.parametrize("row", [None, "text", ["a", "b"], 5])
def test_a_data_row_that_is_no_mapping_has_no_reference(tmp_path, record, tokenizer, capsys, row):
    RecordWriter(tmp_path / "records", SETTINGS, tokenizer).append(1, [record(row=row)])
    assert main(["show", str(tmp_path), "--task", "0.0.7"]) == 0
    assert "boss e1" in capsys.readouterr().out
