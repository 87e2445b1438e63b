"""`appo train` after kills, full disks and edits: it goes on exactly, or says in one sentence why it does not."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from recorded import recorded
from test_cli import TINY

from appo.cli.main import main
from appo.rollout.records import read_records
from appo.trainer import APPOTrainer

# The cold start, the rows, a reward of its own, and one number that a test may edit.
TASK = """
from dataclasses import replace
from datasets import Dataset
from appo.environments import kinship

def reward(completion_ids, **kwargs):
    return [0.0 for ids in completion_ids]  # edited

def demonstrations(size, seed):
    return list(kinship.TASK.demonstrations(size, seed + FIRST))

TASK = replace(kinship.TASK, reward_funcs=[reward], demonstrations=demonstrations,
               dataset=lambda size, seed: kinship.TASK.dataset(size, seed + ROWS))
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + f"save_total_limit: 5\noutput_dir: {tmp_path / 'run'}\n")
    return path


def interrupt_at(monkeypatch, step):
    """Ctrl-C in the update after `step`."""
    original = APPOTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(APPOTrainer, "training_step", training_step)


@pytest.fixture
def interrupted(recipe, monkeypatch, capsys):
    """A run with checkpoint 2 of 4 updates."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert main(["train", str(recipe)]) == 130
    capsys.readouterr()
    return recipe


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--learning_rate", "0.5"], "learning_rate (1e-06, now 0.5)"),
        (["--lora", '{"r": 2}'], "lora (None, now {'r': 2})"),
        (["--cold_start.max_steps", "6"], "cold_start"),
        (["--task", "kinship:LOUD"], "task ('kinship', now 'kinship:LOUD')"),
        (["--eval_size", "10", "--temperature", "0.9"], "eval_size (20, now 10), temperature"),
    ],
)
def test_an_unfinished_run_is_not_gone_on_with_under_other_settings(interrupted, tmp_path, capsys, flags, named):
    assert main(["train", str(interrupted), *flags]) == 2
    error = capsys.readouterr().err
    assert "has other values of " in error and named in error and error.count("\n") == 1
    assert main(["train", str(interrupted), *flags, "--overwrite", "true"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["max_steps"] == 4


def test_how_often_it_is_saved_may_change(interrupted):
    assert main(["train", str(interrupted), "--save_steps", "1", "--logging_steps", "2"]) == 0


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("FIRST", "1", "the cold start (demonstrations, tools or model)"),
        ("ROWS", "1", "the evaluation's questions, the training rows"),
        ("return [0.0", "return [1.0", "tools, rewards or environment"),
    ],
)
def test_an_unfinished_run_is_not_gone_on_with_after_its_task_was_edited(
    recipe, tmp_path, monkeypatch, capsys, before, after, named
):
    text = TASK.replace(before, "return [0.0" if before.startswith("return") else "0")
    edited = TASK.replace(before, after)
    for name, content in (("first_version", text), ("second_version", edited)):
        content = content.replace("FIRST", "0").replace("ROWS", "0")
        (tmp_path / name).mkdir()
        (tmp_path / name / "my_task.py").write_text(content)

    def use(name):
        sys.modules.pop("my_task", None)
        monkeypatch.setattr(sys, "path", [str(tmp_path / name), *sys.path])

    command = ["train", str(recipe), "--task", "my_task"]
    use("first_version")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert main(command) == 130
    use("second_version")
    cold_start = (tmp_path / "run" / "cold_start" / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"was started with another content of {named};" in error and error.count("\n") == 1
    assert (tmp_path / "run" / "cold_start" / "model.safetensors").read_bytes() == cold_start
    use("first_version")
    assert main(command) == 0


def test_a_cold_start_from_other_demonstrations_is_done_again(recipe, tmp_path, monkeypatch, capsys):
    said = []
    for number, first in enumerate(("0", "0", "7")):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "my_task.py").write_text(TASK.replace("FIRST", first).replace("ROWS", "0"))
        sys.modules.pop("my_task", None)
        monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
        assert main(["sft", str(recipe), "--task", "my_task"]) == 0
        said.append(capsys.readouterr().out)
    assert "cold start: found in" in said[1]
    assert "cold start: training again, with other values of demonstrations" in said[2]


def test_a_cold_start_killed_between_its_weights_and_its_description_leaves_the_old_one(
    recipe, tmp_path, monkeypatch, capsys
):
    from appo.cli import cold_start

    weights = tmp_path / "run" / "cold_start" / "model.safetensors"
    assert main(["sft", str(recipe)]) == 0
    old = weights.read_bytes()

    def killed(path, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cold_start, "write_json", killed)
        assert main(["sft", str(recipe), "--cold_start.learning_rate", "0.01"]) == 130
    assert weights.read_bytes() == old
    capsys.readouterr()
    assert main(["sft", str(recipe)]) == 0
    assert "cold start: found in" in capsys.readouterr().out
    assert main(["sft", str(recipe), "--cold_start.learning_rate", "0.01"]) == 0
    assert "with other values of learning_rate" in capsys.readouterr().out
    assert weights.read_bytes() != old


@pytest.mark.parametrize(
    "name", ["checkpoint-4/trainer_state.json", "checkpoint-4/model.safetensors", "checkpoint-4/optimizer.pt"]
)
def test_a_broken_checkpoint_is_left_out_and_said(recipe, tmp_path, capsys, name):
    out = tmp_path / "run"
    assert main(["train", str(recipe)]) == 0
    whole = {path: (out / path).read_bytes() for path in ("model/model.safetensors", "result.json")}
    records = recorded(out)
    (out / "result.json").unlink()
    (out / "checkpoint-best").mkdir()
    os.truncate(out / name, (out / name).stat().st_size // 2)
    capsys.readouterr()
    assert main(["train", str(recipe)]) == 0
    printed = capsys.readouterr().out
    assert "checkpoint-4 is left out: " in printed and f"going on from {out / 'checkpoint-2'}" in printed
    for path, content in whole.items():
        assert (out / path).read_bytes() == content, path
    assert recorded(out) == records


def test_a_checkpoint_whose_content_changed_is_left_out(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(recipe)]) == 0
    weights = (out / "model" / "model.safetensors").read_bytes()
    (out / "result.json").unlink()
    optimizer = out / "checkpoint-4" / "optimizer.pt"
    optimizer.write_bytes(bytes(optimizer.stat().st_size))
    capsys.readouterr()
    assert main(["train", str(recipe)]) == 0
    assert "checkpoint-4 is left out: optimizer.pt has another content" in capsys.readouterr().out
    assert (out / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_cold_start_that_cannot_be_loaded_is_done_again(recipe, tmp_path, capsys, name):
    directory = tmp_path / "run" / "cold_start"
    assert main(["sft", str(recipe)]) == 0
    weights = (directory / "model.safetensors").read_bytes()
    os.truncate(directory / name, (directory / name).stat().st_size // 2)
    capsys.readouterr()
    assert main(["sft", str(recipe)]) == 0
    assert "cold start: training again, as the one that is there is broken (" in capsys.readouterr().out
    assert (directory / "model.safetensors").read_bytes() == weights


def test_checkpoints_of_weights_alone_are_not_gone_on_from(recipe, monkeypatch, capsys):
    command = ["train", str(recipe), "--save_only_model", "true"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert main(command) == 130
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "holds weights alone, as save_only_model is true" in error and error.count("\n") == 1


def test_a_second_command_in_one_directory_is_refused(recipe, tmp_path, monkeypatch, capsys):
    original, second = APPOTrainer.training_step, []

    def training_step(self, *args, **kwargs):
        if not second:
            command = [sys.executable, "-m", "appo", "train", str(recipe)]
            second.append(subprocess.run(command, capture_output=True, text=True, check=False))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(APPOTrainer, "training_step", training_step)
    assert main(["train", str(recipe)]) == 0
    assert second[0].returncode == 2
    assert "another command is at work in output_dir" in second[0].stderr and second[0].stderr.count("\n") == 1
    steps = [record["step"] for record in read_records(tmp_path / "run")]
    assert len(steps) == 4 * 8


def test_an_overwrite_that_was_killed_leaves_nothing_that_says_finished(recipe, tmp_path, monkeypatch):
    from appo.cli import run_directory

    out = tmp_path / "run"
    assert main(["train", str(recipe)]) == 0

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_directory.shutil, "rmtree", killed)
        assert main(["train", str(recipe), "--overwrite", "true"]) == 130
    assert not (out / "result.json").exists()


def test_records_that_are_lost_are_told(interrupted, tmp_path):
    (tmp_path / "run" / "records" / "000001.parquet").unlink()
    with pytest.warns(UserWarning, match=r"records holds 8 records of the 16 that were written before"):
        assert main(["train", str(interrupted)]) == 0


@pytest.mark.parametrize("name", ["result.json", "evaluation-before.json", "cold_start/cold_start.json", "run.json"])
def test_a_broken_description_is_found_out(recipe, tmp_path, capsys, name):
    out = tmp_path / "run"
    assert main(["train", str(recipe)]) == 0
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").unlink(missing_ok=name != "result.json") if name != "result.json" else None
    os.truncate(out / name, (out / name).stat().st_size // 2)
    capsys.readouterr()
    code = main(["train", str(recipe)])
    captured = capsys.readouterr()
    if name == "run.json":  # whose checkpoints these are is not known any more
        assert code == 2 and "holds checkpoints, but no run.json" in captured.err
    else:
        assert code == 0 and "broken" in captured.out
        assert json.loads((out / "result.json").read_text()) == result


def test_a_kill_behind_the_last_update_does_not_change_what_is_measured(recipe, tmp_path, monkeypatch):
    from appo.cli import train as run

    assert main(["train", str(recipe)]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    shutil.rmtree(tmp_path / "run")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "save_model", killed)
        assert main(["train", str(recipe)]) == 130
    assert main(["train", str(recipe)]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_a_named_checkpoint_that_is_none_is_one_sentence(recipe, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, sentence in (("none", "is no directory"), ("empty", "its trainer_state.json is missing or broken")):
        assert main(["train", str(recipe), "--resume_from_checkpoint", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_a_full_disk_is_one_sentence_and_loses_nothing(recipe, tmp_path, capsys):
    """/dev/full answers each write as a full disk does."""
    out = tmp_path / "run"
    assert main(["train", str(recipe), "--overwrite", "true"]) == 0
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").unlink()
    os.truncate(out / "checkpoint-4" / "optimizer.pt", 10)
    os.symlink("/dev/full", out / "checkpoint-4" / "whole.json.partial")
    capsys.readouterr()
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("appo: the disk is full (") and error.count("\n") == 1
    assert (out / "checkpoint-2" / "whole.json").exists()
    assert main(["train", str(recipe)]) == 0  # what failed has taken its partial file away
    assert json.loads((out / "result.json").read_text()) == result


def test_sigterm_writes_a_checkpoint_and_says_so(recipe, tmp_path):
    out = tmp_path / "run"
    assert main(["train", str(recipe), "--save_steps", "100", "--max_steps", "8", "--eval_size", "0"]) == 0
    whole = (out / "model" / "model.safetensors").read_bytes(), recorded(out)
    shutil.rmtree(out)
    # The signal is sent by the task's own reward, so that it comes in the middle of an update however slow that is.
    (tmp_path / "ending.py").write_text(
        "import functools, os, signal\n"
        "from dataclasses import replace\n"
        "from appo.environments import kinship\n"
        "calls = []\n"
        "@functools.wraps(kinship.TASK.reward_funcs[0])\n"
        "def reward(*args, **kwargs):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 5 and not os.path.exists('sent'):\n"
        "        open('sent', 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return kinship.TASK.reward_funcs[0](*args, **kwargs)\n"
        "TASK = replace(kinship.TASK, reward_funcs=[reward])\n"
    )
    flags = ["--task", "ending", "--save_steps", "100", "--max_steps", "8", "--eval_size", "0"]
    command = [sys.executable, "-m", "appo", "train", str(recipe), *flags]
    # One thread, as here: the last digits of sums depend on how many add them up.
    python_path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert run.returncode == 128 + signal.SIGTERM, run.stdout + run.stderr
    assert "appo: terminated; checkpoint-" in run.stderr
    written = [path.name for path in out.glob("checkpoint-*")]
    assert len(written) == 1 and written != ["checkpoint-8"]
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert f"going on from {out / written[0]}" in again.stdout
    assert ((out / "model" / "model.safetensors").read_bytes(), recorded(out)) == whole


def test_two_processes_measure_what_one_measures(recipe, tmp_path):
    """They share the questions out, all get one result, and one of them writes it."""
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    flags = ["--eval_size", "21", "--per_device_train_batch_size", "4", "--max_steps", "2"]
    command = [*launcher, "-m", "appo", "train", str(recipe), *flags]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads((out / "result.json").read_text())
    after = json.loads((out / "evaluation-after.json").read_text())
    assert result["after"] == after and after["questions"] == 21
    assert run.stdout.count("after: success") == 1
    alone = [sys.executable, "-m", "appo", "eval", str(recipe), *flags]
    printed = subprocess.run(alone, capture_output=True, text=True, check=True).stdout
    found = json.loads(printed[printed.index("{") :])
    assert found.pop("model") == str(out / "model")
    assert found == pytest.approx(after)


def test_accelerate_that_starts_one_process_of_two_is_one_sentence(recipe):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launcher, "-m", "appo", "train", str(recipe)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "`accelerate launch` was asked for several processes and started one" in run.stderr
    assert "torchrun --nproc_per_node" in run.stderr
