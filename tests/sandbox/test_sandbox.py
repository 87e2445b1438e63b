"""What programs in a sandbox find, print and may do; limits; with bubblewrap and without."""

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import LAUNCHERS, children, isolated_only, isolating, told

from appo_sandbox import MAX_COLLECTED_BYTES, PLAIN, Launcher, Sandbox


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda x: x.name)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    return request.param


@pytest.fixture(scope="module")
def sandbox(launcher: Launcher) -> Iterator[Sandbox]:
    with Sandbox(timeout_s=5.0, memory_mb=128, workers=1, launcher=launcher) as made:
        yield made


def test_prints_and_last_expressions(sandbox: Sandbox) -> None:
    assert told(sandbox.run("print(3 + 4 * 5)")) == ("23", None)
    assert told(sandbox.run("x = 6\nx * 7")) == ("42", None)
    assert told(sandbox.run("print('a')\n'not shown'")) == ("a", None)
    assert told(sandbox.run("def f():\n    return 1\nf()\nNone")) == ("", None)
    assert sandbox.run("import decimal\nprint('é', __name__)").text == "é __main__"
    assert sandbox.run("import sys\nprint('a')\nprint('b', file=sys.stderr)").text == "a\nb"


def test_failures_are_one_readable_line(sandbox: Sandbox) -> None:
    assert told(sandbox.run("x = 1\nprint(x)\n1 / 0")) == (
        "1\nZeroDivisionError: division by zero (line 3)",
        "exception",
    )
    assert sandbox.run("print(1").text.startswith("SyntaxError: ")
    left = sandbox.run("raise SystemExit(3)")
    assert (told(left), left.status) == (("", "exception"), 3)
    assert told(sandbox.run("import sys\nsys.exit('bad input')")) == ("bad input", "exception")
    assert told(sandbox.run("exit()")) == ("", None)
    assert told(sandbox.run("import os\nos.abort()")) == ("", "killed")
    assert sandbox.run("input()").text == "EOFError: EOF when reading a line (line 1)"


def test_the_output_is_kept_as_bytes_and_read_as_text(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import os\nos.write(1, b'\\n a\\xff \\n\\n')\nNone")
    assert (outcome.output, outcome.text) == (b"\n a\xff \n\n", " a\ufffd")


def test_numpy_and_sympy_are_loaded(sandbox: Sandbox) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("sympy")
    assert sandbox.run("import sys\n{'numpy', 'sympy'} <= set(sys.modules)").text == "True"
    assert (
        sandbox.run("import numpy as np\nnp.linalg.inv(np.diag([2.0, 4.0])).tolist()").text
        == "[[0.5, 0.0], [0.0, 0.25]]"
    )
    assert sandbox.run("from sympy import *\nx = symbols('x')\nsolve(x**2 - 4, x)").text == "[-2, 2]"
    assert sandbox.run("import numpy as np\nfloat((np.ones((500, 500)) @ np.ones((500, 500)))[0, 0])").text == "500.0"


def test_dataclasses_and_type_hints_find_the_program(sandbox: Sandbox) -> None:
    code = """
from dataclasses import dataclass
from typing import get_type_hints
@dataclass
class A:
    x: "A | None" = None
print(get_type_hints(A)["x"], A())
"""
    assert sandbox.run(code).text == "__main__.A | None A(x=None)"


@isolated_only("launcher")
def test_threads_are_waited_for_and_exit_handlers_run(sandbox: Sandbox) -> None:
    code = """
import atexit, threading, time
atexit.register(print, "last")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
print("main")
"""
    assert sandbox.run(code).text == "main\nthread\nlast"


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
def test_what_ordinary_programs_ask_of_the_system_is_allowed(name: str, sandbox: Sandbox) -> None:
    assert told(sandbox.run(USES_OF_THE_SYSTEM[name])) == ("42", None)


@pytest.mark.parametrize("launcher", isolating(), ids=lambda x: f"own_uid={x.own_uid}")
def test_no_process_of_a_sandbox_may_mount(launcher: Launcher) -> None:
    with Sandbox(workers=1, launcher=launcher) as sandbox:
        sandbox.run("1")
        (worker,) = sandbox._pool._workers
        (first,) = children(worker.pid) or [worker.pid]
        rights = re.findall(r"Cap(?:Inh|Prm|Eff|Amb):\s(\w+)", Path(f"/proc/{first}/status").read_text())
    assert len(rights) == 4
    assert not any(int(sets, 16) & 1 << 21 for sets in rights)  # CAP_SYS_ADMIN


def test_the_caller_is_not_visible(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    with Sandbox(workers=1, launcher=sandbox._launcher) as fresh:
        assert fresh.run("import os\nprint(dict(os.environ), os.listdir('.'))").text == "{} []"


def test_randomness_starts_alike_in_every_call(sandbox: Sandbox) -> None:
    code = "import random\nprint(random.random(), hash('a'))"
    assert sandbox.run(code) == sandbox.run(code)


def test_calls_share_no_variables_files_or_modules(sandbox: Sandbox) -> None:
    assert sandbox.run("import os, math\nx = 1\nmath.pi = 3\nos.mkdir('d')\nopen('d/y', 'w').write('z')").error is None
    assert (
        sandbox.run("import os, math\nprint(os.listdir('.'), 'x' in globals(), math.pi > 3.1)").text == "[] False True"
    )


def test_memory_comes_on_top_of_the_libraries(sandbox: Sandbox) -> None:
    assert sandbox.run("len(bytearray(120 * 2**20))").text == str(120 * 2**20)
    assert sandbox.run("x = bytearray(129 * 2**20)").text == "MemoryError (line 1)"
    assert "File too large" in sandbox.run("open('x', 'wb').write(bytes(20_000_000))").text


def test_time_limit(launcher: Launcher) -> None:
    with Sandbox(timeout_s=0.4, workers=1, launcher=launcher) as sandbox:
        sandbox.run("1")
        assert told(sandbox.run("print('before')\nwhile True: pass")) == ("before", "timeout")


def test_output_without_end_is_stopped(launcher: Launcher) -> None:
    with Sandbox(workers=1, launcher=launcher) as sandbox:
        flood = sandbox.run("while True: print('x' * 10000)")
    assert flood.error == "output"
    assert MAX_COLLECTED_BYTES < len(flood.output) <= MAX_COLLECTED_BYTES + (1 << 16)


def test_no_process_outlives_the_call(sandbox: Sandbox) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
print("done")
"""
    result = sandbox.run(code)
    if not sandbox.isolated and os.geteuid() != 0:
        assert result.error == "exception"  # no process besides the program's own
        return
    assert told(result) == ("done", None)
    (worker,) = sandbox._pool._workers
    assert len(children(worker.pid)) == (1 if sandbox.isolated else 0)


def test_copies_are_the_same_sandbox(sandbox: Sandbox) -> None:
    assert copy.deepcopy(sandbox) is sandbox


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["timeout_s", "memory_mb", "workers", "patience_s"])
def test_limits_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {value}."):
        Sandbox(**{name: value}, launcher=PLAIN)  # type: ignore[arg-type]


def test_a_closed_sandbox_says_so(launcher: Launcher) -> None:
    sandbox = Sandbox(workers=1, launcher=launcher)
    sandbox.close()
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.run("1")


def test_a_plain_sandbox_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Sandbox(workers=1, launcher=PLAIN) as sandbox:
        assert sandbox.run("import os\nos.mkdir('d')\nprint(os.listdir('.'))").text == "['d']"
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
