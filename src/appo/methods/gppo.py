"""GPPO (Klear-Reasoner, arXiv 2508.07629): gradients of clipped tokens are kept, at the clip's size.

Advantages are GRPO's. Left out on purpose: the dual clip of the released code, which the paper's equation has not.
"""

import torch
from torch import Tensor

from appo.algorithm._checks import check_matrices
from appo.errors import UserError
from appo.methods.base import Credit, Needs
from appo.methods.grpo import GRPO
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: B rollouts that carry loss, T completion tokens.


def gppo_coefficient(log_ratio_BT: Tensor, advantages_BT: Tensor, *, low: float, high: float) -> Tensor:
    """GPPO (Klear-Reasoner, arXiv 2508.07629, its gradient expression): what multiplies `A * grad log pi`.

    The ratio, but at most `1 + high` where A >= 0 and at least `1 - low` where A < 0: a clipped token, which PPO gives
    no gradient, keeps one of bounded size. A ratio above 1 with A < 0 is not bounded; the released code adds a dual
    clip there, which the equation does not have.

    Args:
        log_ratio_BT: log of the new over the old probability, float32 or float64.
        advantages_BT: same shape.
        low: in [0, 1].
        high: at least 0.

    Returns:
        (B, T) in the dtype of `log_ratio_BT`, without gradient: a loss is `-(coefficient * A * log_pi)`.

    Raises:
        ValueError: wrong shapes or dtypes, `low` or `high` out of range.
    """
    check_matrices(log_ratio_BT=log_ratio_BT, advantages_BT=advantages_BT)
    if not 0 <= low <= 1:
        raise ValueError(f"low must be in [0, 1], got {low}.")
    if not high >= 0:
        raise ValueError(f"high must be at least 0, got {high}.")
    ratio_BT = log_ratio_BT.detach().double().exp()
    coefficient_BT = torch.where(advantages_BT < 0, ratio_BT.clamp(min=1 - low), ratio_BT.clamp(max=1 + high))
    return coefficient_BT.to(log_ratio_BT.dtype)


class GPPO(GRPO):
    """The policy of the loss is the one that scored, so the ratio is known: what the clip leaves of it becomes a
    factor of the advantage, and TRL's own clip sees a ratio of 1."""

    @property
    def needs(self) -> Needs:
        return Needs(collisions=self.weighs_forks, current_scores=True)

    def check(self) -> None:
        low, high = self.args.epsilon, self.args.epsilon_high
        if not 0 <= low <= 1 or (high is not None and high < 0):
            raise UserError(
                f"method = 'gppo' needs epsilon in [0, 1] and epsilon_high of at least 0, got epsilon = {low} and "
                f"epsilon_high = {high}."
            )

    def credit(self, trees: list[RolloutTree], scores: Scores) -> Credit:
        credit = super().credit(trees, scores)
        high = self.args.epsilon if self.args.epsilon_high is None else self.args.epsilon_high
        credit.factors["clipped_ratio"] = gppo_coefficient(
            scores.log_ratio_BT, credit.advantages_BT, low=self.args.epsilon, high=high
        )
        credit.old_logps_BT = scores.current.logps_BT
        return credit
