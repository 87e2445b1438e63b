"""Branching Score (Eq. 5) and the scores it is compared with: which tokens are worth branching at.

A score is a (B, T) tensor, higher is better, NaN outside the mask; it is meant to be ranked by `allocate_budget`. Left
out: the ranking itself and the paper's decisions on candidates (`branch_selection`).

Shape suffixes: B: rollouts, T: positions of the completion (policy and tool-result tokens), 1: kept for broadcasting.
"""

import torch
from torch import Tensor

from appo.algorithm._checks import check_matrices, to_bool_mask
from appo.algorithm.future_value import FUTURE_CLIP, clip_future_value


def z_scores(value_BT: Tensor, policy_BT: Tensor) -> Tensor:
    """Z-score of each row over its policy tokens, with the population standard deviation.

    Args:
        value_BT: float32 or float64; anything outside the mask.
        policy_BT: bool.

    Returns:
        float64 (B, T): 0 outside the mask and in rows without variance.
    """
    value_BT = torch.where(policy_BT, value_BT.detach().double(), 0.0)
    count_B1 = policy_BT.sum(dim=1, keepdim=True).clamp(min=1)
    mean_B1 = value_BT.sum(dim=1, keepdim=True) / count_B1
    centred_BT = torch.where(policy_BT, value_BT - mean_B1, 0.0)
    std_B1 = (centred_BT.square().sum(dim=1, keepdim=True) / count_B1).sqrt()
    # Equal values leave rounding noise in the deviation; dividing by it would make noise look like a signal.
    no_variance_B1 = std_B1 <= 1e-12 * (1 + mean_B1.abs())
    return centred_BT / std_B1.masked_fill(no_variance_B1, float("inf"))


def branching_score(
    omega_BT: Tensor, entropy_BT: Tensor, mask_BT: Tensor, *, clip: tuple[float, float] = FUTURE_CLIP
) -> Tensor:
    """Eq. 5: `Z(clip(Omega)) * Z(H)`, the z-scores within each rollout's policy tokens.

    The literal product: two negative factors give a positive score. `branching_priority` deals with that.

    Args:
        omega_BT: future values (Eq. 4), float32 or float64.
        entropy_BT: token entropies (Eq. 3), same shape.
        mask_BT: 1 on policy tokens; bool, int or float.
        clip: (low, high) limits of Omega.

    Returns:
        (B, T) in the dtype of `omega_BT`, NaN outside the mask; a factor without variance is 0.

    Raises:
        ValueError: wrong shapes, a negative mask, a reversed clip.
    """
    check_matrices(omega_BT=omega_BT, entropy_BT=entropy_BT)
    policy_BT = to_bool_mask(mask_BT, omega_BT)
    score_BT = z_scores(clip_future_value(omega_BT, clip), policy_BT) * z_scores(entropy_BT, policy_BT)
    return _nan_outside(score_BT, policy_BT).to(omega_BT.dtype)


def entropy_score(entropy_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The paper's ablation "BS replaced by entropy": the entropy (Eq. 3) itself.

    Shapes, dtypes and errors as in `branching_score`.
    """
    check_matrices(entropy_BT=entropy_BT)
    return _nan_outside(entropy_BT.detach(), to_bool_mask(mask_BT, entropy_BT))


def future_value_score(omega_BT: Tensor, mask_BT: Tensor, *, clip: tuple[float, float] = FUTURE_CLIP) -> Tensor:
    """Future value alone: the clipped Omega (Eq. 4). Tokens at a limit of the clip are equal.

    Shapes, dtypes and errors as in `branching_score`.
    """
    check_matrices(omega_BT=omega_BT)
    return _nan_outside(clip_future_value(omega_BT.detach(), clip), to_bool_mask(mask_BT, omega_BT))


def weighted_sum_score(
    omega_BT: Tensor,
    entropy_BT: Tensor,
    mask_BT: Tensor,
    *,
    weight: float = 0.5,
    clip: tuple[float, float] = FUTURE_CLIP,
) -> Tensor:
    """`weight * Z(clip(Omega)) + (1 - weight) * Z(H)`: a sum instead of Eq. 5's product; `weight` in [0, 1].

    Shapes, dtypes and errors as in `branching_score`.
    """
    check_matrices(omega_BT=omega_BT, entropy_BT=entropy_BT)
    policy_BT = to_bool_mask(mask_BT, omega_BT)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in [0, 1], got {weight}.")
    z_omega_BT = z_scores(clip_future_value(omega_BT, clip), policy_BT)
    score_BT = weight * z_omega_BT + (1 - weight) * z_scores(entropy_BT, policy_BT)
    return _nan_outside(score_BT, policy_BT).to(omega_BT.dtype)


def random_score(mask_BT: Tensor, *, generator: torch.Generator) -> Tensor:
    """Uniform noise, float32 on the mask's device: branching at random policy tokens.

    Drawn on the generator's device, so that a CPU generator gives the same points on every device.
    """
    policy_BT = to_bool_mask(mask_BT, mask_BT)
    noise_BT = torch.rand(mask_BT.shape, generator=generator, device=generator.device)
    return _nan_outside(noise_BT.to(mask_BT.device), policy_BT)


def tool_boundary_score(entropy_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Tool-call boundaries, ranked by entropy: the coarse branching of earlier methods (ARPO).

    A boundary is a policy token without a policy token before it: the rollout's first, and the first after each tool
    result. It keeps its entropy as its score (>= 0). The other policy tokens are the fall-back: ranked by entropy too,
    but below zero. Shapes, dtypes and errors as in `branching_score`.
    """
    check_matrices(entropy_BT=entropy_BT)
    policy_BT = to_bool_mask(mask_BT, entropy_BT)
    boundary_BT = policy_BT.clone()
    boundary_BT[:, 1:] &= ~policy_BT[:, :-1]
    # Entropy is never negative but for rounding; NaN stays NaN. -1 / (1 + H) keeps the order of H below zero.
    entropy_64_BT = entropy_BT.detach().double().clamp(min=0.0)
    score_BT = torch.where(boundary_BT, entropy_64_BT, -1.0 / (1.0 + entropy_64_BT))
    return _nan_outside(score_BT, policy_BT).to(entropy_BT.dtype)


def _nan_outside(score_BT: Tensor, policy_BT: Tensor) -> Tensor:
    return score_BT.masked_fill(~policy_BT, float("nan"))
