"""What a study may go on with: the same plan, recipe and code, and nothing else."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from appo.cli.recipe import RecipeError
from appo.files import read_lines
from appo.research import earlier
from appo.research.earlier import code_of, go_on
from appo.research.plan import Study

RECIPE = {
    "task": "my_task",
    "demonstrations": 64,
    "cold_start": {"max_steps": 5},
    "num_generations": 4,
    "method_args": {"num_initial_rollouts": 2, "num_branch_points": 1},
    "per_device_train_batch_size": 8,
    "steps_per_generation": 2,
    "tool_protocol": "tags",
    "bf16": False,
    "use_cpu": True,
}
STUDY = {
    "testbeds": {"small": {"max_completion_length": 32}, "large": {"questions": 9, "max_completion_length": 64}},
    "arms": {"appo": {}, "arpo": {"method": "arpo", "learning_rates": [3e-4]}},
    "rivals": ["arpo"],
    "candidates": ["appo"],
    "learning_rates": [1e-4, 2e-4],
}


@pytest.fixture(autouse=True)
def _task(tmp_path, monkeypatch):
    """A task in a module of its own, which imports another; and fingerprints that are taken anew."""
    (tmp_path / "my_task.py").write_text("import json\nfrom my_tools import search\nTASK = search\n")
    (tmp_path / "my_tools.py").write_text("def search(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    code_of.cache_clear()
    yield
    code_of.cache_clear()


def plan(directory, **changes):
    if not (directory / "recipe.yaml").exists():
        (directory / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    values = {"recipe": str(directory / "recipe.yaml"), "output_dir": str(directory), **STUDY, **changes}
    return Study(**values)


def begin(directory):
    """Makes a directory that holds a run."""
    go_on(plan(directory), directory)
    line = {"testbed": "small", "arm": "appo", "phase": "test", "cold_start": 0, "seed": 2000, "learning_rate": 1e-4}
    (directory / "runs.jsonl").write_text(json.dumps({**line, "code": code_of("my_task")}) + "\n")
    code_of.cache_clear()


def edit_recipe(directory, **changes):
    (directory / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"questions": 7}, "questions"),
        ({"cold_starts": 3}, "cold_starts"),
        ({"base": {}}, "base"),
        ({"arms": {"appo": {"method_args": {"half_life": 8}}, "arpo": STUDY["arms"]["arpo"]}}, "arms.appo"),
        ({"testbeds": {"small": {}}}, "testbeds.small"),
    ],
)
def test_runs_of_another_plan_are_not_mixed_in(tmp_path, changes, name):
    begin(tmp_path)
    with pytest.raises(RecipeError, match=f"holds runs with another {name}; give another --output_dir"):
        go_on(plan(tmp_path, **changes), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"test_seeds": 9, "jobs": 1, "validation_seeds": 5},
        {"testbeds": {**STUDY["testbeds"], "small": {"test_seeds": 9, "max_completion_length": 32}}},
        {"arms": {**STUDY["arms"], "grpo": {}}, "candidates": ["grpo"]},
        {"testbeds": {**STUDY["testbeds"], "huge": {}}},
        {"arms": {"arpo": STUDY["arms"]["arpo"]}, "candidates": []},
    ],
)
def test_seeds_arms_and_testbeds_may_be_added(tmp_path, changes):
    begin(tmp_path)
    go_on(plan(tmp_path, **changes), tmp_path)
    go_on(plan(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"cold_start": {"max_steps": 6}}, "cold_start.max_steps"),
        ({"method_args": {**RECIPE["method_args"], "half_life": 16.0}}, "method_args"),
    ],
)
def test_runs_of_an_edited_recipe_are_not_mixed_in(tmp_path, changes, name):
    begin(tmp_path)
    edit_recipe(tmp_path, **changes)
    with pytest.raises(RecipeError, match=rf"holds runs with another recipe \({name}\); give another --output_dir"):
        go_on(plan(tmp_path), tmp_path)
    edit_recipe(tmp_path)
    go_on(plan(tmp_path), tmp_path)


def test_what_a_recipe_says_about_its_output_may_change_and_so_may_its_place(tmp_path):
    begin(tmp_path)
    edit_recipe(tmp_path, logging_steps=7, output_dir="elsewhere", cold_start={"max_steps": 5, "save_steps": 3})
    (tmp_path / "recipe.yaml").rename(tmp_path / "moved.yaml")
    go_on(plan(tmp_path, recipe=str(tmp_path / "moved.yaml")), tmp_path)


def refusal(directory):
    with pytest.raises(RecipeError) as error:
        go_on(plan(directory), directory)
    return str(error.value)


@pytest.mark.parametrize("module", ["my_task.py", "my_tools.py"])
def test_runs_of_another_task_module_are_refused(tmp_path, module):
    begin(tmp_path)
    (tmp_path / "unrelated.py").write_text("x = 1\n")
    go_on(plan(tmp_path), tmp_path)
    code_of.cache_clear()
    (tmp_path / module).write_text((tmp_path / module).read_text() + "# another\n")
    assert refusal(tmp_path) == (
        f"{tmp_path} holds results of other code (changed: the task my_task); give another --output_dir, or "
        "--overwrite true to do them again."
    )


def test_any_module_of_the_package_that_a_task_lies_in_counts(tmp_path):
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "task.py").write_text("TASK = None\n")
    (tmp_path / "mine" / "deep" / "tools.py").write_text("x = 1\n")
    before = code_of("mine.task:TASK")["the task mine.task:TASK"]
    (tmp_path / "mine" / "deep" / "tools.py").write_text("x = 2\n")
    code_of.cache_clear()
    assert code_of("mine.task:TASK")["the task mine.task:TASK"] != before


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("algorithm/future_value.py", True),
        ("trainer.py", True),
        ("rewards/answers.py", True),
        ("research/one_run.py", True),
        ("environments/kinship.py", True),
        ("research/report.py", False),
        ("report/curves.py", False),
        ("cli/main.py", False),
    ],
)
def test_runs_of_another_package_are_refused_unless_what_differs_only_reports(tmp_path, monkeypatch, module, counts):
    begin(tmp_path)
    copy = tmp_path / "copy" / "appo"
    shutil.copytree(earlier.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(earlier, "PACKAGE", copy)
    go_on(plan(tmp_path), tmp_path)
    code_of.cache_clear()
    with open(copy / module, "a") as file:
        file.write("# another\n")
    if counts:
        assert "other code (changed: the package appo)" in refusal(tmp_path)
    else:
        go_on(plan(tmp_path), tmp_path)


def test_cold_starts_of_other_code_are_refused_before_there_is_a_run(tmp_path):
    begin(tmp_path)
    (tmp_path / "runs.jsonl").unlink()
    (tmp_path / "my_task.py").write_text("TASK = None\n")
    assert "other code (changed: the task my_task)" in refusal(tmp_path)


def test_runs_from_before_code_was_recorded_are_refused(tmp_path):
    begin(tmp_path)
    (line,) = read_lines(tmp_path / "runs.jsonl")
    del line["code"]
    (tmp_path / "runs.jsonl").write_text(json.dumps(line) + "\n")
    assert "other code (changed: the package appo, the task my_task, torch, transformers, trl)" in refusal(tmp_path)


def test_overwrite_begins_anew_and_keeps_the_runs_under_another_name(tmp_path):
    begin(tmp_path)
    (tmp_path / "models" / "small-0").mkdir(parents=True)
    runs = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "my_task.py").write_text("TASK = None\n")
    go_on(plan(tmp_path, overwrite=True), tmp_path)
    assert not (tmp_path / "models").exists() and not (tmp_path / "runs.jsonl").exists()
    assert (tmp_path / "runs.jsonl.old").read_text() == runs
    go_on(plan(tmp_path), tmp_path)


def test_overwrite_leaves_a_directory_alone_that_holds_no_study(tmp_path):
    (tmp_path / "models").mkdir()
    go_on(plan(tmp_path, overwrite=True), tmp_path)
    assert (tmp_path / "models").exists()


def test_half_a_line_that_a_kill_left_is_removed(tmp_path):
    path = tmp_path / "runs.jsonl"
    earlier._drop_torn_line(path)
    assert not path.exists()
    for text, left in (('{"a": 1}\n{"b"', '{"a": 1}\n'), ('{"a": 1}\n', '{"a": 1}\n'), ('{"b', "")):
        path.write_text(text)
        earlier._drop_torn_line(path)
        assert path.read_text() == left


def test_runs_without_the_plan_that_they_are_of_are_refused_until_overwritten(tmp_path):
    begin(tmp_path)
    (tmp_path / "study.json").unlink()
    assert "holds runs, but no whole study.json that says of which study they are" in refusal(tmp_path)
    go_on(replace(plan(tmp_path), overwrite=True), tmp_path)
    assert (tmp_path / "runs.jsonl.old").exists() and not (tmp_path / "runs.jsonl").exists()
