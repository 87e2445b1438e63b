"""What an earlier start has left in a study's directory, and whether the study may go on with it.

Runs of another plan, recipe or code must not be mixed in: they are refused, or with `overwrite` put aside. Code is the
package, the module of the task, and the libraries that do the training. Left out on purpose: what only reports, and
data that a task reads.
"""

import ast
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from appo.cli.loading import TASKS
from appo.cli.recipe import NESTED, RecipeError, read_yaml
from appo.config import NOT_SETTINGS
from appo.files import OLD, fingerprint_files, read_json, read_lines, write_json
from appo.research.plan import Job, Study, cold_starts, run_settings

PACKAGE = Path(__file__).parents[1]
# Parts of the package that decide no result.
ONLY_REPORTS = (
    "__main__.py", "cli/main.py", "cli/dry_run.py", "cli/benchmark.py", "cli/records.py", "report",
    "research/__main__.py", "research/dry_run.py", "research/earlier.py", "research/report.py", "research/schedule.py",
    "research/statistics.py", "research/workers.py",
)  # fmt: skip
LIBRARIES = ("torch", "transformers", "trl")
# The plan decides the results; these do not, and a study may go on with other values.
NOT_DECIDING = (
    "recipe", "output_dir", "jobs", "test_seeds", "validation_seeds", "rivals", "candidates", "arms", "testbeds",
    "overwrite",
)  # fmt: skip


@cache
def code_of(task: str) -> dict[str, str]:
    """Fingerprints of all code that decides what a run of `task` (as a recipe names it) comes to."""
    return {
        "the package appo": fingerprint_files(_package_files(PACKAGE)),
        f"the task {task}": fingerprint_files(_task_files(task)),
        **{name: version(name) for name in LIBRARIES},
    }


def _package_files(package: Path) -> list[Path]:
    without = [package / part for part in ONLY_REPORTS]
    return [path for path in package.rglob("*.py") if not any(path.is_relative_to(part) for part in without)]


def _task_files(task: str) -> set[Path]:
    """A task's module: all of the package it lies in, else its file and those beside it that it imports."""
    name = task.partition(":")[0]
    top = TASKS.get(name, name).partition(".")[0]
    spec = find_spec(top) if top.isidentifier() and top != "appo" else None
    if spec is None:
        return set()
    if spec.submodule_search_locations:
        return {path for place in spec.submodule_search_locations for path in Path(place).rglob("*.py")}
    found: set[Path] = set()
    left = [Path(spec.origin)] if spec.origin else []
    while left:
        path = left.pop()
        if path.is_file() and path not in found:
            found.add(path)
            left += [path.parent / f"{imported}.py" for imported in _imports(path)]
    return found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def go_on(plan: Study, directory: Path) -> None:
    """Makes the directory ready for the runs that are missing.

    Raises:
        RecipeError: where it holds runs of another plan, recipe or code, with what has changed.
    """
    if plan.overwrite:
        _put_aside(directory)
    _drop_torn_line(directory / "runs.jsonl")
    path = directory / "study.json"
    settings = json.loads(json.dumps({**asdict(plan), "recipe_fields": _recipe_fields(plan), "code": _codes(plan)}))
    old = read_json(path) or {}
    runs = lines_of(directory)
    if runs and not old:
        raise RecipeError(
            f"{directory} holds runs, but no whole study.json that says of which study they are; give another "
            "--output_dir, or --overwrite true."
        )
    if runs and (changed := _changed_settings(settings, old)):
        raise RecipeError(
            f"{directory} holds runs with another {changed[0]}; give another --output_dir, or --overwrite true."
        )
    if changed := _changed_code(plan, settings["code"], old.get("code", {}), runs):
        raise RecipeError(
            f"{directory} holds results of other code (changed: {', '.join(changed)}); give another --output_dir, or "
            "--overwrite true to do them again."
        )
    write_json(path, settings)


def _put_aside(directory: Path) -> None:
    """Removes what a study would go on with; the runs are kept under another name."""
    if not any((directory / name).exists() for name in ("study.json", "runs.jsonl")):
        return  # no study's
    if (runs := directory / "runs.jsonl").exists():
        os.replace(runs, runs.with_name(runs.name + OLD))
    shutil.rmtree(directory / "models", ignore_errors=True)
    (directory / "study.json").unlink(missing_ok=True)


def _recipe_fields(plan: Study) -> dict[str, Any]:
    """What the recipe says, cold start included, field by field."""
    fields = read_yaml(plan.recipe)
    nested = fields.pop(NESTED, None)
    fields.update({f"{NESTED}.{name}": value for name, value in nested.items()} if isinstance(nested, dict) else {})
    return {name: str(value) for name, value in fields.items() if name.rpartition(".")[2] not in NOT_SETTINGS}


def _codes(plan: Study) -> dict[str, dict[str, str]]:
    """Of the cold starts' tasks, by testbed."""
    return {
        job.testbed or "base": code_of(run_settings(plan, job)[0].task)
        for job in cold_starts(plan)
        if job.cold_start == 0
    }


def _changed_settings(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Arms and testbeds may be added, not changed."""
    elsewhere = (*NOT_DECIDING, "recipe_fields", "code")
    changed = [name for name in new if name not in elsewhere and new[name] != old.get(name)]
    for name in ("arms", "testbeds"):
        both = set(new[name]) & set(old.get(name, {}))
        changed += [f"{name}.{key}" for key in sorted(both) if _fixed(new[name][key]) != _fixed(old[name][key])]
    fields, old_fields = new["recipe_fields"], old.get("recipe_fields", {})
    names = sorted({*fields, *old_fields})
    return changed + [f"recipe ({name})" for name in names if fields.get(name) != old_fields.get(name)]


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in NOT_DECIDING}


def _changed_code(
    plan: Study, new: dict[str, dict[str, str]], old: dict[str, dict[str, str]], runs: list[dict[str, Any]]
) -> list[str]:
    """What of the code is not as it was for a cold start or a run of this plan."""
    pairs = [(new[name], old[name]) for name in new if name in old]
    codes: dict[tuple[str, str], dict[str, str]] = {}
    for run in runs:
        testbed, arm = run.get("testbed"), run.get("arm")
        if testbed in plan.testbeds and arm in plan.arms:
            if (testbed, arm) not in codes:
                job = Job(0, testbed, arm, run["phase"], run["seed"], run["learning_rate"])
                codes[testbed, arm] = code_of(run_settings(plan, job)[0].task)
            pairs.append((codes[testbed, arm], run.get("code", {})))
    return list(dict.fromkeys(name for now, then in pairs for name in now if now[name] != then.get(name)))


def lines_of(directory: Path) -> list[dict[str, Any]]:
    """The runs that have finished."""
    path = directory / "runs.jsonl"
    return list(read_lines(path)) if path.exists() else []


def _drop_torn_line(path: Path) -> None:
    """Removes what a kill has left of a last line: the next line would go on in it."""
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])
