"""A dry run of a task that raises: every other mistake is still told, exit code 2, with the traceback of the fault."""

import pytest

from appo.cli.main import main

HEAD = """
from datasets import Dataset
from appo import Task
from appo.methods import GRPO


def rows(size, seed):
    return Dataset.from_list([{"prompt": f"boss e{seed}"}] * size)


def reward(completions, **columns):
    return [0.0] * len(completions)


"""
TASK = "TASK = Task(dataset=rows, reward_funcs=[reward])\n"
OTHER_MISTAKES = (
    "learning_rate must be at least 0, got -1.0.",
    "mistake: lora: `r` should be a positive integer value but the value passed is 0.",
)


@pytest.fixture
def dry_run(recipe, tmp_path, monkeypatch, capsys, model_directory):
    """What a dry run prints of a task with this source, and to stderr; the recipe has two more mistakes."""

    def run(name, source, **changes):
        (tmp_path / f"{name}.py").write_text(HEAD + source)
        monkeypatch.syspath_prepend(tmp_path)
        fields = {"demonstrations": 0, "learning_rate": -1, "lora": {"r": 0}, "model": model_directory, **changes}
        assert main(["train", recipe(task=name, **fields), "--dry-run"]) == 2
        out, err = capsys.readouterr()
        assert all(mistake in out for mistake in OTHER_MISTAKES), out
        return out, err

    return run


@pytest.mark.parametrize(
    ("name", "source", "mistake", "raised"),
    [
        ("at_import", "raise RuntimeError('at import')\n", "task: at import (RuntimeError in", "RuntimeError: at"),
        ("at_exit", "import sys\nsys.exit('good bye')\n", "task: good bye (SystemExit in", "SystemExit: good bye"),
        ("at_making", "def TASK():\n    raise KeyError('here')\n", "task: 'here' (KeyError in", "KeyError: 'here'"),
        ("in_data", "def rows(size, seed):\n    return 1 / 0\n\n\n" + TASK, "data: division by zero (Zero", "ZeroDiv"),
        (
            "in_making_an_environment",
            "class World:\n    def __init__(self):\n        raise OSError('no world')\n\n\n"
            "TASK = Task(dataset=rows, reward_funcs=[reward], environment_factory=World)\n",
            "tools: no world (OSError in", "OSError: no world",
        ),
        (
            "in_reset",
            "class World:\n    def reset(self, **row):\n        raise OSError('no row')\n\n\n"
            "TASK = Task(dataset=rows, reward_funcs=[reward], environment_factory=World)\n",
            "reset: no row (OSError in", "OSError: no row",
        ),
    ],
)  # fmt: skip
def test_a_fault_in_a_task_is_one_mistake_of_several(dry_run, tmp_path, name, source, mistake, raised):
    out, err = dry_run(name, source)
    assert f"mistake: {mistake}" in out and f"{tmp_path / name}.py, line " in out
    assert "Traceback (most recent call last)" in err and raised in err
    assert err.count("Traceback") == 1  # though several checks may meet it


def test_a_reset_that_does_not_take_the_rows_columns_is_a_mistake(dry_run):
    source = "class World:\n    def reset(self, question):\n        pass\n\n\n"
    source += "TASK = Task(dataset=rows, reward_funcs=[reward], environment_factory=World)\n"
    out, err = dry_run("of_another_column", source)
    assert "mistake: environment_factory: its reset(question) cannot be given the row's columns prompt: " in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("method", "raised"),
    [("class Mine(GRPO):\n    def check(self):\n        1 / 0\n", "in check"), ("Mine = 1 / 0\n", "in <module>")],
)
def test_a_fault_in_a_method_is_one_mistake_of_several(dry_run, tmp_path, method, raised):
    name = f"own_method_{len(method)}"
    (tmp_path / f"{name}.py").write_text(HEAD + method)
    out, err = dry_run(f"beside_{name}", TASK, method=f"{name}:Mine", method_args=None)
    assert f"mistake: method: division by zero (ZeroDivisionError in {tmp_path / name}.py, line " in out
    assert raised in err
    assert out.count("mistake: ") == 1 + len(OTHER_MISTAKES)  # nothing that follows from the method's absence


def test_every_tool_that_says_too_little_is_a_mistake_of_its_own(dry_run):
    tools = "def a(x):\n    'Does a.'\n\n\ndef b(y: str):\n    return y\n\n\n"
    out, _ = dry_run("with_tools", tools + "TASK = Task(dataset=rows, reward_funcs=[reward], tools=[a, b])\n")
    assert "mistake: tool a: the parameter x has no type hint; write `x: str`, or another type." in out
    assert "mistake: tool b has no docstring; write one" in out


def test_a_tool_without_a_name_is_one_mistake(dry_run):
    source = (
        "import functools\n\n\nTASK = Task(dataset=rows, reward_funcs=[reward], tools=[functools.partial(reward)])\n"
    )
    out, err = dry_run("with_a_partial", source)
    assert "mistake: tools: a functools.partial of reward has no name of its own; write a function with `def`" in out
    assert out.count("has no name of its own") == 1 and "Traceback" not in err
