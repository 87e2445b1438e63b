"""What the updates of a run have used, of all that it has spent: a study compares methods at equal use.

A generation is written before the first of its updates, for all of its mini-batches; each of them is charged its part
when an update first trains on it. All else, branches of the present policy among it, is charged as it is spent. Else a
run that stops within a generation would have paid for rollouts that it never trained on, and a method that writes
everything at once more of them than one that writes update by update.

Left out on purpose: what is spent in other processes, such as those of a tool.
"""

import time
from typing import Any

from appo.rollout.batches import MiniBatch
from appo.rollout.tree import RolloutTree
from appo.trainer import APPOTrainer

TOTALS = {"generated_tokens": "tokens/generated", "rollouts": "rollouts/generated", "tool_calls_made": "tools/calls"}
SECONDS = ("seconds", "cpu_seconds")
Spent = dict[str, float]  # by the names above


class Ledger:
    """The parts of a generation that no update has trained on."""

    def __init__(self) -> None:
        self._unused: dict[int, Spent] = {}

    def write(self, cost: Spent, parts: dict[int, Spent]) -> None:
        """Takes down a generation.

        Args:
            cost: What all of it cost, rollouts that were thrown away included.
            parts: What stands in each mini-batch; the cost is dealt out in proportion, seconds by its tokens.
        """
        self._unused = {key: {} for key in parts}
        for name, value in cost.items():
            sizes = {key: part["generated_tokens" if name in SECONDS else name] for key, part in parts.items()}
            total = sum(sizes.values())
            for key, size in sizes.items():
                self._unused[key][name] = value * (size / total if total else 1 / len(parts))

    def use(self, key: int) -> None:
        """An update trains on a mini-batch; only the first one to do so changes anything."""
        self._unused.pop(key, None)

    def used(self, spent: Spent) -> Spent:
        """What of `spent` the updates so far have used."""
        return {name: value - sum(part[name] for part in self._unused.values()) for name, value in spent.items()}


class ChargedTrainer(APPOTrainer):
    """`APPOTrainer` that knows what its updates have used."""

    ends_with_report = False  # the study's own is of all its runs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ledger = Ledger()

    def spent(self) -> Spent:
        """Totals of the run, seconds on clocks of any origin: wall clock, and processor time of this process."""
        totals = self.counters.totals()
        clocks = dict(zip(SECONDS, (time.perf_counter(), time.process_time()), strict=True))
        return {**{name: float(totals[total]) for name, total in TOTALS.items()}, **clocks}

    def _write_generation(self, rows: list[dict[str, Any]]) -> list[MiniBatch]:
        before = self.spent()
        mini_batches = super()._write_generation(rows)
        cost = {name: value - before[name] for name, value in self.spent().items()}
        self.ledger.write(cost, {id(mini_batch): written_in(mini_batch.trees) for mini_batch in mini_batches})
        return mini_batches

    def _prepare_mini_batch(self, mini_batch: MiniBatch) -> list[dict[str, Any]]:
        self.ledger.use(id(mini_batch))
        return super()._prepare_mini_batch(mini_batch)


def written_in(trees: list[RolloutTree]) -> Spent:
    """Policy tokens, rollouts and tool calls of trees; what a branch shares with its parent counts once."""
    tokens = calls = rollouts = 0
    for tree in trees:
        for index, rollout in enumerate(tree.rollouts):
            own = tree.own_tokens(index)
            tokens += sum(rollout.policy_mask[own:])
            calls += sum(call.start >= own for call in rollout.tool_calls)
            rollouts += 1
    return dict(zip(TOTALS, map(float, (tokens, rollouts, calls)), strict=True))
