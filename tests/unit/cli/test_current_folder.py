"""What a recipe names may lie in the current folder, for `appo` and `python -m appo`, behind everything installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import appo

SOURCES = str(Path(appo.__file__).parents[1])
# What pip makes of `[project.scripts]`: its own folder comes first, and the current one is nowhere.
CONSOLE = ["-c", "import sys; sys.path[0] = {bin!r}; from appo.cli.main import main; sys.exit(main())"]
TASK = """
import json
from datasets import Dataset
from appo import Task
from appo.environments import kinship

assert not hasattr(json, "not_the_real_one")


def search(query: str) -> str:
    "Searches."
    return query


def rows(size, seed):
    return Dataset.from_list([{"prompt": f"boss e{seed}"}] * size)


def reward(completions, **columns):
    return [0.0] * len(completions)


TASK = Task(dataset=rows, reward_funcs=[reward], make_model=kinship.make_model, tools=[search])
"""


@pytest.mark.parametrize("how", ["console script", "module"])
def test_a_task_and_a_method_of_the_current_folder_are_found_and_shadow_nothing(tmp_path, recipe, how):
    (tmp_path / "my_task.py").write_text(TASK)
    (tmp_path / "my_method.py").write_text("from appo.methods import GRPO\n\n\nclass Mine(GRPO):\n    pass\n")
    for name in ("json", "yaml", "trl"):  # a standard module, and packages that are installed
        (tmp_path / f"{name}.py").write_text("not_the_real_one = True\n")
    path = recipe(task="my_task", demonstrations=0, method="my_method:Mine", method_args=None)
    start = [CONSOLE[0], CONSOLE[1].format(bin=str(tmp_path / "bin"))] if how == "console script" else ["-m", "appo"]
    environment = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start, "train", path, "--dry-run"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No mistakes found." in done.stdout
    assert "search; protocol tags" in done.stdout


def test_folders_that_are_called_like_libraries_are_none(tmp_path, recipe):
    """A checkout or a folder of logs: TRL would take `vllm` for a library, and fail over its version 'N/A'."""
    (tmp_path / "my_task.py").write_text(f"from mere_folder import words\n{TASK}")
    for name in ("vllm", "wandb", "trl", "deepspeed", "mere_folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "mere_folder" / "words.py").write_text("")
    path = recipe(task="my_task", demonstrations=0, method="grpo", method_args=None)
    # Before TRL is imported, as in a fresh process; the trainer's module is what asks for vLLM's version.
    program = (
        "import sys; from importlib.util import find_spec; from appo.cli.main import main; code = main(sys.argv[1:]); "
        "from trl import GRPOTrainer; assert find_spec('vllm') is find_spec('deepspeed') is None; sys.exit(code)"
    )
    (tmp_path / "start.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": SOURCES, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "start.py", "train", path, "--dry-run"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No mistakes found." in done.stdout


def test_a_module_without_a_task_is_named_with_its_file(tmp_path, recipe, monkeypatch, capsys):
    from appo.cli.main import main

    (tmp_path / "empty_task.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["train", recipe(task="empty_task"), "--dry-run"]) == 2
    sentence = (
        f"task = 'empty_task': the module holds no `TASK`; define TASK = appo.Task(...) in {tmp_path}/empty_task.py."
    )
    assert f"mistake: {sentence}" in capsys.readouterr().out
