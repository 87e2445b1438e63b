"""What a run has done so far, and where its time goes.

Counts are totals of the whole run over all processes, and go on after a resume; seconds are this process's since the
last log. Only training steps are counted: an evaluation, whoever makes it, is in no total. Left out on purpose:
metrics of the rollouts themselves (`metrics.py`).
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

from appo.rollout.loop import UNKNOWN, LoopCounters

TOTALS = (
    "tokens/generated", "tokens/trained", "rollouts/generated", "tools/calls", "tools/failures", "branches/left_out",
)  # fmt: skip
PHASES = ("generate", "score", "branch", "weights", "tools", "train")
TOOL_TOTALS = ("calls", "failures", "timeouts")  # of each tool


class RunCounters:
    """Counts and seconds of a trainer, of what happens within `counted` alone.

    Args:
        tool_names: Tools that are counted each by itself. Every process has to name the same.
        more, phases: Names of what is counted besides, and of what else takes time.
    """

    def __init__(self, tool_names: Iterable[str], more: Iterable[str] = (), phases: Iterable[str] = ()) -> None:
        tools = [*tool_names, UNKNOWN]
        names = [f"tools/{name}/{kind}" for name in tools for kind in TOOL_TOTALS]
        self.logged = dict.fromkeys([*TOTALS, *names, *more], 0)
        self.since_log = dict.fromkeys(self.logged, 0)  # of this process
        self.seconds = dict.fromkeys([*PHASES, *phases, *(f"tools/{name}" for name in tools)], 0.0)
        self.counting = False

    def totals(self) -> dict[str, int]:
        """Everything so far, on this process since the last log and on all before it."""
        return {name: total + self.since_log[name] for name, total in self.logged.items()}

    def add(self, name: str, count: int) -> None:
        self.since_log[name] += count if self.counting else 0

    def add_seconds(self, phase: str, seconds: float) -> None:
        self.seconds[phase] += seconds if self.counting else 0.0

    def add_loop(self, counters: LoopCounters, rollouts: int) -> None:
        """Counts what an agent loop did."""
        self.add("tokens/generated", counters.policy_tokens)
        self.add("rollouts/generated", rollouts)
        for name, tool in counters.tools.items():
            self.add("tools/calls", tool.calls)
            self.add("tools/failures", tool.failures)
            for kind in TOOL_TOTALS:
                self.add(f"tools/{name}/{kind}", getattr(tool, kind))
            self.add_seconds("tools", tool.seconds)
            self.add_seconds(f"tools/{name}", tool.seconds)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add_seconds(phase, time.perf_counter() - start)

    @contextmanager
    def counted(self, counting: bool = True) -> Iterator[None]:
        """What happens inside is counted (a training step), or is not (within one, the samples of a control)."""
        before, self.counting = self.counting, counting
        try:
            yield
        finally:
            self.counting = before

    def state(self) -> dict[str, dict[str, int]]:
        """What `load_state` takes; of this process."""
        return {"logged": self.logged, "since_log": self.since_log}

    def load_state(self, state: dict[str, dict[str, int]]) -> None:
        """Totals go on from where they were when `state` was taken; names no longer counted are left out."""
        for mine, saved in ((self.logged, state["logged"]), (self.since_log, state["since_log"])):
            mine.update({name: count for name, count in saved.items() if name in mine})

    def restore(self, log_history: Iterable[dict[str, Any]]) -> None:
        """Totals go on from the last log of the run that is resumed."""
        for entry in log_history:
            self.logged.update({name: int(entry[name]) for name in self.logged if name in entry})

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """What to log: totals over all processes, and seconds, which begin again."""
        logs = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        counts = torch.tensor([list(self.since_log.values())], device=accelerator.device)
        for name, count in zip(self.since_log, accelerator.gather(counts).sum(dim=0).tolist(), strict=True):
            self.logged[name] += count
            self.since_log[name] = 0
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        return {**logs, **{name: float(total) for name, total in self.logged.items()}}
