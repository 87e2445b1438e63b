"""Where branches begin: the prefixes of rollouts, each with an environment in the state that it left.

A branch whose environment had to be replayed, and answered otherwise, is left out: its policy would read one state and
act in another. That is counted (`branches/left_out`) and told once, with what differed.

Left out on purpose: how a state is had again (`environments.py`), and which points are branched from (methods).
"""

import warnings

from appo.rollout.counters import RunCounters
from appo.rollout.environments import EnvironmentPool, ReplayDiverged
from appo.rollout.loop import Start
from appo.rollout.tree import BranchPoint
from appo.tools.runner import ToolRunner

ALTERNATIVES = 5  # tokens that a record tells of at a branch point


class Prefixes:
    """Enters the prefixes of branches.

    Args:
        pool: Environments.
        runner: Runs the calls of replays.
        counters: Branches that are left out are counted here.
    """

    def __init__(self, pool: EnvironmentPool, runner: ToolRunner, counters: RunCounters) -> None:
        self.pool, self.runner, self.counters = pool, runner, counters
        self._told = False

    def start_at(self, point: BranchPoint) -> Start:
        """The prefix of a branch, its environment in the state that the prefix left.

        Raises:
            ReplayDiverged: where that state cannot be had again.
        """
        prefix = point.tree.rollouts[point.rollout].prefix(point.position)
        self.pool.enter_prefix(prefix, point.tree.row, self.runner)
        return Start(prefix, self.pool.tools_of(prefix.environment), alternatives=ALTERNATIVES)

    def enter(self, points: list[BranchPoint]) -> tuple[list[BranchPoint], list[Start]]:
        """The points that can be branched from, in their order, and where their branches start."""
        entered, starts = [], []
        for point in points:
            try:
                starts.append(self.start_at(point))
            except ReplayDiverged as error:
                self.counters.add("branches/left_out", 1)
                self._tell(error)
                continue
            entered.append(point)
        return entered, starts

    def _tell(self, error: ReplayDiverged) -> None:
        if not self._told:
            self._told = True
            warnings.warn(
                f"a branch is left out: {error} This is said once; branches/left_out counts them.", stacklevel=2
            )
