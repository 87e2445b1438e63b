"""Fork weight: how much a token's credit counts, by whether the policy had a favourite there and doubted it.

Entropy mixes two things. At a *fork* the policy has a favourite and real alternatives; at an *indifferent* token (a
filler, one of many ways to say the same) it spreads over many tokens evenly. A policy that has learned takes
`pi(a | s) ~ exp(Q(s, a) / tau)`, so how much its log-probabilities vary says how much the choice matters:
`Var_a[log pi] = Var_a[Q] / tau^2`. The gap between Shannon's entropy `H` and the collision entropy `H2 = -log sum p^2`
measures that variance (`H - H2 = Var_a[log pi] / 2` to first order): 0 where one token is certain and 0 where many are
equal. Divided by the perplexity it is the share that one of the alternatives carries.

Not in the paper, and not shown to help (docs/methods.md). Left out on purpose: the advantage that is weighted.

Shape suffixes: B: rollouts, T: positions of the completion.
"""

import torch
from torch import Tensor

from appo.algorithm._checks import check_matrices

# Puts clear forks near 1: a favourite with probability 0.9 against one alternative has 0.41, against five 0.77, one of
# 0.85 against ten 0.93.
FORK_SCALE = 4.5


def fork_weight(entropy_BT: Tensor, log_sum_sq_probs_BT: Tensor, *, floor: float) -> Tensor:
    """`floor + (1 - floor) * min(1, 4.5 * (H - H2) * exp(-H))`, with `H2 = -log sum_a p(a)^2`.

    Args:
        entropy_BT: Token entropies H (Eq. 3), nats, float32 or float64.
        log_sum_sq_probs_BT: `log sum_a p(a)^2` of the same distributions, same shape.
        floor: Least weight, in [0, 1]; 1 weighs all tokens alike. Below about 0.1 tokens without weight drift.

    Returns:
        Weights (B, T) in [floor, 1], in the dtype of `entropy_BT`, without gradient. What lies outside the policy's
        tokens means nothing.

    Raises:
        ValueError: wrong shapes or dtypes, a floor outside [0, 1].
    """
    check_matrices(entropy_BT=entropy_BT, log_sum_sq_probs_BT=log_sum_sq_probs_BT)
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must be in [0, 1], got {floor}.")
    entropy_BT = entropy_BT.detach()
    # Rounding may put H2 a little above H.
    gap_BT = (entropy_BT + log_sum_sq_probs_BT.detach()).clamp(min=0.0)
    share_BT = (FORK_SCALE * gap_BT * torch.exp(-entropy_BT)).clamp(max=1.0)
    return floor + (1.0 - floor) * share_BT
