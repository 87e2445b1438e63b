"""From rewards to an advantage per token of the initial rollouts (Eq. 6 and 7), or that of a rival.

Left out on purpose: the loss. TRL's takes the (B, T) tensor as it is.
"""

import torch

from appo.algorithm import (
    dual_group_advantage,
    future_aware_advantage,
    group_advantage,
    pooled_advantage,
    prefix_advantage,
)
from appo.branching import clip_of
from appo.config import APPOConfig
from appo.rollout.tree import RolloutTree

# Shapes: N initial rollouts and K branches of a task, T completion tokens, B rollouts of a mini-batch.


def base_advantage(tree: RolloutTree, args: APPOConfig, length: int) -> torch.Tensor:
    """The advantage of a task's initial rollouts before Eq. 7, float32: (N, T), equal along T except for `prefix`.

    A rollout that no reward function scored has advantage 0 and enters no mean.
    """
    scored = [index for index, rollout in enumerate(tree.initial) if rollout.reward is not None]
    base_NT = torch.zeros(tree.num_initial, length)
    if not scored:
        return base_NT
    initial = torch.tensor([[tree.initial[index].reward for index in scored]], dtype=torch.float32)
    rewards = [float("nan") if branch.reward is None else branch.reward for branch in tree.branches]
    branches = torch.tensor([rewards], dtype=torch.float32)
    if args.advantage == "dual_group":
        base = dual_group_advantage(initial, branches)[0][:, None]
    elif args.advantage == "pooled":
        base = pooled_advantage(initial, branches)[0][:, None]
    elif args.advantage == "group":
        base = group_advantage(initial)[0][:, None]
    else:
        place = {rollout: row for row, rollout in enumerate(scored)}
        roots = [tree.root_of(branch) for branch in tree.branches]
        parents = torch.tensor([[place.get(root, -1) for root, _ in roots]], dtype=torch.long)
        positions = torch.tensor([[position for _, position in roots]], dtype=torch.long)
        base = prefix_advantage(initial, branches, parents, positions, length=length)[0]
    base_NT[scored] = base.expand(len(scored), length)
    return base_NT


def token_advantages(trees: list[RolloutTree], omega_BT: torch.Tensor, args: APPOConfig) -> torch.Tensor:
    """Advantages (B, T) of a mini-batch's initial rollouts, in the order of the trees; float32, no gradient."""
    base_BT = torch.cat([base_advantage(tree, args, omega_BT.shape[1]) for tree in trees]).to(omega_BT.device)
    return future_aware_advantage(base_BT, omega_BT, b=args.future_weight, clip=clip_of(args))
