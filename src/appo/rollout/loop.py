"""Writes rollouts: generate a turn, run its tool calls, append the results, go on; many rollouts at once.

A rollout starts from a prompt or from any token of another rollout: the prefix keeps its calls (they count towards the
limit), and the environment starts in the state that the prefix left. Tools run in threads while other rollouts are
being written; results join every `join_every` steps, and a tool that is not done by then is waited for, so that what
is written does not depend on how fast a tool was.

Left out on purpose: rewards, and any choice of where to branch.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from appo.engines.base import Engine, Request, Turn
from appo.protocols.base import ParsedCall, ToolProtocol
from appo.rollout.types import Rollout, ToolCall
from appo.tools.runner import PendingCall, ToolOutcome, ToolRunner

Tools = Mapping[str, Callable[..., Any]]
UNKNOWN = "unknown"
CALL_LIMIT = "call limit"
BUSY = "busy"


@dataclass
class Start:
    """Where a rollout begins.

    Args:
        rollout: The prefix: a fresh `Rollout(prompt_ids)` or `parent.prefix(position)`.
        tools: Tools by name; bound to `rollout.environment` where they are its methods.
        seed: The rollout's own; None: a child of the run's, by position.
    """

    rollout: Rollout
    tools: Tools
    seed: int | None = None


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
    calls: list[ParsedCall] = field(default_factory=list)
    outcomes: list[ToolOutcome] = field(default_factory=list)
    pending: PendingCall | None = None


def snapshot(environment: Any) -> Any:
    """An independent copy of an environment: `fork()` if it has one, else a deep copy, else None."""
    if environment is None:
        return None
    if hasattr(environment, "fork"):
        return environment.fork()
    try:
        return copy.deepcopy(environment)
    except Exception:  # sockets, generators, locks ...: any error means that it cannot be copied
        return None


class AgentLoop:
    """Writes many rollouts with one engine.

    Args:
        engine: Writes turns.
        protocol: Reads calls and writes results.
        runner: Runs tools.
        max_completion_length: Bound on a rollout's tokens after the prompt, results included.
        max_tool_turns: Bound on turns with tool calls; a rollout that asks for one more ends ("tool_limit").
        context_length: Bound on prompt and completion together, or None.
        max_tool_calls: Bound on a rollout's calls; a further one is not run, and its result says why.
        join_every: Steps between which tools may run beside generation; 1 waits for each call at once.
        keep_snapshots: Whether rollouts keep copies of their environment, to be branched from later.
    """

    def __init__(
        self,
        engine: Engine,
        protocol: ToolProtocol,
        runner: ToolRunner,
        *,
        max_completion_length: int,
        max_tool_turns: int | None = None,
        context_length: int | None = None,
        max_tool_calls: int | None = None,
        join_every: int = 4,
        keep_snapshots: bool = True,
    ) -> None:
        self.engine, self.protocol, self.runner = engine, protocol, runner
        self.max_completion_length = max_completion_length
        self.max_tool_turns = max_tool_turns
        self.context_length = context_length
        self.max_tool_calls = max_tool_calls
        self.join_every = join_every
        self.keep_snapshots = keep_snapshots
        self.counters = LoopCounters()
        self._writing: dict[int, _Writing] = {}

    def run(self, starts: list[Start], seed: int, on_end: Callable[[int], None] = lambda index: None) -> list[Rollout]:
        """Writes all rollouts to their end.

        Args:
            starts: One per rollout; their `rollout` objects are extended in place.
            seed: Rollout i samples from the i-th child of this seed, unless its start has one of its own.
            on_end: Called with i when rollout i has ended.

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
                for turn in self.engine.step():
                    self._end_turn(turn)
                steps += 1
            if steps % self.join_every == 0 or not self.engine.busy:
                self._join_results()
        return [start.rollout for start in starts]

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

        def should_stop(turn_ids: list[int]) -> bool:
            return self.protocol.should_stop(writing.turn_prefix + turn_ids)

        context = rollout.prompt_ids + rollout.completion_ids
        self.engine.start(Request(index, context, self._remaining(rollout), writing.seed, should_stop))

    def _end_turn(self, turn: Turn) -> None:
        self._writing[turn.id].start.rollout.append(turn.token_ids, turn.logprobs)
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
        elif self.max_tool_turns is not None and len(rollout.answered_turns()) >= self.max_tool_turns:
            self._finish(index, "tool_limit")
        else:
            writing.calls, writing.outcomes = calls, []
            self._submit_next(writing)

    def _submit_next(self, writing: _Writing) -> None:
        """Starts the turn's next call. One after another, as in TRL: they may change the same environment."""
        call, environment = writing.calls[len(writing.outcomes)], writing.start.rollout.environment
        calls = len(writing.start.rollout.tool_calls) + len(writing.outcomes)
        owner = getattr(writing.start.tools.get(call.name), "__self__", None)
        if self.max_tool_calls is not None and calls >= self.max_tool_calls:
            text = f"error: the limit of {self.max_tool_calls} tool calls is reached; answer without another call"
            writing.pending = PendingCall(self.runner, None, ToolOutcome(text, CALL_LIMIT, ran=False))
        elif environment is not None and owner is environment and self.runner.busy(environment):
            text = "error: not run, as an earlier call that timed out still runs"
            writing.pending = PendingCall(self.runner, None, ToolOutcome(text, BUSY, ran=False))
        else:
            writing.pending = self.runner.submit(writing.start.tools, call.name, call.arguments, call.error)

    def _finish(self, index: int, reason: Any) -> None:
        writing = self._writing.pop(index)
        writing.start.rollout.finish_reason = reason
        if writing.in_engine:
            self.engine.close(index)
        self._on_end(index)

    def _join_results(self) -> None:
        """Waits for all calls, which run beside each other over rollouts, and appends their results."""
        waiting = {index: writing for index, writing in self._writing.items() if writing.calls}
        unfinished = list(waiting.values())
        while unfinished:
            for writing in unfinished:
                assert writing.pending is not None
                writing.outcomes.append(writing.pending.result())
                if len(writing.outcomes) < len(writing.calls):
                    self._submit_next(writing)
            unfinished = [writing for writing in unfinished if len(writing.outcomes) < len(writing.calls)]
        for index, writing in waiting.items():
            self._append_results(index, writing)

    def _append_results(self, index: int, writing: _Writing) -> None:
        """Appends the results of a turn's calls, all or (where there is no room) none."""
        rollout = writing.start.rollout
        calls = []
        for parsed, outcome in zip(writing.calls, writing.outcomes, strict=True):
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
        writing.calls, writing.turn_prefix, writing.turn_start = [], [], begin + len(ids)
        if writing.in_engine:
            self.engine.resume(index, ids, self._remaining(rollout))
        else:
            self._start_engine(index)
