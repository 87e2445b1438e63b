"""Python as a tool: `appo_sandbox`, with the words that a policy reads and with TRL's convention for environments.

    sandbox = PythonSandbox(timeout_s=5.0, memory_mb=512)
    sandbox("print(6 * 7)")                        # ToolResult(text="42", error=None)
    trainer = APPOTrainer(..., tools=[sandbox.python])

    sandbox = PythonSandbox(stateful=True)         # variables live from call to call of a rollout
    trainer = APPOTrainer(..., environment_factory=sandbox.session)

What is isolated, and how, is `appo_sandbox`'s to say; here stand the texts of results, their length, the mistakes of
users in one sentence, and what a process may do where bubblewrap is missing: nothing, unless `allow_unisolated` says
that programs may run with the caller's own rights. `docs/python_sandbox.md` tells it all.

Try it: `python -c "from appo.tools.python import *; print(python('print(6 * 7)'))"`.
Left out on purpose: how programs are run.
"""

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import appo_sandbox
from appo.errors import UserError
from appo.tools.results import ToolResult, cut_in_the_middle
from appo_sandbox import MAX_COLLECTED_BYTES, PLAIN, Busy, Launcher, Lost, Outcome, Sandbox, Session, check_limits

logger = logging.getLogger(__name__)

NOTE_CHARS = 32  # at most, of the note where output is cut
NOTHING = "(nothing was printed)"
AS_BEFORE = "(variables are as they were before this call)"
BUSY = "SystemError: too many programs at once, so that this one was not run; try again"
LOST = "SystemError: the variables of earlier calls are lost, as these did not run again in time; start anew"
REMEDY = "or set `allow_unisolated: true` to run programs with your own rights"
_unisolated_allowed = False
_shared_sandbox: "PythonSandbox | None" = None
_shared_lock = threading.Lock()


class NotIsolated(UserError, appo_sandbox.NotIsolated):
    """Programs cannot be isolated on this machine."""


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
            60 MB each. Default: the number of CPUs, at most 8; with `stateful` 16.
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
        limits = {"timeout_s": timeout_s, "memory_mb": memory_mb, "max_output_chars": max_output_chars}
        try:
            check_limits(**limits, patience_s=patience_s, **({} if workers is None else {"workers": workers}))
        except ValueError as error:
            raise UserError(str(error)) from None
        self.max_output_chars = max_output_chars
        self._sandbox = Sandbox(timeout_s, memory_mb, workers, stateful, patience_s, _launcher(allow_unisolated))

    @property
    def timeout_s(self) -> float:
        """Seconds of wall time per program."""
        return self._sandbox.timeout_s

    @property
    def memory_mb(self) -> int:
        """Address space per process, in 2**20 bytes."""
        return self._sandbox.memory_mb

    @property
    def patience_s(self) -> float:
        """Seconds that a call waits."""
        return self._sandbox.patience_s

    @property
    def workers(self) -> int:
        """Sandboxes at most."""
        return self._sandbox.workers

    @property
    def stateful(self) -> bool:
        """Whether programs run in sessions."""
        return self._sandbox.stateful

    @property
    def isolated(self) -> bool:
        """Whether programs run under bubblewrap."""
        return self._sandbox.isolated

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
        return self._result(self._sandbox.run, code)

    def python(self, code: str) -> str | ToolResult:
        """Runs a Python program and returns what it prints. Programs do not share variables, files or a network.

        Args:
            code: The program, for example "print(3 + 4 * 5)".

        Returns:
            What was printed, or the value of the last expression if nothing was.
        """
        return _readable(self(code))

    def session(self) -> "PythonSession":
        """A new session, to be passed as `environment_factory=sandbox.session`.

        Raises:
            RuntimeError: where the sandbox is not stateful.
        """
        if not self.stateful:
            raise RuntimeError("Sessions need PythonSandbox(stateful=True).")
        return PythonSession(self, self._sandbox.session())

    def close(self) -> None:
        """Ends all workers. Calls under way end as killed; later ones raise a RuntimeError."""
        self._sandbox.close()

    def __enter__(self) -> "PythonSandbox":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> "PythonSandbox":
        return self  # its workers remember nothing

    def _result(self, run: Callable[[str], Outcome], code: str) -> ToolResult:
        """What became of a program, in words, and within `max_output_chars`."""
        try:
            outcome = run(code)
        except Busy:
            return ToolResult(BUSY, "busy")
        except Lost:
            return ToolResult(LOST, "killed")
        text = outcome.text
        notice = {
            "timeout": f"TimeoutError: stopped after {self.timeout_s:g} seconds",
            "output": f"OutputError: stopped after printing {MAX_COLLECTED_BYTES} bytes",
            "killed": "SystemError: the program crashed or exceeded its CPU time",
            "exception": "" if text else f"SystemExit: {outcome.status}",
        }.get(outcome.error or "", "")
        remark = AS_BEFORE if self.stateful and not outcome.kept else ""
        notices = "\n".join(filter(None, (notice, remark)))
        room = self.max_output_chars - (len(notices) + 1 if notices else 0)
        if len(text) > room:
            text = cut_in_the_middle(text, max(0, room - NOTE_CHARS))
        return ToolResult("\n".join(filter(None, (text, notices))), outcome.error)


class PythonSession:
    """One rollout's interpreter, as an environment of TRL's convention; made by `PythonSandbox.session`. Its public
    method `python` is the tool.

    Args:
        sandbox: Words the results.
        session: Runs the programs.
    """

    def __init__(self, sandbox: PythonSandbox, session: Session) -> None:
        self._sandbox, self._session = sandbox, session

    def reset(self, **row: object) -> None:
        """Starts an episode, without variables. The row's columns are not used."""
        self._session.reset()

    def python(self, code: str) -> str | ToolResult:
        """Runs a Python program and returns what it prints. Variables of earlier programs can be used.

        Args:
            code: The program, for example "print(3 + 4 * 5)".

        Returns:
            What was printed, or the value of the last expression if nothing was.
        """
        return _readable(self._sandbox._result(self._session.run, code))

    def __deepcopy__(self, memo: dict[int, Any]) -> "PythonSession":
        """An independent session with the same variables, which are replayed when it is first used.

        There is no `fork` beside it: a trainer that does not know of forks would offer it to the policy as a tool.
        """
        return PythonSession(self._sandbox, self._session.copy())


def python(code: str) -> str | ToolResult:
    """Runs a Python program and returns what it prints. Programs do not share variables, files or a network.

    Args:
        code: The program, for example "print(3 + 4 * 5)".

    Returns:
        What was printed, or the value of the last expression if nothing was.
    """
    return _shared().python(code)


def bubblewrap() -> Launcher:
    """The strictest use of bubblewrap that works on this machine.

    Raises:
        NotIsolated: where none does; one sentence with the reason and the remedy.
    """
    try:
        return appo_sandbox.bubblewrap()
    except appo_sandbox.NotIsolated as error:
        raise NotIsolated(f"{str(error).removesuffix('.')}, {REMEDY}.") from None


def _readable(result: ToolResult) -> str | ToolResult:
    """What a policy reads: of a success the text alone, which other trainers know too."""
    return (result.text or NOTHING) if result.ok else result


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


if sys.platform != "win32":  # where nothing forks
    os.register_at_fork(after_in_child=_forked)
