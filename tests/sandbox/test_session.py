"""Sessions: variables live on, forks replay, what failed leaves no trace."""

import time
from collections.abc import Iterator

import pytest
from sandboxes import LAUNCHERS, isolated_only, told

from appo_sandbox import Lost, Sandbox


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda x: x.name)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Holds two sessions at once."""
    with Sandbox(0.8, memory_mb=96, workers=2, stateful=True, launcher=request.param) as made:
        made.session().run("1")  # the workers are ready
        yield made


def test_variables_imports_and_files_live_on(sandbox: Sandbox) -> None:
    session = sandbox.session()
    assert session.run("import math\nx = 20\ndef f(): return x * 2").text == ""
    assert session.run("open('notes', 'w').write('kept')\nprint(f() + 2)").text == "42"
    assert session.run("math.floor(1.5), open('notes').read()").text == "(1, 'kept')"


def test_sessions_and_episodes_share_nothing(sandbox: Sandbox) -> None:
    one, other = sandbox.session(), sandbox.session()
    one.run("x = 1\nopen('f', 'w').close()")
    assert other.run("import os\nprint('x' in globals(), os.listdir('.'))").text == "False []"
    one.reset()
    assert one.run("import os\nprint('x' in globals(), os.listdir('.'))").text == "False []"


def test_a_fork_has_the_variables_and_goes_its_own_way(sandbox: Sandbox) -> None:
    session = sandbox.session()
    session.run("x = [1]")
    forked, copied = session.copy(), session.copy()
    session.run("x.append(2)")
    forked.run("x.append(3)")
    assert [s.run("x").text for s in (session, forked, copied)] == ["[1, 2]", "[1, 3]", "[1]"]


def test_a_replay_repeats_randomness_and_the_order_of_sets(sandbox: Sandbox) -> None:
    session = sandbox.session()
    code = "import random\nx = [random.random(), list({'a', 'b', 'c', 'd', 'e'})]"
    session.run(code)
    session.run("x.append(random.random())")
    assert session.copy().run("x").text == session.run("x").text


def test_an_exception_keeps_what_was_set_before(sandbox: Sandbox) -> None:
    session = sandbox.session()
    failed = session.run("x = 1\ny = x / 0")
    assert told(failed) == ("ZeroDivisionError: division by zero (line 2)", "exception")
    assert failed.kept
    assert session.copy().run("x").text == "1"
    assert session.run("x").text == "1"
    left = session.run("import sys\nx = 2\nsys.exit(1)")
    assert (told(left), left.status, left.kept) == (("", "exception"), 1, True)
    assert session.run("x").text == "2"


def test_a_call_that_is_stopped_leaves_variables_as_they_were(sandbox: Sandbox) -> None:
    session = sandbox.session()
    session.run("x = 1")
    stopped = session.run("x = 2\nprint('here')\nwhile True: pass")
    assert (told(stopped), stopped.kept) == (("here", "timeout"), False)
    assert session.run("x").text == "1"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import os\nx = 2\nos.abort()", "killed"),
        ("x = 2\nwhile True: print('x' * 9999)", "output"),
        ("x = 2\nimport os\nos._exit(5)", "exception"),
    ],
)
def test_a_call_that_ends_the_interpreter_too(sandbox: Sandbox, code: str, error: str) -> None:
    session = sandbox.session()
    session.run("x = 1")
    failed = session.run(code)
    assert (failed.error, failed.kept) == (error, False)
    assert session.run("x").text == "1"


def test_sessions_beyond_the_limit_come_back_by_replay(sandbox: Sandbox) -> None:
    sessions = [sandbox.session() for _ in range(4)]
    for number, session in enumerate(sessions):
        session.run(f"x = {number}\nimport os\ny = os.getpid()")
    assert len(sandbox._pool._kept) == 2
    assert set(sandbox._pool._kept) == set(sessions[2:])
    assert [session.run("x * 10").text for session in sessions] == ["0", "10", "20", "30"]
    assert len(sandbox._pool._workers) == 2


def test_a_session_is_not_replayed_without_need(sandbox: Sandbox) -> None:
    session = sandbox.session()
    session.run("import time\nx = time.time_ns()")
    first = session.run("x").text
    assert session.run("x").text == first
    assert session.copy().run("x").text != first


def test_earlier_calls_that_do_not_run_again(sandbox: Sandbox) -> None:
    session = sandbox.session()
    # Slow in a replay only: the file system knows no other difference.
    session._calls.append("while True: pass")
    with pytest.raises(Lost):
        session.run("1")
    assert session.run("1").text == "1"


@isolated_only("sandbox")
def test_nothing_runs_between_calls(sandbox: Sandbox) -> None:
    session = sandbox.session()
    session.run(
        "import threading, time\ncount = 0\ndef work():\n    global count\n    while True:\n        count += 1\n"
        "        time.sleep(0.001)\nthreading.Thread(target=work, daemon=True).start()"
    )
    before = int(session.run("count").text)
    time.sleep(0.5)
    assert int(session.run("count").text) < before + 100
    assert int(session.run("time.sleep(0.2)\ncount").text) > before


FORGE = """
import os
for fd in range(3, 64):
    for _ in range(5):
        try:
            os.write(fd, b"\\0")
        except OSError:
            pass
"""


def test_a_session_that_forges_its_replies(sandbox: Sandbox) -> None:
    session = sandbox.session()
    session.run("x = 1")
    session.run(FORGE)
    for _ in range(8):
        session.run("y = 1")
    other = sandbox.session()
    assert other.run("'x' in globals()").text == "False"
    session.reset()
    assert session.run("'x' in globals()").text == "False"


def test_a_sandbox_is_stateful_or_not(sandbox: Sandbox) -> None:
    with pytest.raises(RuntimeError, match="runs programs in sessions"):
        sandbox.run("1")
    with (
        Sandbox(workers=1, launcher=sandbox._launcher) as stateless,
        pytest.raises(RuntimeError, match="need a sandbox that is stateful"),
    ):
        stateless.session()


def test_a_replay_ends_with_the_patience() -> None:
    with Sandbox(3, 96, workers=2, stateful=True, patience_s=0.9, launcher=LAUNCHERS[0]) as sandbox:
        session = sandbox.session()
        for _ in range(3):
            session.run("import time\ntime.sleep(0.5)\nx = 1")
        # The replay would take 1.5 seconds.
        with pytest.raises(Lost):
            session.copy().run("x")
        assert session.run("x").text == "1"
