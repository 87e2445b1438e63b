"""What the tests of the sandbox share, here and in those of the tool that is made of it."""

import time
from pathlib import Path

import pytest

from appo_sandbox import PLAIN, Launcher, Outcome
from appo_sandbox.launch import candidates, installed, probe


def isolating() -> list[Launcher]:
    """The ways of using the first bubblewrap that works here, root has two; the weakest only where it is the one."""
    ways = ([launcher for launcher in candidates(path) if not probe(launcher)] for path in installed())
    found = next(filter(None, ways), [])
    return [launcher for launcher in found if launcher.protects] or found


# The one that is used by default, and none.
LAUNCHERS = [*isolating()[:1], PLAIN]


def isolated_only(fixture: str) -> pytest.MarkDecorator:
    """For a test whose fixture is made with each of LAUNCHERS: without PLAIN, whose programs have no threads."""
    return pytest.mark.parametrize(fixture, LAUNCHERS[:-1], indirect=True, ids=lambda x: x.name)


def told(outcome: Outcome) -> tuple[str, str | None]:
    """What was printed, and how the program failed."""
    return outcome.text, outcome.error


def children(pid: int) -> list[int]:
    """A process's children, and theirs."""
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [pid for child in found for pid in children(child)]


def gone(pids: list[int], seconds: float = 120.0) -> bool:
    """Whether all these processes end in time."""
    deadline = time.monotonic() + seconds
    while any(running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
