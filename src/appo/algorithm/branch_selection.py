"""From scores to branch points: the paper's candidates, and the greedy choice within a task's branch budget.

Left out: rounds of branching (L > 1); a caller runs one selection per round and masks what is already taken.

Shape suffixes: B: rollouts, N: rollouts of one task, T: positions of the completion, P: picks, best first,
1: kept for broadcasting.
"""

import torch
from torch import Tensor

from appo.algorithm._checks import check_count, check_matrices, to_bool_mask
from appo.algorithm.branching_score import branching_score, z_scores
from appo.algorithm.future_value import FUTURE_CLIP, clip_future_value


def branching_priority(
    omega_BT: Tensor,
    entropy_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: tuple[float, float] = FUTURE_CLIP,
    require_positive: bool = True,
) -> Tensor:
    """The order in which APPO takes branch points: Eq. 5 with the decisions where the paper is silent.

    - Omega without variance in a rollout (always so before the first update): its factor is 1, which leaves `Z(H)`.
    - `require_positive`: candidates have both factors > 0 and rank by their product (> 0). The other policy tokens
      fill up what candidates leave open: they rank by `Z(H)`, below zero.

    The z-scores come from `mask_BT`. To choose among fewer tokens, rank with the full mask here and give
    `allocate_budget` the narrower one.

    Args:
        omega_BT: future values (Eq. 4), float32 or float64.
        entropy_BT: token entropies (Eq. 3), same shape.
        mask_BT: 1 on policy tokens; bool, int or float.
        clip: (low, high) limits of Omega.
        require_positive: False ranks by the bare product, where two negative factors count as good.

    Returns:
        (B, T) in the dtype of `omega_BT`, NaN outside the mask.

    Raises:
        ValueError: wrong shapes, a negative mask, a reversed clip.
    """
    score_BT = branching_score(omega_BT, entropy_BT, mask_BT, clip=clip)
    policy_BT = to_bool_mask(mask_BT, omega_BT)
    z_omega_BT = z_scores(clip_future_value(omega_BT, clip), policy_BT)
    z_entropy_BT = z_scores(entropy_BT, policy_BT)
    no_variance_B1 = (z_omega_BT == 0).all(dim=1, keepdim=True)
    z_omega_BT = z_omega_BT.masked_fill(no_variance_B1, 1.0)
    priority_BT = torch.where(no_variance_B1, z_entropy_BT, score_BT)
    if require_positive:
        candidate_BT = (z_omega_BT > 0) & (z_entropy_BT > 0)
        # softsign - 1 keeps the order of Z(H) within (-2, 0), so below every candidate of every rollout.
        fill_BT = torch.nn.functional.softsign(z_entropy_BT) - 1.0
        priority_BT = torch.where(candidate_BT, priority_BT, fill_BT)
    return priority_BT.masked_fill(~policy_BT, float("nan")).to(omega_BT.dtype)


def allocate_budget(
    priority_NT: Tensor, mask_NT: Tensor, *, num_points: int, budget: int, min_distance: int = 1
) -> list[tuple[int, int]]:
    """One task's branch points, spending the whole budget where possible.

    First the best point of every rollout, then every second best, up to `num_points` each. What short rollouts leave
    of the budget goes to further points of the others, best score first.

    Args:
        priority_NT: score of the task's rollouts, float32 or float64; NaN is never chosen.
        mask_NT: 1 where a branch may start; bool, int or float.
        num_points: regular points per rollout.
        budget: points of the task.
        min_distance: two points of a rollout are at least this many positions apart.

    Returns:
        (rollout, position) pairs without duplicates; fewer than `budget` only if no more tokens are left.

    Raises:
        ValueError: wrong shapes, a negative mask or count, `min_distance` below 1.
    """
    check_matrices(priority_NT=priority_NT)
    policy_NT = to_bool_mask(mask_NT, priority_NT, name="mask_NT")
    check_count(num_points=num_points, budget=budget)
    # Greedy choices are nested: the first `num_points` of a longer list are what a shorter one would hold.
    index_NP, value_NP = _greedy_top(priority_NT, policy_NT, budget, min_distance)
    ranked = [
        (rank, rollout, index, value)
        for rollout, row in enumerate(zip(index_NP.tolist(), value_NP.tolist(), strict=True))
        for rank, (index, value) in enumerate(zip(*row, strict=True))
        if index >= 0
    ]
    regular = sorted(point for point in ranked if point[0] < num_points)
    further = sorted((point for point in ranked if point[0] >= num_points), key=lambda point: -point[3])
    return [(rollout, index) for _, rollout, index, _ in (regular + further)[:budget]]


def _greedy_top(score_BT: Tensor, policy_BT: Tensor, num_points: int, min_distance: int) -> tuple[Tensor, Tensor]:
    """Positions (B, P), -1 where none is left, and their scores (B, P); one pass over (B, T) per pick."""
    if min_distance < 1:
        raise ValueError(f"min_distance must be at least 1, got {min_distance}.")
    rows, length = score_BT.shape
    picks = min(num_points, -(-length // min_distance))
    index_BP = torch.full((rows, picks), -1, dtype=torch.long, device=score_BT.device)
    value_BP = torch.full((rows, picks), float("-inf"), dtype=score_BT.dtype, device=score_BT.device)
    # -inf marks what cannot be chosen any more, so a score of -inf is lifted to the smallest finite number.
    key_BT = score_BT.detach().clamp(min=torch.finfo(score_BT.dtype).min)
    key_BT = key_BT.masked_fill(~policy_BT | score_BT.isnan(), float("-inf"))
    position_T = torch.arange(length, device=score_BT.device)
    for pick in range(picks):
        value_B, index_B = key_BT.max(dim=1)  # the first of equal maxima
        found_B = value_B > float("-inf")
        index_BP[:, pick] = torch.where(found_B, index_B, -1)
        value_BP[:, pick] = value_B
        key_BT.masked_fill_((position_T - index_B.unsqueeze(1)).abs() < min_distance, float("-inf"))
    return index_BP, value_BP
