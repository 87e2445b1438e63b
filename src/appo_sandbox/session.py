"""Python whose variables live from one call to the next.

A session is the list of its calls. Its variables live in a worker of the sandbox while there is room; the sessions
used least recently lose theirs, and the next call first runs the earlier ones again. A copy has the same list and
starts by replaying it. A call that was stopped or killed leaves no trace: the others are replayed. One that raised an
exception stays, as it may have set variables.

What a replay repeats: `random`, `numpy.random` and the order of sets, which start alike in every session. What it does
not: the time, `os.urandom`, `secrets`, `numpy.random.default_rng()` without a seed.

Left out on purpose: files of a saved session; cutting a long history.
"""

import threading
from typing import TYPE_CHECKING

from appo_sandbox.worker import Outcome

if TYPE_CHECKING:
    from appo_sandbox.sandbox import Sandbox


class Session:
    """One interpreter; made by `Sandbox.session`. Calls from several threads run one after another.

    Args:
        sandbox: Runs the programs.
        calls: Earlier programs, whose variables the session has.
    """

    def __init__(self, sandbox: "Sandbox", calls: tuple[str, ...] = ()) -> None:
        self._sandbox = sandbox
        self._calls = list(calls)
        self._lock = threading.Lock()

    def run(self, code: str) -> Outcome:
        """Runs a program after the earlier ones.

        Returns:
            How it ended. Where it is not `kept`, variables are as they were before.

        Raises:
            Busy: where no worker was free in time; the program was not run.
            Lost: where the earlier programs did not run again in time; the program was not run, and the session
                starts anew.
            RuntimeError: where the sandbox is closed, or a worker does not start.
        """
        with self._lock:
            return self._sandbox._run_in_session(self, self._calls, code)

    def reset(self) -> None:
        """Forgets all variables and calls."""
        with self._lock:
            self._calls.clear()
            self._sandbox._drop(self)

    def copy(self) -> "Session":
        """An independent session with the same variables, which are replayed when it is first used."""
        return Session(self._sandbox, tuple(self._calls))
