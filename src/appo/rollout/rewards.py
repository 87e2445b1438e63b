"""Rewards of rollouts as a tensor, relative to their group, and what it means to have none.

A rollout that no reward function scored has the reward None: it is no failure, so it enters no mean and teaches
nothing. Left out on purpose: where rewards come from (`writer.py`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from appo.algorithm import group_advantage
from appo.rollout.types import Rollout

# Shapes: R rollouts.


def rewards_of(rollouts: Sequence[Rollout]) -> Tensor:
    """Rewards (R,), float32; NaN: not scored."""
    return torch.tensor([float("nan") if r.reward is None else r.reward for r in rollouts], dtype=torch.float32)


def among_scored(estimate: Callable[..., Tensor], rewards_R: Tensor, *others_R: Tensor) -> Tensor:
    """`estimate(rewards, *others)` over the scored rollouts alone; 0 for the others.

    Args:
        estimate: An advantage of each rollout, from rewards that are all there.
        rewards_R: As `rewards_of` gives them.
        others_R: What else `estimate` has to know of each rollout.

    Returns:
        (R,) in the dtype of `rewards_R`.
    """
    scored_R = ~rewards_R.isnan()
    advantages_R = torch.zeros_like(rewards_R)
    if scored_R.any():
        advantages_R[scored_R] = estimate(rewards_R[scored_R], *(other_R[scored_R] for other_R in others_R))
    return advantages_R


def group_advantages(rollouts: Sequence[Rollout]) -> Tensor:
    """GRPO's advantage of each rollout (R,) relative to the scored ones among them; 0 where it is not scored."""
    return among_scored(lambda rewards_R: group_advantage(rewards_R[None])[0], rewards_of(rollouts))
