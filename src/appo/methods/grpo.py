"""GRPO (arXiv 2402.03300): a rollout's reward relative to those of its task, on all of its tokens.

CISPO and other losses are TRL's `loss_type`; without a baseline for the standard deviation, `dr_grpo` is one of them.
"""

import torch

from appo.methods.base import Method
from appo.rollout.rewards import group_advantages
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: B rollouts that carry loss, T completion tokens.


class GRPO(Method):
    """Group-relative advantages."""

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        advantages_B = torch.cat([group_advantages(tree.initial) for tree in trees])
        return advantages_B[:, None].expand(-1, scores.length)
