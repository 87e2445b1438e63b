"""Credit from the whole tree: branches carry loss too, and a token is judged by the rollouts that contain it.

Not in the paper; `docs/study.md` says why, and what came of it. Branches start at random tokens by default, as in the
study, and there is no future-aware factor.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from appo.algorithm import tree_advantage
from appo.methods.appo import APPO, APPOOptions
from appo.methods.base import Needs
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: R rollouts of a task, B rollouts that carry loss, T completion tokens.


@dataclass
class WholeTreeOptions(APPOOptions):
    """APPO's options but for `advantage`."""

    branching: str = field(default="random", metadata={"help": "Score of branch points, as APPO's."})
    future_weight: float = field(default=0.0, metadata={"help": "b of Eq. 7; 0 turns the future-aware factor off."})
    advantage: str = field(default="tree", metadata={"help": "Only 'tree'."})
    local_weight: float = field(
        default=1.0, metadata={"help": "Weight of the comparison with rollouts of the same prefix."}
    )

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**APPOOptions.choices, "advantage": ("tree",)}
    least: ClassVar[dict[str, float]] = {**APPOOptions.least, "local_weight": 0}


def tree_credit(tree: RolloutTree, length: int, local: float) -> torch.Tensor:
    """The advantage of all of a task's rollouts before Eq. 7, float32: (R, T).

    A rollout that no reward function scored enters no mean; its tokens have advantage 0, except those that it shares
    with scored rollouts.
    """
    return tree_advantage(
        rewards_of(tree.rollouts),
        [rollout.parent for rollout in tree.rollouts],
        [rollout.branch_position or 0 for rollout in tree.rollouts],
        length=length,
        local=local,
    )


class WholeTree(APPO):
    """Every rollout carries loss on its own tokens."""

    Options = WholeTreeOptions

    @property
    def needs(self) -> Needs:
        # Always scored: what a branch shares with its parent has the parent's ratio, whatever chose the branch.
        return Needs(trains="all", current_scores=True, collisions=self.weighs_forks)

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        return torch.cat([tree_credit(tree, scores.length, self.options.local_weight) for tree in trees])
