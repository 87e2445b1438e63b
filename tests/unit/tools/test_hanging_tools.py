"""Tools that hang, block the event loop or try to end it: no other call suffers, and nothing piles up."""

import asyncio
import contextlib
import gc
import inspect
import logging
import signal
import threading
import time

import pytest

from appo.tools._event_loops import AsyncCall
from appo.tools.runner import ToolRunner


def eventually(condition):
    """Waits for what other threads have yet to do; a test that never gets there fails."""
    for _ in range(6000):
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def gate():
    """What hanging tools wait for; opened at the end."""
    event = threading.Event()
    yield event
    event.set()


def tool_threads():
    return {thread for thread in threading.enumerate() if thread.name == "appo-tool"}


async def loop_id() -> int:
    """The loop."""
    return id(asyncio.get_running_loop())


async def hang() -> None:
    """Waits for ever, and does not block."""
    await asyncio.sleep(3600)


def call(runner, tool, name="tool"):
    return runner.submit({name: tool}, name, {}).result()


def test_a_tool_that_keeps_hanging_is_not_called_until_a_call_ends(gate, caplog):
    runner = ToolRunner(timeout=0.1, max_workers=1, max_hanging=3)
    before = tool_threads()
    with caplog.at_level(logging.WARNING):
        outcomes = [call(runner, gate.wait, "slow") for _ in range(3)]
        runner.timeout = 60
        outcomes += [call(runner, gate.wait, "slow") for _ in range(7)]
    timeout, refusal = "error: timeout after 0.1 s", "error: slow does not answer: 3 earlier calls still run"
    assert [outcome.text for outcome in outcomes] == [timeout] * 3 + [refusal] * 7
    assert {outcome.error for outcome in outcomes} == {"timeout"}
    assert len(tool_threads() - before) == 3 + 1
    (warning,) = caplog.messages
    assert "3 calls of the tool slow still run" in warning and "below tool_timeout" in warning
    assert call(runner, lambda: "well", "other").text == "well"
    gate.set()
    assert eventually(lambda: call(runner, gate.wait, "slow").error is None)


def test_a_coroutine_that_is_given_up_is_cancelled():
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    assert call(ToolRunner(timeout=0.2), wait).error == "timeout"
    assert cancelled.wait(60)


def test_coroutines_that_are_given_up_leave_no_threads():
    runner = ToolRunner(timeout=0.05, max_workers=2)
    before = tool_threads()
    assert {call(runner, hang).text for _ in range(20)} == {"error: timeout after 0.05 s"}
    assert eventually(lambda: len(tool_threads() - before) <= 2)


def test_a_coroutine_that_will_not_be_cancelled_counts_as_hanging(gate):
    async def stay() -> None:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    runner = ToolRunner(timeout=0.2, max_hanging=1)
    assert call(runner, stay).text == "error: timeout after 0.2 s"
    runner.timeout = 60
    assert call(runner, stay).text == "error: tool does not answer: 1 earlier calls still run"


def blocking(gate):
    """A coroutine that blocks its loop, and an event that tells that it does."""
    begun = threading.Event()

    async def block() -> str:
        begun.set()
        gate.wait()
        return "done"

    return block, begun


def test_a_coroutine_that_blocks_does_not_stop_the_others(gate, monkeypatch):
    monkeypatch.setattr("appo.tools.runner.LONGEST_PATIENCE", 2.0)
    runner = ToolRunner(timeout=60)
    first = call(runner, loop_id).text
    block, begun = blocking(gate)
    blocked = runner.submit({"block": block}, "block", {})
    assert begun.wait(60)
    others = [runner.submit({"loop_id": loop_id}, "loop_id", {}) for _ in range(3)]
    found = {pending.result().text for pending in others}
    assert len(found) == 1 and first not in found  # the three share another loop
    assert call(runner, loop_id).text in found
    gate.set()
    assert blocked.result().text == "done"
    assert eventually(lambda: call(runner, loop_id).text == first)  # to which clients may belong


def test_a_coroutine_that_was_given_up_before_it_began_never_begins(gate):
    runner = ToolRunner(timeout=60)
    runner._loops.patience = 60.0
    block, begun = blocking(gate)
    blocked = runner.submit({"block": block}, "block", {})
    assert begun.wait(60)
    ran = []

    async def late() -> None:
        ran.append(1)

    runner.timeout = 0.1
    assert call(runner, late).error == "timeout"
    runner.timeout = 60
    gate.set()
    blocked.result()
    call(runner, loop_id)
    assert ran == []


def test_a_coroutine_that_was_given_up_before_it_began_is_closed():
    coroutine = hang()
    AsyncCall(coroutine).give_up()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED  # else Python warns that it was never awaited


def test_coroutines_that_will_not_be_cancelled_are_told_of_once_when_the_runner_is_closed(caplog):
    async def stay() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    runner = ToolRunner(timeout=0.05)
    assert [call(runner, stay).error for _ in range(3)] == ["timeout"] * 3
    runner.close()
    assert eventually(lambda: bool(caplog.messages))
    del runner
    gc.collect()
    assert caplog.messages == ["3 coroutines of tools still ran when their event loop was closed; they end there."]


def test_objects_without_weak_references_are_not_kept_for_ever_for_a_call_that_was_given_up():
    class Slots:
        __slots__ = ()

        async def wait(self) -> None:
            await asyncio.sleep(3600)

    runner = ToolRunner(timeout=0.02)
    kept = Slots()
    assert call(runner, kept.wait).error == "timeout"
    for _ in range(20):
        assert call(runner, Slots().wait).error == "timeout"
    assert eventually(lambda: call(runner, Slots().wait).error and len(runner._held) < 10)
    assert runner.gave_up(kept)


async def leave(kind: str) -> None:
    """Ends the process. Args: kind: How."""
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]("by")


async def leave_in_a_task(kind: str) -> None:
    """Ends the process. Args: kind: How."""
    await asyncio.create_task(leave(kind))


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("tool", [leave, leave_in_a_task])
def test_a_coroutine_that_exits_fails_alone(tool, kind):
    runner = ToolRunner(timeout=60)
    before = call(runner, loop_id).text
    outcome = runner.submit({"tool": tool}, "tool", {"kind": kind}).result()
    assert (outcome.text, outcome.error) == (f"error: {kind}: by", kind)
    assert [call(runner, loop_id).text for _ in range(3)] == [before] * 3


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_error_or_a_result_whose_text_cannot_be_had_is_a_failure_and_no_timeout(kind):
    class Mute(Exception):
        def __str__(self):
            raise kind

    def fail() -> None:
        raise Mute

    runner = ToolRunner(timeout=60)
    assert call(runner, fail).text == "error: Mute: no message"
    assert call(runner, lambda: Mute()).error == kind.__name__  # as a result


def test_control_c_still_ends_the_run(gate):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it

    def press() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        gate.wait()

    try:
        with pytest.raises(KeyboardInterrupt):
            call(ToolRunner(timeout=60), press)
    finally:
        signal.signal(signal.SIGINT, before)
