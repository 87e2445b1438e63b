"""From a mini-batch's scores and credit to what TRL's loss takes, in equal micro-batches.

Left out on purpose: the loss. TRL's takes the (B, T) advantages as they are.
"""

from typing import Any

import torch

from appo.methods.base import Credit
from appo.rollout.scoring import RolloutBatch, Scores

# Shapes: B rollouts that carry loss, T completion tokens.

Inputs = dict[str, torch.Tensor]
MEAN_OVER_ROLLOUTS = ("grpo", "sapo", "dr_grpo", "luspo")  # of TRL's `loss_type`; the others are means over tokens
MEAN_OVER_OWN_TOKENS = ("grpo", "sapo")  # .. whose part of a rollout is a mean over its tokens


def batch_inputs(batch: RolloutBatch, loss_mask_BT: torch.Tensor, advantages: torch.Tensor) -> Inputs:
    """What TRL's loss takes of a policy's own rollouts: a row each, with advantages (B, T) or (B,)."""
    return {
        "prompt_ids": batch.prompt_ids_BP,
        "prompt_mask": batch.prompt_mask_BP,
        "completion_ids": batch.completion_ids_BT,
        "completion_mask": batch.completion_mask_BT,
        "tool_mask": loss_mask_BT,
        "advantages": advantages,
    }


def loss_inputs(scores: Scores, credit: Credit) -> Inputs:
    """The loss's inputs of an update, a row per rollout."""
    old_BT = scores.behaviour.logps_BT if credit.old_logps_BT is None else credit.old_logps_BT
    inputs = batch_inputs(scores.batch, credit.loss_mask_BT, credit.advantages_BT)
    return {**inputs, "old_per_token_logps": old_BT}


def split(inputs: Inputs, parts: int, items: torch.Tensor) -> list[dict[str, Any]]:
    """`parts` micro-batches of equally many rows, or nearly so.

    Args:
        items: Tokens that TRL's token-mean losses divide by: those of a generation, on all processes.
    """
    pieces = {name: torch.tensor_split(tensor, parts) for name, tensor in inputs.items()}
    return [{**{name: piece[i] for name, piece in pieces.items()}, "num_items_in_batch": items} for i in range(parts)]


def busy_rows(inputs: Inputs) -> torch.Tensor:
    """Which rollouts of the loss's inputs carry any advantage: bool (B,)."""
    return (inputs["advantages"] * inputs["tool_mask"] != 0).any(dim=1)


def without_idle_rows(inputs: Inputs, size: int) -> Inputs:
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


def with_idle_rows(inputs: Inputs, size: int, loss_type: str) -> Inputs:
    """The loss's inputs filled up with rows that carry no loss, where another process has more rollouts.

    TRL gathers a number per row, which needs equally many everywhere. A filler is the first rollout with an empty
    mask. Where the loss is a mean over rollouts, the advantages are scaled, so that it is the mean over those that
    there are; its KL term (`beta`), which has no advantage, counts the fillers as 0.

    Args:
        inputs: Tensors with a row per rollout; among them `advantages` (B, T) and `tool_mask` (B, T).
        size: Rows to have, at least B.
        loss_type: TRL's.
    """
    rows = len(inputs["tool_mask"])
    index = torch.tensor([*range(rows), *[0] * (size - rows)], device=inputs["tool_mask"].device)
    filled = {name: tensor[index] for name, tensor in inputs.items()}
    for name in ("tool_mask", "advantages"):
        filled[name][rows:] = 0
    if loss_type in MEAN_OVER_ROLLOUTS:
        filled["advantages"] = filled["advantages"] * (size / rows)
    return filled
