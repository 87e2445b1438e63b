"""Advantages: rewards of a task's rollouts and branches (Eq. 6 and its rivals), scaled per token (Eq. 7).

Only initial rollouts get advantages: branches inform them and are never trained on. Left out: the surrogate loss
(Eq. 8), which is TRL's.

Shape suffixes: G: tasks, N: initial rollouts of a task, K: branches of a task, T: positions of the completion,
B: rollouts (any order), 1: kept for broadcasting.
"""

import torch
from torch import Tensor

from appo.algorithm._checks import check_count, check_matrices
from appo.algorithm.future_value import FUTURE_CLIP, clip_future_value


def group_advantage(initial_rewards_GN: Tensor, *, eps: float = 1e-6) -> Tensor:
    """GRPO: the reward normalised against the task's initial rollouts alone.

    Shapes, dtypes and errors as in `dual_group_advantage`.
    """
    _check_rewards(initial_rewards_GN)
    return _normalise(initial_rewards_GN, initial_rewards_GN, eps).to(initial_rewards_GN.dtype)


def dual_group_advantage(initial_rewards_GN: Tensor, branch_rewards_GK: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Eq. 6: the mean of the reward normalised against the initial rollouts and against the branches.

    Two groups because two policies wrote them: one shared mean would be biased.

    Args:
        initial_rewards_GN: rewards of the initial rollouts, finite, float32 or float64.
        branch_rewards_GK: rewards of the branches; NaN: no such branch. K may be 0.
        eps: a group whose (population) standard deviation is not above it has the term 0; it is added to nothing.

    Returns:
        (G, N) in the dtype of `initial_rewards_GN`, without gradient.

    Raises:
        ValueError: wrong shapes, an initial reward that is NaN or infinite, an infinite branch reward.
    """
    _check_rewards(initial_rewards_GN, branch_rewards_GK)
    initial_term_GN = _normalise(initial_rewards_GN, initial_rewards_GN, eps)
    branch_term_GN = _normalise(initial_rewards_GN, branch_rewards_GK, eps)
    return (0.5 * (initial_term_GN + branch_term_GN)).to(initial_rewards_GN.dtype)


def pooled_advantage(initial_rewards_GN: Tensor, branch_rewards_GK: Tensor, *, eps: float = 1e-6) -> Tensor:
    """The ablation "one pooled group": the reward normalised against initial rollouts and branches together.

    Shapes, dtypes and errors as in `dual_group_advantage`.
    """
    _check_rewards(initial_rewards_GN, branch_rewards_GK)
    pool = torch.cat([initial_rewards_GN, branch_rewards_GK], dim=1)
    return _normalise(initial_rewards_GN, pool, eps).to(initial_rewards_GN.dtype)


def prefix_advantage(
    initial_rewards_GN: Tensor,
    branch_rewards_GK: Tensor,
    branch_parent_GK: Tensor,
    branch_position_GK: Tensor,
    *,
    length: int,
    eps: float = 1e-6,
) -> Tensor:
    """The authors' code instead of Eq. 6: a token is also credited with the branches that share it.

    All rewards of a task are normalised as one group. Token i of rollout n gets the normalised reward of n plus the
    mean normalised reward of the branches of n that start after i, and so contain it.

    Args:
        initial_rewards_GN: rewards of the initial rollouts, finite, float32 or float64.
        branch_rewards_GK: rewards of the branches; NaN: no such branch. K may be 0.
        branch_parent_GK: integer, the initial rollout that a branch belongs to, in [0, N); -1: no such branch.
        branch_position_GK: integer, length of the prefix that a branch shares with its parent, in [0, length].
        length: T of the result.
        eps: as in `dual_group_advantage`.

    Returns:
        (G, N, T) in the dtype of `initial_rewards_GN`, without gradient.

    Raises:
        ValueError: as in `dual_group_advantage`; a parent, position or length out of range.
    """
    _check_rewards(initial_rewards_GN, branch_rewards_GK)
    present_GK = _check_branches(initial_rewards_GN, branch_rewards_GK, branch_parent_GK, branch_position_GK, length)
    device = initial_rewards_GN.device
    rollout_N1 = torch.arange(initial_rewards_GN.shape[1], device=device).unsqueeze(1)
    token_T = torch.arange(length, device=device)

    branch_rewards_GK = branch_rewards_GK.masked_fill(~present_GK, float("nan"))
    pool = torch.cat([initial_rewards_GN.double(), branch_rewards_GK.double()], dim=1)
    z_GN1 = _normalise(initial_rewards_GN, pool, eps).unsqueeze(2)
    z_branch_GK = _normalise(branch_rewards_GK, pool, eps).masked_fill(~present_GK, 0.0)

    # Sums over branches as matrix products: (N, K) says whose branch it is, (K, T) which tokens it shares.
    child_GNK = ((branch_parent_GK.unsqueeze(1) == rollout_N1) & present_GK.unsqueeze(1)).double()
    shared_GKT = (branch_position_GK.unsqueeze(2) > token_T).double()
    count_GNT = child_GNK @ shared_GKT
    total_GNT = (child_GNK * z_branch_GK.unsqueeze(1)) @ shared_GKT
    return (z_GN1 + total_GNT / count_GNT.clamp(min=1.0)).to(initial_rewards_GN.dtype)


def future_factor(omega_BT: Tensor, *, b: float = 0.5, clip: tuple[float, float] = FUTURE_CLIP) -> Tensor:
    """Eq. 7: `A_i = A_base * (1 + b * clip(Omega_i))`; this is what the base is multiplied with.

    Args:
        omega_BT: future values (Eq. 4), float32 or float64.
        b: weight of the future.
        clip: (low, high) limits of Omega; the same as for branching.

    Returns:
        (B, T) in the dtype of `omega_BT`, a constant for the loss: no gradient flows through it. Tool-result tokens
        have a value too; the loss masks them.

    Raises:
        ValueError: wrong shapes, a reversed clip.
    """
    check_matrices(omega_BT=omega_BT)
    return 1.0 + b * clip_future_value(omega_BT.detach(), clip)


def _normalise(reward_GN: Tensor, group_GK: Tensor, eps: float) -> Tensor:
    """`(reward - mean) / std` with the statistics of each row of `group_GK` (NaN: absent); 0 where std <= eps."""
    group_GK = group_GK.detach().double()
    present_GK = ~group_GK.isnan()
    count_G1 = present_GK.sum(dim=1, keepdim=True).clamp(min=1)
    mean_G1 = group_GK.nansum(dim=1, keepdim=True) / count_G1
    std_G1 = ((group_GK - mean_G1).square().nansum(dim=1, keepdim=True) / count_G1).sqrt()
    return (reward_GN.detach().double() - mean_G1) / std_G1.masked_fill(std_G1 <= eps, float("inf"))


def _check_rewards(initial_rewards_GN: Tensor, branch_rewards_GK: Tensor | None = None) -> None:
    check_matrices(initial_rewards_GN=initial_rewards_GN)
    bad_GN = ~initial_rewards_GN.isfinite()
    if bad_GN.any():
        task, rollout = bad_GN.nonzero()[0].tolist()
        raise ValueError(
            f"initial_rewards_GN holds {initial_rewards_GN[task, rollout].item()} at [{task}, {rollout}]; give every "
            "initial rollout a finite reward, or drop its task, before computing advantages."
        )
    if branch_rewards_GK is None:
        return
    check_matrices(branch_rewards_GK=branch_rewards_GK)
    if len(branch_rewards_GK) != len(initial_rewards_GN):
        raise ValueError(
            f"branch_rewards_GK has {len(branch_rewards_GK)} tasks, but initial_rewards_GN has "
            f"{len(initial_rewards_GN)}."
        )
    if branch_rewards_GK.isinf().any():
        raise ValueError("branch_rewards_GK holds an infinite reward; give a finite one, or NaN for a missing branch.")


def _check_branches(
    initial_rewards_GN: Tensor, branch_rewards_GK: Tensor, parent_GK: Tensor, position_GK: Tensor, length: int
) -> Tensor:
    """Which branches exist (G, K), after checking where they start."""
    check_count(length=length)
    for name, index_GK in (("branch_parent_GK", parent_GK), ("branch_position_GK", position_GK)):
        if index_GK.shape != branch_rewards_GK.shape or index_GK.is_floating_point():
            raise ValueError(
                f"{name} must be an integer tensor of shape {tuple(branch_rewards_GK.shape)}, as branch_rewards_GK, "
                f"got {index_GK.dtype} {tuple(index_GK.shape)}."
            )
    rollouts = initial_rewards_GN.shape[1]
    if ((parent_GK < -1) | (parent_GK >= rollouts)).any():
        raise ValueError(f"branch_parent_GK must be in [0, {rollouts}), or -1 for a missing branch.")
    present_GK = (parent_GK >= 0) & ~branch_rewards_GK.isnan()
    if (present_GK & ((position_GK < 0) | (position_GK > length))).any():
        raise ValueError(f"branch_position_GK must be in [0, {length}], where `length` is the number of tokens.")
    return present_GK
