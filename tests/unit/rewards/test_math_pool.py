"""The processes that compare mathematics, from programs of their own: what they load, and when they end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

HEAD = """
import multiprocessing, os, signal, sys
from appo.rewards import math_equal
def workers():
    return sorted(child.pid for child in multiprocessing.active_children())
"""


def run(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(HEAD + code)
    return subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=600)


def test_a_program_without_a_main_guard_is_not_run_again_in_the_workers(tmp_path: Path) -> None:
    done = run(tmp_path, "print('once', flush=True)\nprint(math_equal('x+x', '2x'))")
    assert (done.stdout, done.returncode) == ("once\nTrue\n", 0)


def test_workers_do_not_load_torch_where_the_program_has(tmp_path: Path) -> None:
    code = """
import torch
assert math_equal("x+x", "2x")
print(["libtorch" in open(f"/proc/{pid}/maps").read() for pid in [os.getpid(), *workers()]])
"""
    found = run(tmp_path, code).stdout
    assert found.startswith("[True, False") and found.count("True") == 1


def test_a_fork_that_ends_leaves_its_parents_workers_alone(tmp_path: Path) -> None:
    code = """
assert math_equal("x+x", "2x")
before = workers()
if os.fork() == 0:
    assert not workers()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]), math_equal("y+y", "2y"), workers() == before)
"""
    assert run(tmp_path, code).stdout == "0 True True\n"


def test_workers_end_when_the_program_is_killed(tmp_path: Path) -> None:
    code = """
assert math_equal("x+x", "2x")
print(*workers(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run(tmp_path, code)
    assert done.returncode == -signal.SIGKILL and done.stdout.split()
    deadline = time.monotonic() + 600
    for pid in map(int, done.stdout.split()):
        while _runs(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_cannot_be_started_is_said_and_counts_as_different(tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise OSError('broken')")
    done = run(tmp_path, "print(math_equal('x+x', '2x'))")
    assert done.stdout == "False\n"
    assert "did not start; import math_verify to see why. Answers that need it count as different." in done.stderr
    assert "OSError: broken" in done.stderr
