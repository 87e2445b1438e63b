"""Credit from the whole tree of a task's rollouts, for rollouts and branches that are all trained on.

A token is judged by the rollouts that contain it (their mean reward estimates the value after it) against two
baselines: all rollouts of the task, and those that share the prefix up to the last branching before it. The second
difference is free of everything that happened before that branching. Not in the paper: `docs/study.md` says why.

Shape suffixes: R: rollouts of one task, parents before their branches; T: tokens of the completion.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from appo.algorithm._checks import check_count


def tree_advantage(
    rewards_R: Tensor,
    parent_R: list[int | None],
    position_R: list[int],
    *,
    length: int,
    local: float = 1.0,
    eps: float = 1e-6,
) -> Tensor:
    """`A_i = (V_i - mean(R) + local * (V_i - V_node)) / std(R)` for every token of every rollout.

    `V_i` is the mean reward of the rollouts that contain token i, `V_node` that of the rollouts that contain the
    tokens before the last branching at or before i (all rollouts, where there was none); mean and std are of all.

    Args:
        rewards_R: rewards, float32 or float64; NaN: not scored, and left out of every mean.
        parent_R: index of the rollout that a branch left, smaller than its own; None for an initial rollout.
        position_R: where it left it, in [0, length]; 0 for an initial rollout.
        length: T of the result.
        local: weight of the second difference.
        eps: rewards whose (population) standard deviation is not above it give 0.

    Returns:
        (R, T) in the dtype of `rewards_R`, without gradient. A branch's tokens before its position are its parent's.
        0 for tokens that no scored rollout contains.

    Raises:
        ValueError: lists of another length, a parent that does not come before its branch, an infinite reward.
    """
    check_count(length=length)
    _check_rollouts(rewards_R, parent_R, position_R)
    advantages_RT = torch.zeros(len(rewards_R), length, dtype=rewards_R.dtype, device=rewards_R.device)
    rewards = rewards_R.detach().double()
    scored = rewards[~rewards.isnan()]
    if len(scored) == 0 or scored.std(correction=0) <= eps:
        return advantages_RT
    mean, std = scored.mean().item(), scored.std(correction=0).item()
    paths = _paths(parent_R, position_R)
    places = sorted({position for position in position_R if 0 < position < length})
    for index, path in enumerate(paths):
        # The node at 0 is the prompt: every rollout starts there.
        starts, before = [0, *(p for p in places if _holders(paths, path, p) != _holders(paths, path, p - 1))], mean
        for start, end in pairwise([*starts, length]):
            value = rewards[_holders(paths, path, start)].nanmean().item()
            if not math.isnan(value):
                advantages_RT[index, start:end] = (value - mean + local * (value - before)) / std
            before = value
    return advantages_RT


def _check_rollouts(rewards_R: Tensor, parent_R: list[int | None], position_R: list[int]) -> None:
    count = len(rewards_R)
    if len(parent_R) != count or len(position_R) != count:
        raise ValueError(
            f"rewards_R has {count} rollouts, but parent_R {len(parent_R)}, position_R {len(position_R)}."
        )
    if rewards_R.isinf().any():
        raise ValueError("rewards_R holds an infinite reward; rewards are finite, or NaN where there is none.")
    for index, parent in enumerate(parent_R):
        if parent is not None and not 0 <= parent < index:
            raise ValueError(f"parent_R[{index}] must be a rollout before it, got {parent}.")


Path = list[tuple[int, float]]  # (rollout, end): its tokens up to `end` are those of this rollout


def _paths(parent_R: list[int | None], position_R: list[int]) -> list[Path]:
    """Who wrote which part of each rollout, from the start; the last part has no end."""
    paths: list[Path] = []
    for index, parent in enumerate(parent_R):
        inherited: Path = []
        if parent is not None:
            for owner, end in paths[parent]:
                inherited.append((owner, min(end, position_R[index])))
                if end >= position_R[index]:
                    break
        paths.append([*inherited, (index, math.inf)])
    return paths


def _holders(paths: list[Path], path: Path, position: int) -> list[int]:
    """The rollouts that contain the token of `path` at `position`."""
    owner = _owner(path, position)
    return [index for index, other in enumerate(paths) if _owner(other, position) == owner]


def _owner(path: Path, position: int) -> int:
    return next(owner for owner, end in path if position < end)
