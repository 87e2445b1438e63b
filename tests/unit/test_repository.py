"""What holds the repository's shape: sizes of files and functions, and what stands beside the package."""

import ast
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import appo

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
SOURCE = sorted((REPOSITORY / "src").rglob("*.py"))
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
FILE_LINES, FUNCTION_LINES = 350, 50


def long_functions(text: str) -> dict[str, int]:
    """Functions that are too long, by name and place: lines from the first decorator to the end, with docstring."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min(part.lineno for part in (node, *node.decorator_list))
            found[f"{node.name}, line {first}"] = (node.end_lineno or first) - first + 1
    return {name: lines for name, lines in found.items() if lines > FUNCTION_LINES}


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


def commands(workflow: Path) -> list[list[str]]:
    """The words of each line that a workflow runs."""
    lines = [line for step in steps(workflow) for line in step.get("run", "").splitlines()]
    return [shlex.split(line) for line in lines]


def test_no_file_of_the_source_is_too_long() -> None:
    lines = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in SOURCE}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_no_function_of_the_source_is_too_long() -> None:
    found = {str(path.relative_to(REPOSITORY)): long_functions(path.read_text()) for path in SOURCE}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_no_two_files_of_tests_have_one_name() -> None:
    # pytest takes them for one module, and stops the whole run where it meets the second.
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_a_functions_lines_are_counted_from_its_first_decorator() -> None:
    body = "    x = 1\n" * 48
    assert long_functions(f"@a\ndef f():\n{body}") == {}  # 50 lines
    assert long_functions(f"@a\n@b\nasync def f():\n{body}") == {"f, line 1": 51}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []


def test_every_place_names_the_same_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == appo.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_paper_is_what_we_ask_to_be_cited() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert paper["title"] == "APPO: Agentic Procedural Policy Optimization"
    assert paper["url"] == "https://arxiv.org/abs/2606.12384"
    assert len(paper["authors"]) == 8


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_ends(workflow: Path) -> None:
    read = yaml.safe_load(workflow.read_text())
    assert read["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in read["jobs"].values())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_is_there(workflow: Path) -> None:
    """Where a step may fail, nobody would notice that its file has been renamed."""
    words = [word for command in commands(workflow) for word in command]
    files = [word for word in words if word.startswith(("tests/", ".ci/")) or word == "constraints.txt"]
    assert files and [file for file in files if not (REPOSITORY / file).exists()] == []
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = [target for program, *rest in filter(None, commands(workflow)) if program == "make" for target in rest]
    assert targets and [target for target in targets if f"\n{target}:" not in makefile] == []


def test_the_tests_run_on_the_oldest_python_and_those_after_it() -> None:
    read = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "test.yml").read_text())
    pythons = read["jobs"]["test"]["strategy"]["matrix"]["python"]
    (oldest,) = re.findall(r"^>=3\.(\d+)$", PROJECT["requires-python"])
    assert pythons == [f"3.{int(oldest) + later}" for later in range(3)]


def test_the_newest_trl_is_installed_last_and_may_fail() -> None:
    workflow = REPOSITORY / ".github" / "workflows" / "newest-trl.yml"
    (job,) = yaml.safe_load(workflow.read_text())["jobs"].values()
    assert job["continue-on-error"] is True
    installing = [command for command in commands(workflow) if "install" in command or command[0] == "make"]
    assert installing[-1][-2:] == ["--upgrade", "trl"]


def test_the_hooks_run_programs_that_the_extra_dev_installs() -> None:
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["id"] for hook in local["hooks"]] == ["ruff-check", "ruff-format", "mypy", "lint-imports"]
    packages = {"ruff": "ruff", "mypy": "mypy", "lint-imports": "import-linter"}
    declared = {re.split(r"[<>=\[; ]", text)[0] for text in PROJECT["optional-dependencies"]["dev"]}
    for hook in local["hooks"]:
        program = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert packages[program] in declared
        assert (Path(sys.executable).parent / program).exists()
