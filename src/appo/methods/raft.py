"""RAFT++ (arXiv 2504.11343): training on the rollouts that succeed, with the ratio and clip of Eq. 8.

A failed rollout teaches nothing, and one that succeeds teaches as much on an easy task as on a hard one: there is no
baseline. With `num_iterations: 2` each generation is passed twice, as in docs/study.md.
"""

import torch

from appo.methods.base import Method, Needs
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: B rollouts that carry loss, T completion tokens.


class RAFT(Method):
    """Advantage 1 where the total reward reaches `success_reward`, else 0."""

    @property
    def needs(self) -> Needs:
        return Needs(collisions=self.weighs_forks, skips_idle=True)

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        rewards_B = torch.cat([rewards_of(tree.initial) for tree in trees])  # NaN, not scored, reaches nothing
        return (rewards_B >= self.args.success_reward).float()[:, None].expand(-1, scores.length)
