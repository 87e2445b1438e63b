"""Sessions: variables live on, forks replay, what failed leaves no trace."""

import copy
import time
from collections.abc import Iterator

import pytest
from sandboxes import LAUNCHERS, isolated_only, make

from appo.rollout.environments import tool_methods
from appo.tools import PythonSandbox, ToolResult, python_sandbox
from appo.tools.python_sandbox import AS_BEFORE


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda x: x.name)
def sandbox(request: pytest.FixtureRequest) -> Iterator[PythonSandbox]:
    """Holds two sessions at once."""
    with make(request.param, timeout_s=0.8, memory_mb=96, workers=2, stateful=True) as made:
        made.session().python("1")  # the workers are ready
        yield made


def test_variables_imports_and_files_live_on(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    session.reset(question="unused")
    assert session.python("import math\nx = 20\ndef f(): return x * 2") == "(nothing was printed)"
    assert session.python("open('notes', 'w').write('kept')\nprint(f() + 2)") == "42"
    assert session.python("math.floor(1.5), open('notes').read()") == "(1, 'kept')"


def test_sessions_and_episodes_share_nothing(sandbox: PythonSandbox) -> None:
    one, other = sandbox.session(), sandbox.session()
    one.python("x = 1\nopen('f', 'w').close()")
    assert other.python("import os\nprint('x' in globals(), os.listdir('.'))") == "False []"
    one.reset()
    assert one.python("import os\nprint('x' in globals(), os.listdir('.'))") == "False []"


def test_a_fork_has_the_variables_and_goes_its_own_way(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    session.python("x = [1]")
    forked, copied = copy.deepcopy(session), copy.deepcopy(session)
    session.python("x.append(2)")
    forked.python("x.append(3)")
    assert [s.python("x") for s in (session, forked, copied)] == ["[1, 2]", "[1, 3]", "[1]"]


def test_a_replay_repeats_randomness_and_the_order_of_sets(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    code = "import random\nx = [random.random(), list({'a', 'b', 'c', 'd', 'e'})]"
    session.python(code)
    session.python("x.append(random.random())")
    assert copy.deepcopy(session).python("x") == session.python("x")


def test_an_exception_keeps_what_was_set_before(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    assert session.python("x = 1\ny = x / 0") == ToolResult(
        "ZeroDivisionError: division by zero (line 2)", "exception"
    )
    assert copy.deepcopy(session).python("x") == "1"
    assert session.python("x") == "1"
    assert session.python("import sys\nx = 2\nsys.exit(1)") == ToolResult("SystemExit: 1", "exception")
    assert session.python("x") == "2"


def test_a_call_that_is_stopped_leaves_variables_as_they_were(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    session.python("x = 1")
    stopped = session.python("x = 2\nprint('here')\nwhile True: pass")
    assert stopped == ToolResult(f"here\nTimeoutError: stopped after 0.8 seconds\n{AS_BEFORE}", "timeout")
    assert session.python("x") == "1"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import os\nx = 2\nos.abort()", "killed"),
        ("x = 2\nwhile True: print('x' * 9999)", "output"),
        ("x = 2\nimport os\nos._exit(5)", "exception"),
    ],
)
def test_a_call_that_ends_the_interpreter_too(sandbox: PythonSandbox, code: str, error: str) -> None:
    session = sandbox.session()
    session.python("x = 1")
    failed = session.python(code)
    assert isinstance(failed, ToolResult)
    assert (failed.error, failed.text.endswith(AS_BEFORE)) == (error, True)
    assert session.python("x") == "1"


def test_sessions_beyond_the_limit_come_back_by_replay(sandbox: PythonSandbox) -> None:
    sessions = [sandbox.session() for _ in range(4)]
    for number, session in enumerate(sessions):
        session.python(f"x = {number}\nimport os\ny = os.getpid()")
    assert len(sandbox._pool._kept) == 2
    assert set(sandbox._pool._kept) == set(sessions[2:])
    assert [session.python("x * 10") for session in sessions] == ["0", "10", "20", "30"]
    assert len(sandbox._pool._workers) == 2


def test_a_session_is_not_replayed_without_need(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    session.python("import time\nx = time.time_ns()")
    first = session.python("x")
    assert session.python("x") == first
    assert copy.deepcopy(session).python("x") != first


def test_earlier_calls_that_do_not_run_again(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    # Slow in a replay only: the file system knows no other difference.
    session._calls.append("while True: pass")
    lost = session.python("1")
    assert lost == ToolResult(python_sandbox.LOST, "killed")
    assert session.python("1") == "1"


@isolated_only("sandbox")
def test_nothing_runs_between_calls(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    session.python(
        "import threading, time\ncount = 0\ndef work():\n    global count\n    while True:\n        count += 1\n"
        "        time.sleep(0.001)\nthreading.Thread(target=work, daemon=True).start()"
    )
    before = int(str(session.python("count")))
    time.sleep(0.5)
    assert int(str(session.python("count"))) < before + 100
    assert int(str(session.python("time.sleep(0.2)\ncount"))) > before


FORGE = """
import os
for fd in range(3, 64):
    for _ in range(5):
        try:
            os.write(fd, b"\\0")
        except OSError:
            pass
"""


def test_a_session_that_forges_its_replies(sandbox: PythonSandbox) -> None:
    session = sandbox.session()
    session.python("x = 1")
    session.python(FORGE)
    for _ in range(8):
        session.python("y = 1")
    other = sandbox.session()
    assert other.python("'x' in globals()") == "False"
    session.reset()
    assert session.python("'x' in globals()") == "False"


def test_the_environment_convention(sandbox: PythonSandbox) -> None:
    (tool,) = tool_methods(sandbox.session())
    assert tool.__name__ == "python"
    assert sandbox.session().reset(question="a", answer="b") is None
    assert not hasattr(sandbox.session(), "get_reward")


def test_a_sandbox_is_stateful_or_not(sandbox: PythonSandbox) -> None:
    with pytest.raises(RuntimeError, match=r"environment_factory=sandbox\.session"):
        sandbox("1")
    with make(sandbox._launcher, workers=1) as stateless, pytest.raises(RuntimeError, match="stateful=True"):
        stateless.session()


def test_a_replay_ends_with_the_patience() -> None:
    with make(LAUNCHERS[0], timeout_s=3, memory_mb=96, workers=2, stateful=True, patience_s=0.9) as sandbox:
        session = sandbox.session()
        for _ in range(3):
            session.python("import time\ntime.sleep(0.5)\nx = 1")
        # The replay would take 1.5 seconds.
        assert copy.deepcopy(session).python("x") == ToolResult(python_sandbox.LOST, "killed")
        assert session.python("x") == "1"
