"""What `appo.algorithm` offers is what training runs: an equation that nothing calls can be wrong without a word."""

import ast
import inspect
from pathlib import Path

import pytest

import appo
from appo import algorithm
from appo.algorithm import rivals

PACKAGE = Path(appo.__file__).parent
SOURCES = [path.read_text() for path in PACKAGE.rglob("*.py") if path.parent.name != "analysis"]
# Imports and definitions are no `ast.Name`: these are the places where something is called or handed on.
USED = {node.id for source in SOURCES for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
OFFERED = [name for name in algorithm.__all__ if callable(getattr(algorithm, name))]
OF_RIVALS = [n for n, f in inspect.getmembers(rivals, inspect.isfunction) if f.__module__ == rivals.__name__]


@pytest.mark.parametrize("name", [*OFFERED, *(name for name in OF_RIVALS if not name.startswith("_"))])
def test_every_function_is_used_by_the_package(name):
    assert name in USED
