"""Totals of a run: training alone, counted once, gone on with after a resume; seconds since the last log."""

import contextlib

import pytest
from accelerate import Accelerator

from appo.rollout.counters import RunCounters
from appo.rollout.loop import UNKNOWN, LoopCounters, ToolCounter


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def test_every_count_is_logged_once(accelerator):
    counters = RunCounters(["search"])
    with counters.counted():
        counters.add("tokens/trained", 3)
        assert counters.take(accelerator)["tokens/trained"] == 3.0
        counters.add("tokens/trained", 2)
    assert counters.totals()["tokens/trained"] == 5
    assert counters.take(accelerator)["tokens/trained"] == 5.0


def test_a_loop_is_counted_in_all_and_by_tool(accelerator):
    counters = RunCounters(["search"])
    tools = {"search": ToolCounter(3, 2, 1, 0.5), UNKNOWN: ToolCounter(1, 1, 0, 0.0)}
    with counters.counted():
        counters.add_loop(LoopCounters(policy_tokens=40, tools=tools), rollouts=2)
    logs = counters.take(accelerator)
    assert (logs["tokens/generated"], logs["rollouts/generated"]) == (40, 2)
    assert (logs["tools/calls"], logs["tools/failures"]) == (4, 3)
    assert [logs[f"tools/search/{kind}"] for kind in ("calls", "failures", "timeouts")] == [3, 2, 1]
    assert logs["tools/unknown/calls"] == 1
    assert (logs["time/tools"], logs["time/tools/search"]) == (0.5, 0.5)


def test_seconds_begin_again_with_every_log(accelerator):
    counters = RunCounters([])
    with counters.counted(), counters.timed("score"):
        pass
    assert counters.take(accelerator)["time/score"] > 0
    assert counters.take(accelerator)["time/score"] == 0


def test_a_resumed_run_goes_on_counting(accelerator):
    counters = RunCounters([])
    counters.restore([{"tokens/generated": 7.0}, {"loss": 1.0}, {"tokens/generated": 9.0}, {"loss": 0.5}])
    with counters.counted():
        counters.add("tokens/generated", 1)
    assert counters.take(accelerator)["tokens/generated"] == 10.0


def test_what_is_no_training_is_in_no_total(accelerator):
    counters, loop = (
        RunCounters(["search"]),
        LoopCounters(policy_tokens=40, tools={"search": ToolCounter(3, 2, 1, 0.5)}),
    )

    def do():
        with counters.timed("generate"):
            counters.add_loop(loop, rollouts=2)
            counters.add("tokens/trained", 1)

    do()
    with counters.counted():
        with contextlib.suppress(KeyError), counters.counted(False):
            do()
            raise KeyError
        counters.add("rollouts/generated", 1)  # counted again, however the inner part ended
    do()
    logs = counters.take(accelerator)
    assert {name: value for name, value in logs.items() if value} == {"rollouts/generated": 1.0}
