"""What a step logs besides TRL's own metrics, from rollouts alone."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from appo.rollout.rewards import rewards_of
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout

if TYPE_CHECKING:  # a method reads `mean`, and has to run where there are no protocols
    from appo.protocols.base import ToolProtocol

REGIONS = ("think", "call", "answer")


def mean(values: Iterable[float | None]) -> float:
    """Mean over the values that exist; NaN where none does (TRL's `log` leaves NaN out)."""
    present = [value for value in values if value is not None and not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def rollout_metrics(rollouts: list[Rollout], success_reward: float) -> dict[str, float]:
    """Success and tool use of rollouts (initial ones, or those of an evaluation)."""
    scored = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    calls = [call for rollout in rollouts for call in rollout.tool_calls]
    return {
        "success": mean(float(reward >= success_reward) for reward in scored),
        "tools/calls_per_rollout": len(calls) / max(len(rollouts), 1),
        "tools/failures_per_rollout": sum(call.error is not None for call in calls) / max(len(rollouts), 1),
        "completions/truncated": mean(float(rollout.finish_reason == "length") for rollout in rollouts),
    }


def branch_metrics(trees: list[RolloutTree], protocol: "ToolProtocol") -> dict[str, float]:
    """Rewards of both groups, and where the branches start."""
    branches = [(tree, branch) for tree in trees for branch in tree.branches]
    metrics = {
        "reward/initial": mean(rollout.reward for tree in trees for rollout in tree.initial),
        "reward/branches": mean(branch.reward for _, branch in branches),
        "branch/count": float(len(branches)),
        "branch/tokens": float(sum(sum(b.policy_mask[b.branch_position or 0 :]) for _, b in branches)),
    }
    places, regions = [], []
    for tree, branch in branches:
        assert branch.parent is not None and branch.branch_position is not None
        parent = tree.rollouts[branch.parent]
        places.append(branch.branch_position / max(len(parent.completion_ids) - 1, 1))
        regions.append(protocol.region(parent, branch.branch_position))
    metrics["branch/position"] = mean(places)
    for region in REGIONS:
        metrics[f"branch/in_{region}"] = mean(float(other == region) for other in regions)
    return metrics


def omega_metrics(omega_BT: torch.Tensor, mask_BT: torch.Tensor, clip: tuple[float, float]) -> dict[str, float]:
    """Mean and spread of Omega over policy tokens, and the share outside the clip's bounds."""
    omega = omega_BT[mask_BT.bool()].double()
    if omega.numel() == 0:  # the same names on every process
        return {"omega/mean": math.nan, "omega/std": math.nan, "omega/clipped": math.nan}
    outside = (omega < clip[0]) | (omega > clip[1])
    return {
        "omega/mean": omega.mean().item(),
        "omega/std": omega.std(correction=0).item(),
        "omega/clipped": outside.double().mean().item(),
    }


def reward_differences(tree: RolloutTree) -> list[float]:
    """Each initial rollout's reward minus the task's mean, for TRL's table of completions."""
    average = mean(rollout.reward for rollout in tree.initial)
    return [0.0 if rollout.reward is None else rollout.reward - average for rollout in tree.initial]


def generation_metrics(trees: list[RolloutTree], reward_names: list[str]) -> dict[str, float]:
    """What TRL logs of a generation, under TRL's names, over the initial rollouts."""
    rollouts = [rollout for tree in trees for rollout in tree.initial]
    lengths = [float(sum(rollout.policy_mask)) for rollout in rollouts]
    ended = [length for rollout, length in zip(rollouts, lengths, strict=True) if rollout.finish_reason != "length"]
    rewards = rewards_of(rollouts)
    present = rewards[~rewards.isnan()]
    calls = [call for rollout in rollouts for call in rollout.tool_calls]
    failed = sum(call.error is not None for call in calls)
    spreads = [{rollout.reward for rollout in tree.initial if rollout.reward is not None} for tree in trees]
    values = {
        "completions/mean_length": mean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": 1 - len(ended) / len(rollouts),
        "completions/mean_terminated_length": mean(ended),
        "reward": mean(rollout.reward for rollout in rollouts),
        "reward_std": present.std().item() if len(present) > 1 else math.nan,
        "frac_reward_zero_std": mean(float(len(spread) == 1) for spread in spreads if spread),
        "tools/call_frequency": len(calls) / len(rollouts),
        "tools/failure_frequency": failed / len(calls) if calls else 0.0,
    }
    for name in reward_names:
        parts = [rollout.rewards.get(name) for rollout in rollouts]
        known = torch.tensor([part for part in parts if part is not None and not math.isnan(part)])
        values[f"rewards/{name}/mean"] = mean(parts)
        values[f"rewards/{name}/std"] = known.std().item() if len(known) > 1 else math.nan
    return values
