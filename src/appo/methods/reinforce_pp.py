"""REINFORCE++ with baseline (arXiv 2501.03262): advantages normalised over the whole mini-batch.

The mean of its task is subtracted from each reward, and the batch's statistics are those of the differences. Left out
on purpose: the KL term in the reward, which is TRL's `beta` in the loss here.
"""

import torch
from torch import Tensor

from appo.algorithm.group_scores import check_index, check_vector, group_scores, one_group
from appo.methods.base import Method
from appo.rollout.rewards import among_scored, rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: B rollouts of the mini-batch, any order, T completion tokens.


def batch_advantage(rewards_B: Tensor, group_B: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """REINFORCE++ (arXiv 2501.03262): rewards normalised over the whole batch ("global advantage normalization").

    With `group_B` it is "REINFORCE++ w/ baseline": the mean of its group is subtracted from each reward first, and the
    batch statistics are those of the differences. The KL term, which plain REINFORCE++ has in its reward, is the
    caller's.

    Args:
        rewards_B: finite, float32 or float64.
        group_B: integer, the task of each rollout.
        eps: a batch whose standard deviation is not above it gives 0.

    Returns:
        (B,) in the dtype of `rewards_B`, without gradient.

    Raises:
        ValueError: wrong shapes or dtypes, a reward that is NaN or infinite.
    """
    check_vector("rewards_B", rewards_B)
    value_B = rewards_B
    if group_B is not None:
        check_index("group_B", group_B, "rewards_B", rewards_B)
        value_B = group_scores(rewards_B, group_B, None)
    return group_scores(value_B, one_group(value_B), eps).to(rewards_B.dtype)


class ReinforcePP(Method):
    """Advantages of the mini-batch; a rollout that no reward function scored has 0 and enters no mean."""

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        rewards_B = torch.cat([rewards_of(tree.initial) for tree in trees])
        group_B = torch.cat([torch.full((tree.num_initial,), i) for i, tree in enumerate(trees)])
        return among_scored(batch_advantage, rewards_B, group_B)[:, None].expand(-1, scores.length)
