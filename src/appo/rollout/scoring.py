"""Rollouts as padded tensors, and their log-probabilities and entropies under a policy.

The forward is TRL's own (`GRPOTrainer._get_per_token_logps_and_entropies`), which projects through the LM head in
tiles: no (B, T, V) tensor, the entropy is over the full vocabulary at the sampling temperature (Eq. 3), and what is
scored is, to the bit, what the loss computes.

Left out on purpose: anything that compares two policies (`appo.algorithm`).
"""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout

# Shapes: B rollouts, P prompt tokens (left-padded), T completion tokens (right-padded).


@dataclass
class RolloutBatch:
    """Padded rollouts.

    Args:
        prompt_ids_BP, prompt_mask_BP: int64; 1 at prompt tokens.
        completion_ids_BT, completion_mask_BT: int64; 1 at completion tokens, results included.
        policy_mask_BT: int64; 1 at tokens that the policy wrote.
        engine_logps_BT: float32, nats; log-probabilities of the engine that wrote the tokens, NaN where a tool did,
            and in the padding.
    """

    prompt_ids_BP: torch.Tensor
    prompt_mask_BP: torch.Tensor
    completion_ids_BT: torch.Tensor
    completion_mask_BT: torch.Tensor
    policy_mask_BT: torch.Tensor
    engine_logps_BT: torch.Tensor


@dataclass
class TokenScores:
    """`logps_BT` and `entropies_BT` (nats), float32; meaningless outside the completion mask.

    `log_sum_sq_probs_BT` is `log sum_a p(a)^2`, where it is measured (`Needs.collisions`), else None.
    """

    logps_BT: torch.Tensor
    entropies_BT: torch.Tensor
    log_sum_sq_probs_BT: torch.Tensor | None = None

    def rows(self, lengths: list[int]) -> "list[TokenScores]":
        """One object per rollout, of shape (T,), without its padding."""
        kinds = [[None] * len(lengths) if x is None else list(x) for x in vars(self).values()]
        return [
            TokenScores(*(None if x is None else x[:length] for x in own))
            for *own, length in zip(*kinds, lengths, strict=True)
        ]


def stack_scores(rows: list[TokenScores], width: int) -> TokenScores:
    """Scores (B, T) from one object per rollout; 0 in the padding."""

    def stacked(tensors: tuple[torch.Tensor | None, ...]) -> torch.Tensor | None:
        padded = [torch.nn.functional.pad(x, (0, width - len(x))) for x in tensors if x is not None]
        return torch.stack(padded) if padded else None

    return TokenScores(*map(stacked, zip(*(vars(row).values() for row in rows), strict=True)))


@dataclass
class Scores:
    """What is known of a mini-batch's tokens before an update.

    Args:
        batch: The rollouts, in the order of their trees.
        behaviour: Scores under the policy that wrote them.
        current: Under the present policy; the same object where it is the same policy, or where nobody asked.
        sizes: Rollouts of each tree.
    """

    batch: RolloutBatch
    behaviour: TokenScores
    current: TokenScores
    sizes: list[int]

    @property
    def length(self) -> int:
        """T."""
        return self.batch.completion_ids_BT.shape[1]

    @property
    def log_ratio_BT(self) -> torch.Tensor:
        """Log of the present over the writing policy's probability of each token, float32."""
        return self.current.logps_BT - self.behaviour.logps_BT

    @property
    def rows(self) -> list[list[int]]:
        """The rows of each tree."""
        ends = list(accumulate(self.sizes))
        return [list(range(end - size, end)) for size, end in zip(self.sizes, ends, strict=True)]


def collate(
    rollouts: list[Rollout], *, pad_token_id: int, pad_to_multiple_of: int | None = None, device: torch.device | str
) -> RolloutBatch:
    """Pads rollouts to one batch: prompts on the left, completions on the right."""

    def padded(lists: list[Any], value: float, side: str, dtype: torch.dtype = torch.long) -> torch.Tensor:
        tensors = [torch.tensor(numbers, dtype=dtype) for numbers in lists]
        rows = pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
        extra = -rows.shape[1] % (pad_to_multiple_of or 1)
        widths = (extra, 0) if side == "left" else (0, extra)
        return torch.nn.functional.pad(rows, widths, value=value).to(device)

    # The forward keeps the last T columns, and keeping none of them would mean all: T is at least 1.
    empty = not any(r.completion_ids for r in rollouts)
    return RolloutBatch(
        padded([r.prompt_ids for r in rollouts], pad_token_id, "left"),
        padded([[1] * len(r.prompt_ids) for r in rollouts], 0, "left"),
        padded([[pad_token_id] if empty else r.completion_ids for r in rollouts], pad_token_id, "right"),
        padded([[0] if empty else [1] * len(r.completion_ids) for r in rollouts], 0, "right"),
        padded([[0] if empty else r.policy_mask for r in rollouts], 0, "right"),
        padded([[math.nan] if empty else r.logprobs for r in rollouts], math.nan, "right", torch.float32),
    )


def inherit_ratios(
    trees: list[RolloutTree], known_BT: torch.Tensor, rows: list[list[int]], ratios_BT: torch.Tensor
) -> list[list[int]]:
    """Fills the log-ratios of all rollouts: a branch has its parent's up to where it left it, then 0.

    Args:
        trees: Tasks; their rollouts, in order, are the rows of `ratios_BT`.
        known_BT: Log-ratios of rollouts that are known already.
        rows: For each tree the rows of its first rollouts in `known_BT`.
        ratios_BT: Zeros, filled in place.

    Returns:
        The rows of each tree in `ratios_BT`.
    """
    new_rows: list[list[int]] = []
    for tree, known in zip(trees, rows, strict=True):
        first = new_rows[-1][-1] + 1 if new_rows else 0
        new_rows.append(list(range(first, first + len(tree.rollouts))))
        for index, rollout in enumerate(tree.rollouts):
            if index < len(known):
                width = min(known_BT.shape[1], ratios_BT.shape[1])
                ratios_BT[first + index, :width] = known_BT[known[index], :width]
            else:
                end = rollout.branch_position
                ratios_BT[first + index, :end] = ratios_BT[first + (rollout.parent or 0), :end]
    return new_rows


def interleave(is_new: list[bool], old_BT: torch.Tensor, new_BT: torch.Tensor, width: int) -> torch.Tensor:
    """Rows of two tensors in one order, padded with 0 (or cut, in the padding) to `width` columns."""
    rows_BT = old_BT.new_zeros(len(is_new), width)
    chosen_B = torch.tensor(is_new, device=old_BT.device)
    for mask_B, source_BT in ((~chosen_B, old_BT), (chosen_B, new_BT)):
        shared = min(width, source_BT.shape[1])
        rows_BT[mask_B, :shared] = source_BT[:, :shared]
    return rows_BT


def interleave_scores(is_new: list[bool], old: TokenScores, new: TokenScores, width: int) -> TokenScores:
    """`interleave` of every kind of score that was measured."""
    pairs = zip(vars(old).values(), vars(new).values(), strict=True)
    return TokenScores(*(None if a is None else interleave(is_new, a, b, width) for a, b in pairs))
