"""What `appo.algorithm` offers is what training runs: an equation that nothing calls can be wrong without a word."""

import ast
import inspect
from pathlib import Path

import pytest

import appo
from appo import algorithm
from appo.algorithm import group_scores
from appo.methods import METHODS

PACKAGE = Path(appo.__file__).parent
LOOKS_ON = ("report", "research")  # these measure what training did
SOURCES = [path.read_text() for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in LOOKS_ON]
# Imports and definitions are no `ast.Name`: these are the places where something is called or handed on.
USED = {node.id for source in SOURCES for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
OFFERED = [name for name in algorithm.__all__ if callable(getattr(algorithm, name))]
MODULES = [group_scores, *(inspect.getmodule(method) for method in METHODS.values())]
OF_METHODS = sorted(
    name
    for module in MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
)


@pytest.mark.parametrize("name", [*OFFERED, *OF_METHODS])
def test_every_function_is_used_by_the_package(name):
    assert name in USED


def test_each_methods_own_estimator_is_among_them():
    assert {"shared_prefix_advantage", "vine_advantage", "gppo_coefficient", "group_scores"} <= set(OF_METHODS)
