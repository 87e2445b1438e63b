"""Hostile and ordinary programs, under every launcher that works on this machine."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appo.tools import ToolError
from appo.tools import python_sandbox as sandbox
from appo.tools.python_sandbox import SandboxResult, python, run_python

LAUNCHERS = [launcher for launcher in sandbox._candidates() if sandbox._works(launcher)]
Run = Callable[..., SandboxResult]


@pytest.fixture(params=LAUNCHERS, ids=lambda x: f"{x.name}{'-uid' if x.new_uid else ''}")
def launcher(request: pytest.FixtureRequest) -> sandbox._Launcher:
    return request.param


@pytest.fixture
def run(launcher: sandbox._Launcher, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(sandbox, "_launcher", lambda: launcher)
    return run_python


def processes_with(marker: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:  # ended meanwhile
            continue
    return found


def test_prints_and_last_expressions(run: Run) -> None:
    assert run("print(3 + 4 * 5)") == SandboxResult("23")
    assert run("x = 6\nx * 7") == SandboxResult("42")
    assert run("print('a')\n'not shown'") == SandboxResult("a")
    assert run("def f():\n    return 1\nf()\nNone").text == ""
    assert run("import decimal\nprint('é', __name__)").text == "é __main__"


def test_failures_are_one_readable_line(run: Run) -> None:
    assert run("x = 1\nprint(x)\n1 / 0") == SandboxResult(
        "1\nZeroDivisionError: division by zero (line 3)", "exception"
    )
    assert run("print(1").text.startswith("SyntaxError: ")
    assert run("raise SystemExit(3)") == SandboxResult("SystemExit: 3", "exception")
    assert run("def f(): return f()\nf()").text.startswith("RecursionError")
    assert run("import os\nos.abort()").error == "killed"
    assert run("input()").text.startswith("EOFError")


def test_caller_is_not_visible(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    result = run("import os, sys\nprint(*sorted(os.environ), os.listdir('.'), sys.flags.isolated)")
    *names, files, isolated = result.text.split()
    assert (files, isolated) == ("[]", "1")
    assert set(names) <= {"LC_CTYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PWD"}


def test_files_of_the_caller(run: Run, launcher: sandbox._Launcher, tmp_path: Path) -> None:
    if launcher.name != "bwrap":
        pytest.skip(f"{launcher.name} does not hide files")
    (tmp_path / "secret").write_text("hidden")
    assert run(f"print(open({str(tmp_path / 'secret')!r}).read())").text.startswith("FileNotFoundError")
    assert run("open('/usr/x', 'w')").text.startswith(("OSError: [Errno 30]", "PermissionError"))


def test_no_network(run: Run, launcher: sandbox._Launcher) -> None:
    if launcher.name == "plain":
        pytest.skip("plain does not cut off the network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = run(f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)")
    assert result.error == "exception"
    assert result.text.startswith(("OSError", "ConnectionRefusedError"))


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
        "import os, time\nos.close(1); os.close(2)\ntime.sleep(60)",
        "import os, time\nos.setsid() if os.getpid() != os.getsid(0) else None\ntime.sleep(60)",
    ],
    ids=["loop", "sigterm", "closed-output", "own-session"],
)
def test_time_limit(run: Run, code: str) -> None:
    start = time.monotonic()
    result = run("print('before')\n" + code, timeout=0.6)
    assert time.monotonic() - start < 3
    assert result == SandboxResult("before\nTimeoutError: stopped after 0.6 seconds", "timeout")


def test_memory_and_disk_limits(run: Run, launcher: sandbox._Launcher) -> None:
    assert run("x = bytearray(10**9)").text.startswith("MemoryError")
    assert run("print(len(bytearray(10**8)))", memory_mb=512).text == "100000000"
    assert "File too large" in run("open('x', 'wb').write(bytes(20_000_000))").text
    if launcher.name == "bwrap":
        many = "for i in range(6):\n    with open(str(i), 'wb') as f: f.write(bytes(15_000_000))"
        assert "No space left" in run(many).text


def test_output_limits(run: Run) -> None:
    start = time.monotonic()
    flood = run("while True: print('x' * 10000)", timeout=10)
    assert (flood.error, time.monotonic() - start < 9) == ("output", True)
    assert len(flood.text) <= 2000
    cut = run("print('a' * 5000 + 'b' * 5000)", max_output_chars=100)
    assert cut.ok
    assert len(cut.text) <= 100
    assert cut.text.startswith("aaa")
    assert cut.text.endswith("bbb")
    assert "characters cut" in cut.text


def test_process_limit(run: Run, launcher: sandbox._Launcher) -> None:
    if os.geteuid() == 0 and not launcher.new_uid:
        pytest.skip("root is not bound by the process limit")
    bomb = """
import os, time
count = 0
try:
    for _ in range(30):
        if os.fork() == 0:
            time.sleep(30)
        count += 1
except BlockingIOError:
    print(count)
"""
    result = run(bomb)
    assert result.ok
    assert int(result.text) <= 8
    assert run("1 + 1").text == "2"


@pytest.mark.parametrize("own_session", [False, True])
def test_no_process_outlives_the_call(run: Run, launcher: sandbox._Launcher, own_session: bool) -> None:
    if own_session and launcher.name == "plain" and os.geteuid() == 0 and not launcher.new_uid:
        pytest.skip("plain cannot stop root's processes that leave the group")
    marker = f"61.{time.time_ns()}"
    code = f"""
import os
try:
    child = os.fork()
except BlockingIOError:
    child = 1
if child == 0:
    if {own_session}: os.setsid()
    os.execv("/bin/sleep", ["sleep", "{marker}"])
print("done")
"""
    start = time.monotonic()
    assert run(code, timeout=10) == SandboxResult("done")
    assert time.monotonic() - start < 5
    deadline = time.monotonic() + 3
    while processes_with(f"sleep\0{marker}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes_with(f"sleep\0{marker}")


def test_leaves_no_directory(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    assert run("import os\nos.mkdir('d')\nopen('d/x', 'w').write('1')\nprint(os.listdir('.'))").text == "['d']"
    assert list(tmp_path.iterdir()) == []


def test_parallel_calls(run: Run) -> None:
    def call(i: int) -> str:
        return run(f"open('x', 'w').write('{i}')\nprint(open('x').read())" if i % 4 else "1 / 0").text

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(call, range(24)))
    assert texts == [str(i) if i % 4 else "ZeroDivisionError: division by zero (line 1)" for i in range(24)]


def test_tool_function() -> None:
    assert python("print(6 * 7)") == "42"
    assert python("x = 1") == "(nothing was printed)"
    with pytest.raises(ToolError, match=r"^NameError: name 'x' is not defined \(line 1\)$"):
        python("x")


def test_the_best_launcher_is_chosen() -> None:
    assert sandbox.isolation() == LAUNCHERS[0].name


@pytest.mark.parametrize("name", ["timeout", "memory_mb", "max_output_chars"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        run_python("1", **{name: 0})
