"""A call that was given up may go on: its environment is shared with no other rollout, call or copy."""

import asyncio
import threading
from dataclasses import dataclass

import pytest
from test_loop import ANSWER, CALL, RESULT, ScriptedEngine, start

from appo.protocols.tags import TagProtocol
from appo.rollout.environments import EnvironmentPool
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.turn_calls import BUSY
from appo.tools.runner import ToolRunner

HANG = CALL.replace("e1", "e2")


class Counter:
    """Counts its calls; one of `mother e2` waits for the gate first."""

    def __init__(self, gate):
        self.gate = gate
        self.seen = []

    def reset(self, **row):
        self.count = 0

    def search(self, query: str) -> str:
        self.seen.append(query)
        if query == "mother e2":
            self.gate.wait()
        self.count += 1
        return f"e{self.count}"


class Forked(Counter):
    def fork(self):
        copy = type(self)(self.gate)
        copy.count = self.count
        return copy


@pytest.fixture
def gate():
    event = threading.Event()
    yield event
    event.set()


def make_loop(tokenizer, texts, timeout=1.0):
    runner = ToolRunner(timeout=timeout)
    protocol = TagProtocol(tokenizer, ["search"], RESULT)
    return AgentLoop(ScriptedEngine(tokenizer, {0: texts}), protocol, runner, max_completion_length=200)


def settle(runner, environment):
    """Waits until the late call of an environment has ended."""
    for _ in range(6000):
        if not runner.busy(environment):
            return
        threading.Event().wait(0.01)
    raise AssertionError("the call never ended")


def test_a_late_call_changes_no_other_tasks_environment(tiny, gate):
    _, tokenizer = tiny
    pool = EnvironmentPool([], lambda: Counter(gate))
    loop = make_loop(tokenizer, [HANG, ANSWER])
    begin = start(tokenizer, pool)
    (rollout,) = loop.run([begin], seed=0)
    assert [call.error for call in rollout.tool_calls] == ["timeout"]
    pool.release(loop.runner)
    after, _ = pool.open({"seed": 2})
    gate.set()
    settle(loop.runner, rollout.environment)
    assert (rollout.environment.count, after.count) == (1, 0)
    pool.release(loop.runner)
    assert pool.open({"seed": 3})[0] is after  # and one without a late call is used again


def test_an_environment_with_a_late_call_gets_no_other_until_that_has_ended(tiny, gate):
    _, tokenizer = tiny
    pool = EnvironmentPool([], lambda: Counter(gate))
    loop = make_loop(tokenizer, [HANG, CALL, ANSWER])
    begin = start(tokenizer, pool)
    (rollout,) = loop.run([begin], seed=0)
    assert [call.error for call in rollout.tool_calls] == ["timeout", BUSY]
    assert rollout.tool_calls[1].result == "error: not run, as an earlier call that timed out still runs"
    assert rollout.environment.seen == ["mother e2"]
    assert loop.counters.errors == {"timeout": 1, BUSY: 1}
    gate.set()
    settle(loop.runner, rollout.environment)
    again = make_loop(tokenizer, [CALL, ANSWER])
    again.runner = loop.runner
    begin.rollout = rollout.prefix(0)
    begin.rollout.environment = rollout.environment
    (rollout,) = again.run([begin], seed=0)
    assert [call.result for call in rollout.tool_calls] == ["e2"]


@pytest.mark.parametrize("kind", [Counter, Forked])
def test_a_branch_from_behind_a_late_call_replays_the_others_in_an_environment_of_its_own(tiny, gate, kind):
    _, tokenizer = tiny
    pool = EnvironmentPool([], lambda: kind(gate))
    loop = make_loop(tokenizer, [CALL, HANG, ANSWER])
    (parent,) = loop.run([start(tokenizer, pool)], seed=0)
    assert [call.ran for call in parent.tool_calls] == [True, False]
    assert parent.snapshots[2] is None
    prefix = parent.prefix(parent.tool_calls[1].result_end)
    pool.enter_prefix(prefix, {"prompt": "mother boss e1", "seed": 1}, loop.runner)
    assert prefix.environment is not parent.environment
    assert prefix.environment.seen == ["mother e1"]
    loop.engine.scripts = {0: [CALL, ANSWER]}
    (branch,) = loop.run([Start(prefix, pool.tools_of(prefix.environment))], seed=0)
    assert branch.tool_calls[2].result == "e2"
    assert parent.environment.count == 1


def test_an_environment_whose_coroutine_was_cancelled_goes_on_and_is_not_used_again(tiny):
    _, tokenizer = tiny

    class Waiting(Counter):
        async def search(self, query: str) -> str:
            if query == "mother e2":
                await asyncio.sleep(3600)
            return "e1"

    pool = EnvironmentPool([], lambda: Waiting(None))
    loop = make_loop(tokenizer, [HANG, CALL, ANSWER])
    (rollout,) = loop.run([start(tokenizer, pool)], seed=0)
    assert [call.error for call in rollout.tool_calls] == ["timeout", None]
    pool.release(loop.runner)
    assert pool.open({"seed": 2})[0] is not rollout.environment


class Slotted:
    __slots__ = ("gate",)

    def __init__(self, gate):
        self.gate = gate

    def wait(self) -> None:
        self.gate.wait()


@dataclass
class Comparable:
    """Equal to all others, and so without a hash."""

    gate: threading.Event

    def wait(self) -> None:
        self.gate.wait()


@pytest.mark.parametrize("kind", [Slotted, Comparable])
def test_objects_are_told_apart_whatever_their_class(gate, kind):
    runner = ToolRunner(timeout=0.1)
    late, other = kind(gate), kind(gate)
    runner.submit({"wait": late.wait}, "wait", {}).result()
    assert (runner.gave_up(late), runner.busy(late)) == (True, True)
    assert (runner.gave_up(other), runner.busy(other)) == (False, False)
    gate.set()
    settle(runner, late)
    assert runner.gave_up(late)


def test_a_function_that_hangs_costs_no_environment(tiny, gate):
    _, tokenizer = tiny

    def search(query: str) -> str:
        gate.wait()

    class Still:
        def reset(self, **row):
            pass

    pool = EnvironmentPool([search], Still)
    loop = make_loop(tokenizer, [CALL, ANSWER])
    (rollout,) = loop.run([start(tokenizer, pool)], seed=0)
    assert [call.error for call in rollout.tool_calls] == ["timeout"]
    pool.release(loop.runner)
    assert pool.open({"seed": 2})[0] is rollout.environment
