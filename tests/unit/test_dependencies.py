"""What the source imports against what `pyproject.toml` declares."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {canonicalize_name(Requirement(text).name): Requirement(text) for text in PROJECT["dependencies"]}
EXTRAS = {
    extra: {canonicalize_name(found.name): found for found in map(Requirement, texts) if found.name != "appo"}
    for extra, texts in PROJECT["optional-dependencies"].items()
}
EVERYTHING = {path: ast.parse(path.read_text()) for path in (REPOSITORY / "src").rglob("*.py")}
INTEGRATIONS = REPOSITORY / "src" / "appo" / "integrations"  # each lives in an environment of its own
SOURCE = {path: tree for path, tree in EVERYTHING.items() if INTEGRATIONS not in path.parents}
TOOLS = ("dev", "docs", "agents")  # extras of programs beside the package, which does not import them
DISTRIBUTIONS = importlib.metadata.packages_distributions()


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """The modules that these nodes import."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


# vLLM has an environment of its own (Makefile), and another name there; of wandb and trackio each test says itself
# whether it is there.
APART = ("vllm", "wandb", "trackio")
OTHER_NAMES = {"hydra": "hydra-core"}  # of modules that are not installed here


def packages(names: set[str], *ours: str) -> set[str]:
    """The packages, as the registry names them, of modules that are neither Python's nor ours."""
    tops = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"appo", "appo_sandbox", *ours}
    return {canonicalize_name(DISTRIBUTIONS.get(top, [OTHER_NAMES.get(top, top)])[0]) for top in tops}


def test_what_a_file_imports_is_declared_or_in_one_extra() -> None:
    for path, tree in SOURCE.items():
        others = packages(imported(ast.walk(tree))) - DEPENDENCIES.keys()
        assert any(others <= extra.keys() for name, extra in EXTRAS.items() if name not in TOOLS), (path.name, others)


def test_what_is_declared_is_imported() -> None:
    used = set().union(*(packages(imported(ast.walk(tree))) for tree in SOURCE.values()))
    declared = DEPENDENCIES.keys() | {name for extra, found in EXTRAS.items() if extra not in TOOLS for name in found}
    assert declared == used


def listed(file: str) -> set[str]:
    """The packages of a file of requirements."""
    lines = (REPOSITORY / file).read_text().splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def in_verls_environment() -> set[str]:
    """What `make test-verl` installs besides appo; without hyphens, as modules have none."""
    return {name.replace("-", "") for name in listed("constraints-verl.txt")}


def test_what_the_integrations_import_is_in_verls_environment() -> None:
    files = [*INTEGRATIONS.rglob("*.py"), *(REPOSITORY / "tests" / "with_verl").rglob("*.py")]
    names = set().union(*(imported(ast.walk(ast.parse(path.read_text()))) for path in files))
    found = packages(names, *(path.stem for path in files)) - DEPENDENCIES.keys()
    known = {"hydra": "hydracore"}  # the package's name, which only its own environment can tell
    assert {known.get(name, name.replace("-", "")) for name in found} <= in_verls_environment()


def test_verls_environment_has_what_the_loop_imports_and_verl_does_not_bring() -> None:
    brought = {"accelerate", "datasets", "filelock", "huggingfacehub", "httpx", "jinja2", "numpy", "packaging"}
    # By verl, or by what it needs.
    brought |= {"pyarrow", "pydantic", "pyyaml", "regex", "rich", "safetensors", "sympy", "tokenizers"}
    ours = {name.replace("-", "") for name in DEPENDENCIES} - {"trl"}
    assert ours - brought <= in_verls_environment()


def test_what_the_tests_import_is_declared() -> None:
    files = [path for top in ("tests", "benchmarks", "examples", "docs") for path in (REPOSITORY / top).rglob("*.py")]
    files = [path for path in files if path.parent.name not in ("with_verl", "with_environments")]
    names = set().union(*(imported(ast.walk(ast.parse(path.read_text()))) for path in files))
    declared = DEPENDENCIES.keys() | {name for extra in EXTRAS.values() for name in extra}
    declared |= listed("constraints-verifiers.txt")  # of an example that runs there
    assert packages(names, *(path.stem for path in files)) <= declared


def test_the_rest_of_the_package_is_imported_without_the_extras() -> None:
    """A file that imports an extra's package when it is itself imported is imported by such files alone."""
    names = {path: ".".join(path.relative_to(REPOSITORY / "src").with_suffix("").parts) for path in SOURCE}
    at_once = {names[path]: imported(tree.body) for path, tree in SOURCE.items()}
    need_extra = {name for name, found in at_once.items() if packages(found) - DEPENDENCIES.keys()}
    for name in at_once.keys() - need_extra:
        assert not at_once[name] & need_extra, name


@pytest.mark.parametrize("name", [*DEPENDENCIES, *sorted({name for extra in EXTRAS.values() for name in extra})])
def test_what_is_installed_is_within_the_declared_bounds(name: str) -> None:
    requirement = next(found[name] for found in (DEPENDENCIES, *EXTRAS.values()) if name in found)
    if requirement.marker is None or requirement.marker.evaluate():
        assert requirement.specifier, "has no lower bound"
        if name in APART:
            return
        assert requirement.specifier.contains(importlib.metadata.version(name), prereleases=True)


def test_every_dependency_takes_the_oldest_python_that_is_named() -> None:
    (oldest,) = re.findall(r"^>=(3\.\d+)$", PROJECT["requires-python"])
    for name in DEPENDENCIES:
        needed = importlib.metadata.metadata(name)["Requires-Python"] or ""
        assert SpecifierSet(needed).contains(oldest), (name, needed)
    assert f"Python {oldest} or newer" in (REPOSITORY / "README.md").read_text()
    makefile = (REPOSITORY / "Makefile").read_text()
    assert f"appo needs Python {oldest} or newer" in makefile and f"< ({oldest.replace('.', ', ')})" in makefile


def test_the_commands_are_imported_by_nothing_below_them() -> None:
    """Research starts runs, and `python -m appo` is the command line."""
    above = ("cli", "research", "__main__.py")
    for path, tree in SOURCE.items():
        package, first, *_ = path.relative_to(REPOSITORY / "src").parts
        names = {name for name in imported(ast.walk(tree)) if name.startswith("appo.cli")}
        assert (package == "appo" and first in above) or not names, (str(path), names)


def test_every_extra_has_its_line_in_the_table_of_extras() -> None:
    page = (REPOSITORY / "docs" / "first_run.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named >= EXTRAS.keys()
