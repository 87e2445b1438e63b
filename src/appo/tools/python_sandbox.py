"""Runs a policy's Python programs, isolated by bubblewrap, in sandboxes that are started once and used again.

    sandbox = PythonSandbox(timeout_s=5.0, memory_mb=512)
    sandbox("print(6 * 7)")                        # ToolResult(text="42", error=None)
    trainer = APPOTrainer(..., tools=[sandbox.python])

A program has no network, no files but an empty directory and the interpreter with its packages, no environment
variables, and limits on wall and CPU time, memory, processes, file size and output; nothing of it is left for the next
one. numpy and sympy, where installed, are loaded already. `docs/python_sandbox.md` says how, and what it costs.

Bubblewrap is the system's or comes with the extra `sandbox`. Without it making a sandbox fails, unless
`allow_unisolated` says that programs may run with the caller's own rights.

Try it: `python -c "from appo.tools.python_sandbox import *; print(python('print(6 * 7)'))"`.
Left out on purpose: systems other than Linux, installing packages, protection from bugs of the kernel.
"""

import functools
import logging
import math
import os
import sys
import threading
import time
import weakref
from typing import Any

from appo.errors import UserError
from appo.tools._sandbox_launch import PLAIN, Launcher, NotIsolated, bubblewrap
from appo.tools._sandbox_pool import Busy, Pool
from appo.tools._sandbox_worker import MAX_COLLECTED_BYTES, Outcome, Settings
from appo.tools.python_session import PythonSession
from appo.tools.results import ToolResult, cut_in_the_middle

logger = logging.getLogger(__name__)

MAX_WORKERS = 8
LIVE_SESSIONS = 16
NOTE_CHARS = 32  # at most, of the note where output is cut
NOTHING = "(nothing was printed)"
AS_BEFORE = "(variables are as they were before this call)"
BUSY = "SystemError: too many programs at once, so that this one was not run; try again"
LOST = "SystemError: the variables of earlier calls are lost, as these did not run again in time; start anew"
_unisolated_allowed = False
_shared_sandbox: "PythonSandbox | None" = None
_shared_lock = threading.Lock()
_sandboxes: "weakref.WeakSet[PythonSandbox]" = weakref.WeakSet()


def check_isolation() -> None:
    """Says whether programs can be isolated here; takes some 20 ms, once per process.

    Raises:
        NotIsolated: where they cannot and `allow_unisolated` was not called; one sentence with reason and remedy.
    """
    _launcher(None)


def allow_unisolated() -> None:
    """Lets programs of this process run without isolation where bubblewrap does not work, and warns at once."""
    global _unisolated_allowed
    _unisolated_allowed = True
    _warn()


class PythonSandbox:
    """A tool that runs Python programs; each call on its own, or in sessions. Safe to use from many threads.

    Args:
        timeout_s: Seconds of wall time per program; CPU time is limited to one more.
        memory_mb: Address space (in 2**20 bytes) per process, besides what the interpreter and the libraries take.
        max_output_chars: Longer output is cut in the middle.
        workers: Sandboxes, and so programs at once; with `stateful`, sessions whose variables are in memory. Some
            60 MB each. Default: the number of CPUs, at most MAX_WORKERS; with `stateful` LIVE_SESSIONS.
        stateful: Whether `session` makes environments whose variables live on; programs then only run in these.
        patience_s: Seconds that a call waits for a free worker, and for the earlier calls of its session where they
            have to run again. Together with `timeout_s` it should lie below the time-out of whoever calls
            (`tool_timeout`), which else gives up on a call that is run later all the same.
        allow_unisolated: Whether programs may run with the caller's rights where bubblewrap does not work. None: what
            was set for the process by the function of this name.

    Raises:
        UserError: for a limit that is not positive.
        NotIsolated: where programs cannot be isolated and need to be.
    """

    def __init__(
        self,
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        max_output_chars: int = 2000,
        workers: int | None = None,
        stateful: bool = False,
        patience_s: float = 20.0,
        allow_unisolated: bool | None = None,
    ) -> None:
        cpus = len(os.sched_getaffinity(0))
        if workers is None:
            workers = LIVE_SESSIONS if stateful else min(cpus, MAX_WORKERS)
        numbers = {"timeout_s": timeout_s, "memory_mb": memory_mb, "max_output_chars": max_output_chars}
        for name, value in {**numbers, "workers": workers, "patience_s": patience_s}.items():
            if not 0 < value < math.inf:
                raise UserError(f"{name} must be positive and finite, got {value}.")
        self.timeout_s, self.memory_mb, self.max_output_chars = timeout_s, memory_mb, max_output_chars
        self.workers, self.stateful, self.patience_s = workers, stateful, patience_s
        # A call that is replayed gets twice the time.
        cpu_seconds = math.ceil(timeout_s * (2 if stateful else 1)) + 1
        self._launcher = _launcher(allow_unisolated)
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

    def __call__(self, code: str) -> ToolResult:
        """Runs a program.

        Args:
            code: The program. The value of a last expression is printed if nothing else was.

        Returns:
            What was printed, and why the program failed: None, "exception", "killed" (by a signal, such as a crash or
            the CPU limit), "timeout", "output" (too much of it) or "busy" (not run, as no worker was free in time).

        Raises:
            RuntimeError: where the sandbox is stateful or closed, or a worker does not start.
        """
        if self.stateful:
            raise RuntimeError(
                "PythonSandbox(stateful=True) runs programs in sessions: pass `environment_factory=sandbox.session`."
            )
        try:
            worker, _ = self._pool.acquire(time.monotonic() + self.patience_s)
        except Busy:
            return ToolResult(BUSY, "busy")
        try:
            outcome = worker.run(code, self.timeout_s)
        finally:
            self._pool.release(worker)
        return self._result(outcome)

    def python(self, code: str) -> str | ToolResult:
        """Runs a Python program and returns what it prints. Programs do not share variables, files or a network.

        Args:
            code: The program, for example "print(3 + 4 * 5)".

        Returns:
            What was printed, or the value of the last expression if nothing was.
        """
        return self._readable(self(code))

    def session(self) -> PythonSession:
        """A new session, to be passed as `environment_factory=sandbox.session`.

        Raises:
            RuntimeError: where the sandbox is not stateful.
        """
        if not self.stateful:
            raise RuntimeError("Sessions need PythonSandbox(stateful=True).")
        return PythonSession(self)

    def close(self) -> None:
        """Ends all workers. Calls under way end as killed; later ones raise a RuntimeError."""
        self._pool.close()

    def __enter__(self) -> "PythonSandbox":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> "PythonSandbox":
        return self  # workers cannot be copied and need not: they remember nothing

    def _make_pool(self) -> None:
        self._pool = Pool(self._launcher, self._settings, self.workers, self._warm, self._parallel)

    def _after_fork(self) -> None:
        self._pool.forget()
        self._warm = 0  # a forked process may never run a program
        self._make_pool()

    def _run_in_session(self, session: PythonSession, calls: list[str], code: str) -> ToolResult:
        """Runs a program after `calls`, and adds it to them unless it was stopped or killed."""
        deadline = time.monotonic() + self.patience_s
        pool = self._pool
        try:
            worker, held = pool.acquire(deadline, session)
        except Busy:
            return ToolResult(BUSY, "busy")
        kept = False
        try:
            for call in () if held else calls:
                if not worker.run(call, min(2 * self.timeout_s, max(0.0, deadline - time.monotonic()))).kept:
                    calls.clear()
                    return ToolResult(LOST, "killed")
            outcome = worker.run(code, self.timeout_s)
            kept = outcome.kept
        finally:
            pool.release(worker, session if kept else None)
        if kept:
            calls.append(code)
        return self._result(outcome, "" if kept else AS_BEFORE)

    def _drop(self, session: PythonSession) -> None:
        self._pool.drop(session)

    def _readable(self, result: ToolResult) -> str | ToolResult:
        """What a policy reads: of a success the text alone, which other trainers know too."""
        return (result.text or NOTHING) if result.ok else result

    def _result(self, outcome: Outcome, remark: str = "") -> ToolResult:
        text = outcome.output.decode("utf-8", "replace").strip("\n").rstrip()
        notice = {
            "timeout": f"TimeoutError: stopped after {self.timeout_s:g} seconds",
            "output": f"OutputError: stopped after printing {MAX_COLLECTED_BYTES} bytes",
            "killed": "SystemError: the program crashed or exceeded its CPU time",
            "exception": "" if text else f"SystemExit: {outcome.status}",
        }.get(outcome.error or "", "")
        notices = "\n".join(filter(None, (notice, remark)))
        room = self.max_output_chars - (len(notices) + 1 if notices else 0)
        if len(text) > room:
            text = cut_in_the_middle(text, max(0, room - NOTE_CHARS))
        return ToolResult("\n".join(filter(None, (text, notices))), outcome.error)


def python(code: str) -> str | ToolResult:
    """Runs a Python program and returns what it prints. Programs do not share variables, files or a network.

    Args:
        code: The program, for example "print(3 + 4 * 5)".

    Returns:
        What was printed, or the value of the last expression if nothing was.
    """
    return _shared().python(code)


def _shared() -> PythonSandbox:
    global _shared_sandbox
    with _shared_lock:
        if _shared_sandbox is None:
            _shared_sandbox = PythonSandbox()
        return _shared_sandbox


def _launcher(allowed: bool | None) -> Launcher:
    if sys.platform != "linux":
        raise NotIsolated(f"Python programs of a policy run on Linux only, not on {sys.platform}.")
    try:
        return bubblewrap()
    except RuntimeError:
        if not (_unisolated_allowed if allowed is None else allowed):
            raise
        _warn()
        return PLAIN


@functools.cache
def _warn() -> None:
    """Once per process."""
    try:
        bubblewrap()
    except RuntimeError as error:
        logger.warning(
            "%s. As allow_unisolated is set, they run with %s: they can use the network, and read, change and delete "
            "your files.",
            str(error).split(":")[0],
            "root's rights" if os.geteuid() == 0 else "your rights",
        )
    else:
        logger.warning("allow_unisolated is set and not needed: bubblewrap works here, programs run isolated.")


def _forked() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()  # another thread may have held it
    for sandbox in list(_sandboxes):
        sandbox._after_fork()


if sys.platform != "win32":  # where nothing forks
    os.register_at_fork(after_in_child=_forked)
