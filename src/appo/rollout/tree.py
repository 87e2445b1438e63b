"""A task's rollouts: the initial ones, and branches that share a prefix with their parent.

`rollouts[:num_initial]` were written by the behaviour policy; every later one is a branch of an earlier one (of a
branch, where more than one round of branching is asked for). Prefixes are checked when a branch is added, so that a
branch that lost or repeated a token cannot enter a training step.
"""

from dataclasses import dataclass, field
from typing import Any

from appo.rollout.types import Rollout


@dataclass
class RolloutTree:
    """All rollouts of one task.

    Args:
        row: The data set's row (what `reset` and the reward functions get).
        id: Names the task in records.
        rollouts: Initial rollouts first.
        num_initial: How many initial rollouts there are.
    """

    row: dict[str, Any]
    id: str = ""
    rollouts: list[Rollout] = field(default_factory=list)
    num_initial: int = 0

    @property
    def initial(self) -> list[Rollout]:
        """The rollouts that were written from the prompt; most methods train on these alone."""
        return self.rollouts[: self.num_initial]

    @property
    def branches(self) -> list[Rollout]:
        """The rollouts that were written from within another one."""
        return self.rollouts[self.num_initial :]

    def trained(self, trains: str) -> list[Rollout]:
        """The rollouts that carry loss: the `initial` ones, or `all`."""
        return self.initial if trains == "initial" else self.rollouts

    def add_initial(self, rollout: Rollout) -> None:
        if self.branches:
            raise ValueError("initial rollouts have to be added before the first branch.")
        self.rollouts.append(rollout)
        self.num_initial += 1

    def add_branch(self, branch: Rollout, parent: int, position: int) -> None:
        """Adds `branch`, which was resampled from `rollouts[parent]` at `position`.

        Raises:
            ValueError: if `parent` does not exist or the first `position` tokens are not the parent's.
        """
        if not 0 <= parent < len(self.rollouts):
            raise ValueError(f"parent must be one of the tree's {len(self.rollouts)} rollouts, got {parent}.")
        if branch.completion_ids[:position] != self.rollouts[parent].completion_ids[:position]:
            raise ValueError(f"the branch does not repeat the first {position} tokens of its parent {parent}.")
        branch.parent, branch.branch_position = parent, position
        self.rollouts.append(branch)

    def drop_branches(self) -> None:
        """Forgets the branches: another pass over the same initial rollouts draws new ones."""
        del self.rollouts[self.num_initial :]

    def own_tokens(self, index: int) -> int:
        """First position that `rollouts[index]` does not share with its parent (0 for an initial rollout)."""
        return self.rollouts[index].branch_position or 0

    def root_of(self, branch: Rollout) -> tuple[int, int]:
        """The initial rollout that a branch descends from, and the first position at which it leaves it."""
        assert branch.parent is not None and branch.branch_position is not None
        parent, position = branch.parent, branch.branch_position
        while parent >= self.num_initial:
            ancestor = self.rollouts[parent]
            assert ancestor.parent is not None and ancestor.branch_position is not None
            parent, position = ancestor.parent, min(position, ancestor.branch_position)
        return parent, position


@dataclass
class BranchPoint:
    """Branch `tree.rollouts[rollout]` at `position`: the first token that is written anew.

    Args:
        score: The score that chose the token; None where none did.
        rank: Its place among the policy tokens of its rollout by this score, 1 being the best.
    """

    tree: RolloutTree
    rollout: int
    position: int
    score: float | None = None
    rank: int | None = None
