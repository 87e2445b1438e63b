"""Writes rollouts: generate a turn, run its tool calls, append the results, go on; many rollouts at once.

A rollout starts from a prompt or from any token of another rollout: the prefix keeps its calls (they count towards the
limit), and the environment starts in the state that the prefix left. Tools run in threads, and no tool stops the
writing: each rollout goes on when its own calls are done, others are written meanwhile and new ones begun. Only when
there is nothing to write is the call waited for that ends first.

Each rollout has a seed of its own, so that the speed of tools decides when it is written but not what; yet it also
decides beside which others, and the rounding of floating-point sums depends on that. In float32 the tokens are the
same but for rare ties, and log-probabilities differ in their last digits; in bfloat16 tokens differ now and then. With
`deterministic` results join at fixed steps, and all calls are waited for there: a run repeats itself to the bit.

Left out on purpose: rewards, and any choice of where to branch.
"""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from appo.engines.base import Engine, Request, Turn
from appo.protocols.base import ToolProtocol
from appo.rollout.turn_calls import CallingTurn, Tools, TurnCalls
from appo.rollout.types import Rollout, ToolCall
from appo.tools.runner import ToolOutcome, ToolRunner

UNKNOWN = "unknown"
# Classes of which a deep copy failed: half-made objects of threads, loops and sandboxes complain when they go.
_NOT_COPIED: "weakref.WeakSet[type]" = weakref.WeakSet()


@dataclass
class Start:
    """Where a rollout begins.

    Args:
        rollout: The prefix: a fresh `Rollout(prompt_ids)` or `parent.prefix(position)`.
        tools: Tools by name; bound to `rollout.environment` where they are its methods.
        seed: The rollout's own; None: a child of the run's, by position.
        alternatives: How many of the likeliest tokens at its first new position are kept (`Rollout.alternatives`).
    """

    rollout: Rollout
    tools: Tools
    seed: int | None = None
    alternatives: int = 0


@dataclass
class ToolCounter:
    """What became of one tool's calls; time-outs are failures too, and `seconds` adds up calls that ran at once."""

    calls: int = 0
    failures: int = 0
    timeouts: int = 0
    seconds: float = 0.0


@dataclass
class LoopCounters:
    """What was done and what was caught; `tools` by name, names that no tool has under `UNKNOWN`."""

    policy_tokens: int = 0
    tools: dict[str, ToolCounter] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, outcome: ToolOutcome) -> None:
        tool = self.tools.setdefault(name, ToolCounter())
        tool.calls += 1
        tool.seconds += outcome.seconds
        if outcome.error:
            tool.failures += 1
            tool.timeouts += outcome.error == "timeout"
            self.errors[outcome.error] = self.errors.get(outcome.error, 0) + 1


@dataclass
class _Writing:
    start: Start
    turn_prefix: list[int]  # tokens of the present turn that the rollout started with
    turn_start: int
    seed: int
    in_engine: bool = False


def snapshot(environment: Any) -> Any:
    """An independent copy of an environment: `fork()` if it has one, else a deep copy, else None.

    None too where `fork` is None, as its state lies elsewhere, and where a deep copy of one of its class ever failed.
    """
    if environment is None:
        return None
    if hasattr(environment, "fork"):
        return None if environment.fork is None else environment.fork()
    if type(environment) in _NOT_COPIED:
        return None
    try:
        return copy.deepcopy(environment)
    except Exception:  # sockets, generators, locks ...: any error means that it cannot be copied
        _NOT_COPIED.add(type(environment))
        return None


class AgentLoop:
    """Writes many rollouts with one engine.

    Args:
        engine: Writes turns.
        protocol: Reads calls and writes results.
        runner: Runs tools.
        max_completion_length: Bound on a rollout's tokens after the prompt, results included.
        max_tool_calling_iterations: Bound on turns with tool calls, as in TRL; a rollout that asks for one more ends
            ("tool_limit").
        context_length: Bound on prompt and completion together, or None.
        max_tool_calls: Bound on a rollout's calls; a further one is not run, and its result says why.
        deterministic: Whether results join at fixed steps, whatever the speed of tools.
        join_steps: If so, the engine's steps from one to the next; 1 waits for each call at once.
        keep_snapshots: Whether rollouts keep copies of their environment, to be branched from later.
    """

    def __init__(
        self,
        engine: Engine,
        protocol: ToolProtocol,
        runner: ToolRunner,
        *,
        max_completion_length: int,
        max_tool_calling_iterations: int | None = None,
        context_length: int | None = None,
        max_tool_calls: int | None = None,
        deterministic: bool = False,
        join_steps: int = 4,
        keep_snapshots: bool = True,
    ) -> None:
        self.engine, self.protocol, self.runner = engine, protocol, runner
        self.max_completion_length = max_completion_length
        self.max_tool_calling_iterations = max_tool_calling_iterations
        self.context_length = context_length
        self.deterministic, self.join_steps = deterministic, join_steps
        self.keep_snapshots = keep_snapshots
        self._calls = TurnCalls(runner, max_tool_calls)
        self.counters = LoopCounters()
        self._writing: dict[int, _Writing] = {}

    def run(
        self,
        starts: list[Start],
        seed: int,
        on_end: Callable[[int], None] = lambda index: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> list[Rollout]:
        """Writes all rollouts to their end.

        Args:
            starts: One per rollout; their `rollout` objects are extended in place.
            seed: Rollout i samples from the i-th child of this seed, unless its start has one of its own.
            on_end: Called with i when rollout i has ended.
            on_step: Called after each step of the engine, and once what came of it is in the rollouts.

        Returns:
            The rollouts, in the order of `starts`.
        """
        self._on_end = on_end
        seeds = np.random.SeedSequence(seed).generate_state(max(len(starts), 1), dtype=np.uint64)
        for index, start in enumerate(starts):
            self._open(index, start, int(seeds[index]) if start.seed is None else start.seed)
        steps = 0
        while self._writing:
            if self.engine.busy:
                for written in self.engine.step():
                    self._end_turn(written)
                steps += 1
            self._calls.start()
            for index, turn in self._answered_turns(steps):
                self._append_results(index, turn)
            on_step()
        return [start.rollout for start in starts]

    def abandon(self) -> None:
        """Forgets the rollouts that are being written, after an error; calls that run are no longer waited for."""
        self.engine.abandon()
        self._writing.clear()
        self._calls = TurnCalls(self.runner, self._calls.max_tool_calls)

    def _answered_turns(self, steps: int) -> list[tuple[int, CallingTurn]]:
        """The turns whose results join now; some, if there is nothing to write without them."""
        if not self.deterministic:
            return self._calls.finished(wait=not self.engine.busy)
        return self._calls.join() if steps % self.join_steps == 0 or not self.engine.busy else []

    def _remaining(self, rollout: Rollout) -> int:
        room = self.max_completion_length - len(rollout.completion_ids)
        if self.context_length is not None:
            room = min(room, self.context_length - len(rollout.prompt_ids) - len(rollout.completion_ids))
        return room

    def _open(self, index: int, start: Start, seed: int) -> None:
        rollout = start.rollout
        if self.keep_snapshots and not rollout.snapshots and rollout.environment is not None:
            rollout.snapshots = [self._snapshot(rollout)]
        answered = rollout.answered_turns()
        turn_start = answered[-1] if answered else 0
        prefix = rollout.completion_ids[turn_start:]
        self._writing[index] = _Writing(start, prefix, turn_start, seed)
        if prefix and self.protocol.should_stop(prefix):
            self._handle_turn(index)  # the prefix ends with a complete call: its result comes first
        elif self._remaining(rollout) <= 0:
            self._finish(index, "length")
        else:
            self._start_engine(index)

    def _snapshot(self, rollout: Rollout) -> Any:
        """A copy of the environment; None once a call of it was given up, as that may be changing it."""
        return None if self.runner.gave_up(rollout.environment) else snapshot(rollout.environment)

    def _start_engine(self, index: int) -> None:
        writing = self._writing[index]
        rollout = writing.start.rollout
        writing.in_engine = True
        context = rollout.prompt_ids + rollout.completion_ids
        self.engine.start(
            Request(
                index,
                context,
                self._remaining(rollout),
                writing.seed,
                self.protocol.stop,
                turn_tokens=len(writing.turn_prefix),
                top_alternatives=writing.start.alternatives,
            )
        )

    def _end_turn(self, turn: Turn) -> None:
        rollout = self._writing[turn.id].start.rollout
        rollout.append(turn.token_ids, turn.logprobs)
        if turn.alternatives is not None:
            rollout.alternatives = [[token, logp] for token, logp in turn.alternatives]
        self.counters.policy_tokens += len(turn.token_ids)
        if turn.reason == "length":
            self._finish(turn.id, "length")
        else:
            self._handle_turn(turn.id)

    def _handle_turn(self, index: int) -> None:
        """Starts the calls of a turn that has ended, or ends the rollout."""
        writing = self._writing[index]
        rollout = writing.start.rollout
        context_ids = rollout.prompt_ids + rollout.completion_ids[: writing.turn_start]
        calls = self.protocol.parse_calls(rollout.completion_ids[writing.turn_start :], context_ids)
        if not calls:
            self._finish(index, "stop")
        elif self._no_more_turns(rollout):
            self._finish(index, "tool_limit")
        else:
            self._calls.begin(index, CallingTurn(rollout, writing.start.tools, calls))

    def _no_more_turns(self, rollout: Rollout) -> bool:
        limit = self.max_tool_calling_iterations
        return limit is not None and len(rollout.answered_turns()) >= limit

    def _finish(self, index: int, reason: Any) -> None:
        writing = self._writing.pop(index)
        writing.start.rollout.finish_reason = reason
        if writing.in_engine:
            self.engine.close(index)
        self._on_end(index)

    def _append_results(self, index: int, turn: CallingTurn) -> None:
        """Appends the results of a turn's calls, all or (where there is no room) none."""
        writing, rollout = self._writing[index], turn.rollout
        calls = []
        for parsed, outcome in zip(turn.calls, turn.outcomes, strict=True):
            self.counters.count(parsed.name if parsed.name in writing.start.tools else UNKNOWN, outcome)
            start, end = writing.turn_start + parsed.start, writing.turn_start + parsed.end
            call = ToolCall(parsed.name, parsed.arguments, start, end, outcome.text, outcome.error)
            call.seconds, call.ran = outcome.seconds, outcome.ran
            calls.append(call)
        ids = self.protocol.encode_results([(call.name, call.result) for call in calls])
        fits = len(ids) < self._remaining(rollout)
        rollout.tool_calls += calls
        if not fits:
            return self._finish(index, "length")
        begin = len(rollout.completion_ids)
        for call in calls:
            call.result_start, call.result_end = begin, begin + len(ids)
        rollout.append(ids, None)
        if self.keep_snapshots and rollout.environment is not None:
            rollout.snapshots.append(self._snapshot(rollout))
        writing.turn_prefix, writing.turn_start = [], begin + len(ids)
        if writing.in_engine:
            self.engine.resume(index, ids, self._remaining(rollout))
        else:
            self._start_engine(index)
