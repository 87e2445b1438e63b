"""Python whose variables live from one call to the next, as an environment of TRL's convention.

    sandbox = PythonSandbox(stateful=True)
    trainer = APPOTrainer(..., environment_factory=sandbox.session)

A session is the list of its calls. Its variables live in a worker of the sandbox while there is room; the sessions
used least recently lose theirs, and the next call first runs the earlier ones again. A deep copy, which a branch
takes, has the same list and starts by replaying it. A call that was stopped or killed leaves no trace: the others are
replayed. One that raised an exception stays, as it may have set variables.

What a replay repeats: `random`, `numpy.random` and the order of sets, which start alike in every session. What it does
not: the time, `os.urandom`, `secrets`, `numpy.random.default_rng()` without a seed.

Left out on purpose: files of a saved session; cutting a long history.
"""

import threading
from typing import TYPE_CHECKING, Any

from appo.tools.results import ToolResult

if TYPE_CHECKING:
    from appo.tools.python_sandbox import PythonSandbox


class PythonSession:
    """One rollout's interpreter; made by `PythonSandbox.session`. Its public method `python` is the tool.

    Args:
        sandbox: Runs the programs.
        calls: Earlier programs, whose variables the session has.
    """

    def __init__(self, sandbox: "PythonSandbox", calls: tuple[str, ...] = ()) -> None:
        self._sandbox = sandbox
        self._calls = list(calls)
        self._lock = threading.Lock()

    def reset(self, **row: object) -> None:
        """Starts an episode, without variables. The row's columns are not used."""
        with self._lock:
            self._calls.clear()
            self._sandbox._drop(self)

    def python(self, code: str) -> str | ToolResult:
        """Runs a Python program and returns what it prints. Variables of earlier programs can be used.

        Args:
            code: The program, for example "print(3 + 4 * 5)".

        Returns:
            What was printed, or the value of the last expression if nothing was.
        """
        with self._lock:
            return self._sandbox._readable(self._sandbox._run_in_session(self, self._calls, code))

    def __deepcopy__(self, memo: dict[int, Any]) -> "PythonSession":
        """An independent session with the same variables, which are replayed when it is first used.

        There is no `fork` beside it: a trainer that does not know of forks would offer it to the policy as a tool.
        """
        return PythonSession(self._sandbox, tuple(self._calls))
