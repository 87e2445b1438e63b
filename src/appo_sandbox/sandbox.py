"""`Sandbox`: programs run on their own or in sessions, from as many threads as want to.

It joins a way of starting (`launch`), a pool of workers and the times that callers wait. A process that forks gets a
pool of its own in the child.

Left out on purpose: words for whoever reads the results; `Outcome` is data.
"""

import math
import os
import sys
import time
import weakref
from typing import Any

from appo_sandbox.launch import Launcher, NotIsolated, bubblewrap
from appo_sandbox.pool import Pool
from appo_sandbox.session import Session
from appo_sandbox.worker import Outcome, Settings

MAX_WORKERS = 8
LIVE_SESSIONS = 16
_sandboxes: "weakref.WeakSet[Sandbox]" = weakref.WeakSet()


class Lost(Exception):
    """A session's earlier programs did not run again in time, so that its variables are lost."""


class Sandbox:
    """Runs Python programs; each call on its own, or in sessions. Safe to use from many threads.

    Args:
        timeout_s: Seconds of wall time per program; CPU time is limited to one more.
        memory_mb: Address space (in 2**20 bytes) per process, besides what the interpreter and the libraries take.
        workers: Sandboxes, and so programs at once; with `stateful`, sessions whose variables are in memory. Some
            60 MB each. Default: the number of CPUs, at most MAX_WORKERS; with `stateful` LIVE_SESSIONS.
        stateful: Whether `session` makes sessions whose variables live on; programs then only run in these.
        patience_s: Seconds that a call waits for a free worker, and for the earlier calls of its session where they
            have to run again.
        launcher: How workers are started. None: the strictest use of bubblewrap that works here. PLAIN runs programs
            without isolation, with the caller's own rights.

    Raises:
        ValueError: for a limit that is not positive.
        NotIsolated: where programs cannot be isolated, and no launcher was given.
    """

    def __init__(
        self,
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        workers: int | None = None,
        stateful: bool = False,
        patience_s: float = 20.0,
        launcher: Launcher | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise NotIsolated(f"Python programs run in a sandbox on Linux only, not on {sys.platform}.")
        cpus = len(os.sched_getaffinity(0))
        if workers is None:
            workers = LIVE_SESSIONS if stateful else min(cpus, MAX_WORKERS)
        check_limits(timeout_s=timeout_s, memory_mb=memory_mb, workers=workers, patience_s=patience_s)
        self.timeout_s, self.memory_mb = timeout_s, memory_mb
        self.workers, self.stateful, self.patience_s = workers, stateful, patience_s
        # A call that is replayed gets twice the time.
        cpu_seconds = math.ceil(timeout_s * (2 if stateful else 1)) + 1
        self._launcher = launcher or bubblewrap()
        self._settings = Settings(memory_mb << 20, cpu_seconds, keep=stateful)
        self._warm = min(workers, cpus)
        # Sessions that run at once share the CPUs; more of them would exceed their time together.
        self._parallel = min(cpus, MAX_WORKERS) if stateful else workers
        self._make_pool()
        _sandboxes.add(self)

    @property
    def isolated(self) -> bool:
        """Whether programs run under bubblewrap."""
        return self._launcher.isolated

    def run(self, code: str) -> Outcome:
        """Runs a program on its own.

        Args:
            code: The program. The value of a last expression is printed if nothing else was.

        Raises:
            Busy: where no worker was free in time; the program was not run.
            RuntimeError: where the sandbox is stateful or closed, or a worker does not start.
        """
        if self.stateful:
            raise RuntimeError("A stateful sandbox runs programs in sessions.")
        worker, _ = self._pool.acquire(time.monotonic() + self.patience_s)
        try:
            return worker.run(code, self.timeout_s)
        finally:
            self._pool.release(worker)

    def session(self) -> Session:
        """A new session.

        Raises:
            RuntimeError: where the sandbox is not stateful.
        """
        if not self.stateful:
            raise RuntimeError("Sessions need a sandbox that is stateful.")
        return Session(self)

    def close(self) -> None:
        """Ends all workers. Calls under way end as killed; later ones raise a RuntimeError."""
        self._pool.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sandbox":
        return self  # workers cannot be copied and need not: they remember nothing

    def _make_pool(self) -> None:
        self._pool = Pool(self._launcher, self._settings, self.workers, self._warm, self._parallel)

    def _after_fork(self) -> None:
        self._pool.forget()
        self._warm = 0  # a forked process may never run a program
        self._make_pool()

    def _run_in_session(self, session: Session, calls: list[str], code: str) -> Outcome:
        """Runs a program after `calls`, and adds it to them unless it was stopped or killed."""
        deadline = time.monotonic() + self.patience_s
        pool = self._pool
        worker, held = pool.acquire(deadline, session)
        kept = False
        try:
            for call in () if held else calls:
                if not worker.run(call, min(2 * self.timeout_s, max(0.0, deadline - time.monotonic()))).kept:
                    calls.clear()
                    raise Lost
            outcome = worker.run(code, self.timeout_s)
            kept = outcome.kept
        finally:
            pool.release(worker, session if kept else None)
        if kept:
            calls.append(code)
        return outcome

    def _drop(self, session: Session) -> None:
        self._pool.drop(session)


def check_limits(**limits: float) -> None:
    """Whether limits make sense.

    Raises:
        ValueError: for one that is not positive or not finite, by its name.
    """
    for name, value in limits.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def _forked() -> None:
    for sandbox in list(_sandboxes):
        sandbox._after_fork()


if sys.platform != "win32":  # where nothing forks
    os.register_at_fork(after_in_child=_forked)
