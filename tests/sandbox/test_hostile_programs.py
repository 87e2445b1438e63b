"""Hostile programs: each is contained, harms nothing outside, and leaves nothing for the next call."""

import contextlib
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from hostile_programs import PROGRAMS, Hostile
from sandboxes import children, gone, isolating

from appo_sandbox import MAX_COLLECTED_BYTES, Outcome, Sandbox

TIMEOUT = 0.7
REPOSITORY = Path(__file__).parents[2]


class Host(NamedTuple):
    """What a program must not reach."""

    victim: subprocess.Popen[bytes]
    server: socket.socket
    box: socket.socket


NEEDS_BUBBLEWRAP = pytest.mark.skipif(not isolating(), reason="bubblewrap may not make namespaces here")


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[list[Sandbox]]:
    """With the user that root gives to programs, where tests run as root, and with a user namespace."""
    with contextlib.ExitStack() as stack:
        options = {"timeout_s": TIMEOUT, "memory_mb": 96, "workers": 1}
        yield [stack.enter_context(Sandbox(launcher=launcher, **options)) for launcher in isolating()]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    victim = subprocess.Popen(["sleep", "600"])
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        box.bind(f"\0appo-{os.getpid()}")
        server.setblocking(False)
        box.setblocking(False)
        yield Host(victim, server, box)
    victim.kill()
    victim.wait()


def filled(code: str, host: Host, canary: Path) -> str:
    """A program that knows where the host's things are."""
    column = 1 if platform.machine() == "aarch64" else 0
    values = {
        "port": host.server.getsockname()[1],
        "pid": host.victim.pid,
        "canary": canary,
        "abstract": f"appo-{os.getpid()}",
        "repository": REPOSITORY,
        "clone": (56, 220)[column],
        "add_key": (248, 217)[column],
        "sched_setattr": (314, 274)[column],
        "modify_ldt": (154, 999)[column],  # on x86-64 only
    }
    for name, value in values.items():
        code = code.replace("{" + name + "}", str(value))
    return code


@NEEDS_BUBBLEWRAP
@pytest.mark.parametrize("name", PROGRAMS)
def test_is_contained(name: str, sandboxes: list[Sandbox], host: Host, tmp_path: Path) -> None:
    program, canary = PROGRAMS[name], tmp_path / "canary"
    canary.write_text("alive")
    code = filled(program.code, host, canary)
    with ThreadPoolExecutor() as threads:  # at once, as many programs last until they are stopped
        results = list(threads.map(lambda sandbox: sandbox.run(code), sandboxes))
    for sandbox, result in zip(sandboxes, results, strict=True):
        check(program, sandbox, result, host, canary)


def check(program: Hostile, sandbox: Sandbox, result: Outcome, host: Host, canary: Path) -> None:
    assert result.error in program.errors, result
    ended = "" if result.error in (None, "exception") else f"({result.error})"
    assert re.search(program.pattern, f"{result.text}{ended}"), result
    assert len(result.output) <= MAX_COLLECTED_BYTES + (1 << 16)
    # the host
    assert (canary.read_text(), os.listdir(canary.parent)) == ("alive", ["canary"])
    assert host.victim.poll() is None
    with pytest.raises(BlockingIOError):
        host.server.accept()
    with pytest.raises(BlockingIOError):
        host.box.recv(1)
    # the next call
    (worker,) = sandbox._pool._workers
    first, *others = children(worker.pid) or [0]
    assert gone(others), f"processes besides {first}"
    assert sandbox.run(AFTER).text == "[] /scratch 0 [] 0.0 448 0 6"


AFTER = """
import fcntl, os, numpy
here = os.stat('.')
print(os.listdir('.'), os.getcwd(), len(os.environ), os.listxattr('.'), here.st_mtime, here.st_mode & 0o777, end=' ')
flags = [fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND) for fd in range(3)]
print(sum(flags), numpy.arange(4).sum())
"""


def test_hostile_programs_are_many() -> None:
    assert len(PROGRAMS) >= 40


@NEEDS_BUBBLEWRAP
def test_programs_are_unharmed_while_others_misbehave(host: Host, tmp_path: Path) -> None:
    names = ["fork bomb", "many small blocks", "kill everything", "flood", "crash", "infinite loop"]
    with Sandbox(TIMEOUT, memory_mb=96, workers=3, launcher=isolating()[0]) as sandbox:
        [sandbox.run("1") for _ in range(3)]
        with ThreadPoolExecutor(3) as threads:
            bad = [threads.submit(sandbox.run, filled(PROGRAMS[name].code, host, tmp_path)) for name in names]
            good = [threads.submit(sandbox.run, f"{i} + 1") for i in range(6)]
            assert [future.result().text for future in good] == [str(i + 1) for i in range(6)]
            for name, future in zip(names, bad, strict=True):
                assert future.result().error in PROGRAMS[name].errors, name
