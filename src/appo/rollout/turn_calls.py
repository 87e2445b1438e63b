"""The calls of turns under way: those of one turn one after another, turns beside each other.

A turn's calls may change the same environment, so each waits for the one before, as in TRL. Which turns are done is
told without waiting (`finished`), or all are waited for (`join`). Only where the last tool answered at once are calls
that have just begun given a moment too: rows that would write a step later cost more than that.

Left out on purpose: threads and time-outs (`tools/runner.py`), and what becomes of results (`loop.py`).
"""

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from appo.protocols.base import ParsedCall
from appo.rollout.types import Rollout
from appo.tools.runner import QUICK, PendingCall, ToolOutcome, ToolRunner

CALL_LIMIT = "call limit"
BUSY = "busy"

Tools = Mapping[str, Callable[..., Any]]


@dataclass
class CallingTurn:
    """A turn whose calls are being run.

    Args:
        rollout: The rollout that it belongs to; its earlier calls count towards the limit.
        tools: Tools by name.
        calls: In the order of writing.
        outcomes: Of the first calls, those that are done.
    """

    rollout: Rollout
    tools: Tools
    calls: list[ParsedCall]
    outcomes: list[ToolOutcome] = field(default_factory=list)
    pending: PendingCall | None = None

    @property
    def done(self) -> bool:
        return len(self.outcomes) == len(self.calls)


class TurnCalls:
    """Runs the calls of many turns.

    Args:
        runner: Runs each call.
        max_tool_calls: Bound on a rollout's calls; a further one is not run, and its result says why.
    """

    def __init__(self, runner: ToolRunner, max_tool_calls: int | None = None) -> None:
        self.runner, self.max_tool_calls = runner, max_tool_calls
        self._turns: dict[int, CallingTurn] = {}
        self._begun: list[int] = []  # turns whose first call is not yet started
        self._young: set[int] = set()  # turns with a call that began since `finished` was last asked
        self._quick = True  # whether tools answer at once
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # turns whose present call has ended

    def begin(self, index: int, turn: CallingTurn) -> None:
        """Takes a turn, known by `index` until it is done; its first call starts with `start`."""
        self._turns[index] = turn
        self._begun.append(index)

    def start(self) -> None:
        """Starts the first calls of all turns that have begun since: together, as to wake a thread costs more than a
        quick tool."""
        begun, self._begun = self._begun, []
        for index in begun:
            self._submit_next(index, self._turns[index])

    def finished(self, wait: bool) -> list[tuple[int, CallingTurn]]:
        """The turns that are done by now, in the order in which they were; at least one if `wait` and any is under
        way."""
        done: list[tuple[int, CallingTurn]] = []
        moment = time.monotonic() + QUICK
        while self._turns:
            seconds = self.runner.tend()
            waits = wait and not done
            if not waits:
                seconds = moment - time.monotonic() if self._young and self._quick else 0.0
            try:
                index = (
                    self._ended.get(timeout=seconds) if seconds is None or seconds > 0 else self._ended.get_nowait()
                )
            except queue.Empty:
                if waits:
                    continue
                break
            if self._take(index):
                done.append((index, self._turns.pop(index)))
        self._quick &= not self._young
        self._young.clear()
        return done

    def join(self) -> list[tuple[int, CallingTurn]]:
        """Waits until all turns are done; in the order of their indices."""
        left = sorted(self._turns)
        while left:
            left = [index for index in left if not self._take(index)]
        while not self._ended.empty():
            self._ended.get()
        done, self._turns = self._turns, {}
        return sorted(done.items(), key=lambda item: item[0])

    def _take(self, index: int) -> bool:
        """Takes the outcome of a turn's present call and starts the next; whether there is none."""
        turn = self._turns[index]
        assert turn.pending is not None
        turn.outcomes.append(turn.pending.result())
        self._young.discard(index)
        self._quick = turn.outcomes[-1].seconds < QUICK
        if not turn.done:
            self._submit_next(index, turn)
        return turn.done

    def _submit_next(self, index: int, turn: CallingTurn) -> None:
        call, environment = turn.calls[len(turn.outcomes)], turn.rollout.environment
        calls = len(turn.rollout.tool_calls) + len(turn.outcomes)
        owner = getattr(turn.tools.get(call.name), "__self__", None)

        self._young.add(index)

        def on_end() -> None:
            self._ended.put(index)

        if self.max_tool_calls is not None and calls >= self.max_tool_calls:
            text = f"error: the limit of {self.max_tool_calls} tool calls is reached; answer without another call"
            turn.pending = self.runner.refuse(text, CALL_LIMIT, on_end)
        elif environment is not None and owner is environment and self.runner.busy(environment):
            text = "error: not run, as an earlier call that timed out still runs"
            turn.pending = self.runner.refuse(text, BUSY, on_end)
        else:
            turn.pending = self.runner.submit(turn.tools, call.name, call.arguments, call.error, on_end)
