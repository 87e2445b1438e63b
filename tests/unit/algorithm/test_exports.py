"""What `appo.algorithm` offers is what training runs: an equation that nothing calls can be wrong without a word."""

import inspect
import re
from pathlib import Path

import pytest

import appo
from appo import algorithm
from appo.algorithm import rivals

PACKAGE = Path(appo.__file__).parent
SOURCES = [path.read_text() for path in PACKAGE.rglob("*.py") if path.parent.name != "analysis"]
OFFERED = [name for name in algorithm.__all__ if callable(getattr(algorithm, name))]
OF_RIVALS = [n for n, f in inspect.getmembers(rivals, inspect.isfunction) if f.__module__ == rivals.__name__]


@pytest.mark.parametrize("name", [*OFFERED, *(name for name in OF_RIVALS if not name.startswith("_"))])
def test_every_function_is_called_by_the_package(name):
    assert any(re.search(rf"(?<!def )\b{name}\(", source) for source in SOURCES)
