"""From rewards to an advantage per token of the rollouts that are trained on (Eq. 6 and 7), and which tokens have one.

Left out on purpose: the loss. TRL's takes the (B, T) tensor as it is.
"""

import torch

from appo.algorithm import (
    dual_group_advantage,
    future_aware_advantage,
    group_advantage,
    pooled_advantage,
    prefix_advantage,
    tree_advantage,
)
from appo.branching import clip_of
from appo.config import APPOConfig
from appo.rollout.rewards import among_scored, rewards_of
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout

# Shapes: N initial rollouts and K branches of a task, R all of them, T completion tokens, B rollouts of a mini-batch.


def base_advantage(tree: RolloutTree, args: APPOConfig, length: int) -> torch.Tensor:
    """The advantage of a task's initial rollouts before Eq. 7, float32: (N, T), equal along T except for `prefix`.

    A rollout that no reward function scored has advantage 0 and enters no mean.
    """
    rewards_N = rewards_of(tree.initial)
    scored = (~rewards_N.isnan()).nonzero()[:, 0].tolist()
    base_NT = torch.zeros(tree.num_initial, length)
    if not scored:
        return base_NT
    initial, branches = rewards_N[scored][None], rewards_of(tree.branches)[None]
    if args.advantage == "dual_group":
        base = dual_group_advantage(initial, branches)[0][:, None]
    elif args.advantage == "pooled":
        base = pooled_advantage(initial, branches)[0][:, None]
    elif args.advantage == "group":
        base = group_advantage(initial)[0][:, None]
    elif args.advantage == "success":
        # No baseline: a failed rollout teaches nothing, and one that succeeds teaches as much on an easy task.
        base = (initial >= args.success_reward).float()[0][:, None]
    else:
        place = {rollout: row for row, rollout in enumerate(scored)}
        roots = [tree.root_of(branch) for branch in tree.branches]
        parents = torch.tensor([[place.get(root, -1) for root, _ in roots]], dtype=torch.long)
        positions = torch.tensor([[position for _, position in roots]], dtype=torch.long)
        base = prefix_advantage(initial, branches, parents, positions, length=length)[0]
    base_NT[scored] = base.expand(len(scored), length)
    return base_NT


def group_credit(rollouts: list[Rollout]) -> torch.Tensor:
    """GRPO's advantage of each rollout (R,) relative to the scored ones among them; 0 where it is not scored."""
    return among_scored(lambda rewards_R: group_advantage(rewards_R[None])[0], rewards_of(rollouts))


def whole_tree_advantage(tree: RolloutTree, args: APPOConfig, length: int) -> torch.Tensor:
    """The advantage of all of a task's rollouts before Eq. 7, float32: (R, T).

    A rollout that no reward function scored enters no mean; its tokens have advantage 0, for `tree` except those that
    it shares with scored rollouts.
    """
    if args.advantage == "group":
        return group_credit(tree.rollouts)[:, None].expand(-1, length)
    return tree_advantage(
        rewards_of(tree.rollouts),
        [rollout.parent for rollout in tree.rollouts],
        [rollout.branch_position or 0 for rollout in tree.rollouts],
        length=length,
        local=args.local_weight,
    )


def token_advantages(trees: list[RolloutTree], omega_BT: torch.Tensor, args: APPOConfig) -> torch.Tensor:
    """Advantages (B, T) of a mini-batch's trained rollouts, in the order of the trees; float32, no gradient."""
    estimate = base_advantage if args.train_on == "initial" else whole_tree_advantage
    base_BT = torch.cat([estimate(tree, args, omega_BT.shape[1]) for tree in trees]).to(omega_BT.device)
    return future_aware_advantage(base_BT, omega_BT, b=args.future_weight, clip=clip_of(args))


def loss_mask(
    rollouts: list[Rollout], policy_mask_BT: torch.Tensor, *, on_prefixes: bool, on_truncated: bool
) -> torch.Tensor:
    """Which tokens carry loss: those that the policy wrote, and that a rollout does not share with its parent.

    Args:
        rollouts: One per row.
        policy_mask_BT: 1 at tokens that the policy wrote.
        on_prefixes: Whether a token that several rollouts share carries loss in each of them.
        on_truncated: Whether a rollout that reached the token limit carries any.

    Returns:
        (B, T) in the dtype of `policy_mask_BT`, a tensor of its own.
    """
    mask_BT = policy_mask_BT.clone()
    for row, rollout in enumerate(rollouts):
        if not on_prefixes:
            mask_BT[row, : rollout.branch_position or 0] = 0
        if not on_truncated and rollout.finish_reason == "length":
            mask_BT[row] = 0
    return mask_BT


def busy_rows(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which rollouts of the loss's inputs carry any advantage: bool (B,)."""
    return (inputs["advantages"] * inputs["tool_mask"] != 0).any(dim=1)


def without_idle_rows(inputs: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
    """The loss's inputs without rollouts whose advantages are all 0: they cost a forward and backward for nothing.

    The loss is a mean over rollouts (Eq. 8), so the advantages are scaled: the mean over those that are left is what
    the mean over all was.

    Args:
        inputs: Tensors with a row per rollout; among them `advantages` (B, T) and `tool_mask` (B, T).
        size: Rows to keep, at least the busy ones: idle ones fill up what micro-batches or other processes need.
    """
    busy_B = busy_rows(inputs)
    kept = torch.argsort((~busy_B).int(), stable=True)[:size].sort().values
    inputs = {name: tensor[kept] for name, tensor in inputs.items()}
    return {**inputs, "advantages": inputs["advantages"] * (size / len(busy_B))}
