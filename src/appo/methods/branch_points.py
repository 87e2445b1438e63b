"""Where to branch: from scores of a task's rollouts and a budget to branch points.

With one round every initial rollout gets its B best tokens. With more, each round takes rollouts of the tree, branches
included, in random order; the last round uses up the budget. A branch offers only its own tokens, and no token is
branched at twice.

Left out on purpose: the scores, which are a method's, and writing the branches (`rollout/writer.py`).
"""

import math

import torch

from appo.algorithm import allocate_budget
from appo.rollout.tree import BranchPoint, RolloutTree

# Shapes: N rollouts of one task, T completion tokens.


def eligible_tokens(tree: RolloutTree, mask_NT: torch.Tensor, *, after_token: bool) -> torch.Tensor:
    """Policy tokens of each rollout that may be branched at (N, T): its own, and not branched at before.

    Args:
        mask_NT: 1 at policy tokens.
        after_token: Whether a branch starts behind the token that is chosen; nothing could follow the last one.
    """
    eligible = mask_NT.clone()
    for index, rollout in enumerate(tree.rollouts):
        eligible[index, : tree.own_tokens(index)] = 0
        if after_token:
            eligible[index, len(rollout.completion_ids) - 1 :] = 0
    for branch in tree.branches:
        assert branch.parent is not None and branch.branch_position is not None
        eligible[branch.parent, branch.branch_position - after_token] = 0
    return eligible


def choose_branch_points(
    tree: RolloutTree,
    score_NT: torch.Tensor,
    mask_NT: torch.Tensor,
    *,
    num_points: int,
    budget: int,
    in_random_order: bool,
    min_distance: int,
    after_token: bool,
    generator: torch.Generator,
) -> list[BranchPoint]:
    """Branch points of one task in one round.

    Args:
        tree: The task's rollouts; row n of the tensors is `tree.rollouts[n]`.
        score_NT: The higher the better; NaN is never chosen.
        mask_NT: 1 at policy tokens.
        num_points: B, regular points per rollout.
        budget: Points of this round.
        in_random_order: Whether rollouts are taken in an order drawn by the generator, as many as the budget needs.
        min_distance: Least distance of two points of a rollout.
        after_token: As in `eligible_tokens`.
        generator: On the CPU.

    Returns:
        At most `budget` points, fewer only if the rollouts have no more tokens; each with its score, and its rank
        among all policy tokens of its rollout, 1 being the best.
    """
    size = len(tree.rollouts)
    order = torch.randperm(size, generator=generator) if in_random_order else torch.arange(size)
    chosen = order[: math.ceil(budget / max(num_points, 1))]
    picks = allocate_budget(
        score_NT[chosen],
        eligible_tokens(tree, mask_NT, after_token=after_token)[chosen],
        num_points=num_points,
        budget=budget,
        min_distance=min_distance,
    )
    points = []
    for row, position in picks:
        scores_T = score_NT[chosen[row]]
        score = scores_T[position].item()
        points.append(
            BranchPoint(tree, int(chosen[row]), position + after_token, score, 1 + int((scores_T > score).sum()))
        )
    return points
