"""Where to branch: from scores of a task's rollouts and a budget to branch points.

With one round (`num_branch_rounds = 1`) every initial rollout gets its B best tokens. With more, each round takes
rollouts of the tree, branches included, in random order; the last round uses up the budget. A branch offers only its
own tokens, and no token is branched at twice.

Left out on purpose: writing the branches (`rollout/agent_loop.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from appo.algorithm import (
    allocate_budget,
    branching_priority,
    entropy_score,
    future_value_score,
    random_score,
    tool_boundary_score,
    weighted_sum_score,
)
from appo.config import APPOConfig
from appo.rollout.tree import RolloutTree

# Shapes: N rollouts of one task, T completion tokens.

Priority = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, APPOConfig, torch.Generator], torch.Tensor]

PRIORITIES: dict[str, Priority] = {
    "branching_score": lambda omega, entropy, mask, args, _: branching_priority(
        omega, entropy, mask, clip=clip_of(args), require_positive=args.require_positive
    ),
    "entropy": lambda omega, entropy, mask, args, _: entropy_score(entropy, mask),
    "future_value": lambda omega, entropy, mask, args, _: future_value_score(omega, mask, clip=clip_of(args)),
    "weighted_sum": lambda omega, entropy, mask, args, _: weighted_sum_score(omega, entropy, mask, clip=clip_of(args)),
    "random": lambda omega, entropy, mask, args, generator: random_score(mask, generator=generator),
    "tool_boundary": lambda omega, entropy, mask, args, _: tool_boundary_score(entropy, mask),
}


def clip_of(args: APPOConfig) -> tuple[float, float]:
    return (args.future_clip[0], args.future_clip[1])


@dataclass
class BranchPoint:
    """Branch `tree.rollouts[rollout]` at `position`: the first token that is written anew."""

    tree: RolloutTree
    rollout: int
    position: int


def eligible_tokens(tree: RolloutTree, mask_NT: torch.Tensor, args: APPOConfig) -> torch.Tensor:
    """Policy tokens of each rollout that may be branched at (N, T): its own, and not branched at before."""
    eligible = mask_NT.clone()
    for index, rollout in enumerate(tree.rollouts):
        eligible[index, : tree.own_tokens(index)] = 0
        if args.resample == "after_token":
            eligible[index, len(rollout.completion_ids) - 1 :] = 0  # nothing could follow the last token
    for branch in tree.branches:
        assert branch.parent is not None and branch.branch_position is not None
        shift = 1 if args.resample == "after_token" else 0
        eligible[branch.parent, branch.branch_position - shift] = 0
    return eligible


def choose_branch_points(
    tree: RolloutTree,
    omega_NT: torch.Tensor,
    entropy_NT: torch.Tensor,
    mask_NT: torch.Tensor,
    args: APPOConfig,
    *,
    round_index: int,
    generator: torch.Generator,
) -> list[BranchPoint]:
    """Branch points of one task in one round.

    Args:
        tree: The task's rollouts; row n of the tensors is `tree.rollouts[n]`.
        omega_NT, entropy_NT: float32, Eq. 4 and Eq. 3 under the current policy.
        mask_NT: 1 at policy tokens.
        round_index: 0 to `num_branch_rounds - 1`.
        generator: Source of the random order of rollouts and of the random rival, on the CPU.

    Returns:
        At most the budget that is left, fewer only if the rollouts have no more tokens.
    """
    assert args.num_generations is not None
    left = args.num_generations - len(tree.rollouts)
    size = len(tree.rollouts)
    if round_index < args.num_branch_rounds - 1:
        left = min(left, size * args.num_branch_points)
    priority_NT = PRIORITIES[args.branching](omega_NT, entropy_NT, mask_NT, args, generator)
    order = torch.randperm(size, generator=generator) if args.num_branch_rounds > 1 else torch.arange(size)
    chosen = order[: math.ceil(left / max(args.num_branch_points, 1))]
    picks = allocate_budget(
        priority_NT[chosen],
        eligible_tokens(tree, mask_NT, args)[chosen],
        num_points=args.num_branch_points,
        budget=left,
        min_distance=args.min_branch_distance,
    )
    shift = 1 if args.resample == "after_token" else 0
    return [BranchPoint(tree, int(chosen[row]), position + shift) for row, position in picks]
