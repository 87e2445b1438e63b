"""How far the engine that wrote tokens is from the trainer, and what the loss is multiplied with for it.

Two stacks compute two policies from the same weights. Entropies, Omega and pi_old are the trainer's own; only the
tokens are the engine's, so that each is weighed by the trainer's over the engine's probability of it (truncated
importance sampling), as TRL's loss does where vLLM writes.

Left out on purpose: the loss itself, and the embedded engine, which is the trainer's own forward.
"""

import math
from dataclasses import dataclass

import torch

from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: B rollouts that carry loss, T completion tokens, U = T, or 1 where a ratio is of a whole rollout.

FAR = 0.1  # nats a token between engine and trainer, on average, that rounding does not explain
MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def branch_distances(trees: list[RolloutTree], scores: Scores) -> list[float]:
    """|trainer's - engine's| log-probability, in nats, of tokens at which branches left their parents.

    Branches carry no loss and are not scored; but the engine told of the likeliest tokens where a branch begins, and
    the present policy has scored its parent: where the parent's token is among them, the two can be compared. Weights
    that did not reach the engine show here.

    Args:
        trees: With the branches that were added last.
        scores: Of their initial rollouts, in the order of the trees.
    """
    found = []
    for tree, rows in zip(trees, scores.rows, strict=True):
        for branch in tree.branches:
            if branch.parent is None or branch.parent >= len(rows) or branch.branch_position is None:
                continue
            place = branch.branch_position
            told = {int(token): logprob for token, logprob in branch.alternatives or ()}
            token = tree.rollouts[branch.parent].completion_ids[place]
            if token in told:
                found.append(abs(scores.current.logps_BT[rows[branch.parent], place].item() - told[token]))
    return found


@dataclass
class Correction:
    """What the loss is multiplied with.

    Args:
        ratio_BU: float32; 1 where nothing is known of a token.
        counted_BU: Where it stands for tokens that carry loss.
        clipped_BU: Where it was outside the bounds.
        distance_BT: |trainer's - engine's| log-probability in nats; NaN outside the mask.
    """

    ratio_BU: torch.Tensor
    counted_BU: torch.Tensor
    clipped_BU: torch.Tensor
    distance_BT: torch.Tensor

    @property
    def complaint(self) -> str | None:
        """A sentence, where engine and trainer are further apart than rounding explains."""
        mean = float(self.distance_BT.nanmean())
        if not mean > FAR:
            return None
        return (
            f"log-probabilities of engine and trainer differ by {mean:.2f} nats a token; does the server serve this "
            "model, in the type that the trainer computes in (docs/gpus.md)?"
        )

    def metrics(self) -> dict[str, float]:
        """What is logged, under TRL's names where it has them; NaN where there is no token."""
        distances = self.distance_BT[~self.distance_BT.isnan()]
        return {
            "sampling/sampling_logp_difference/mean": float(distances.mean()),
            "sampling/sampling_logp_difference/max": float(distances.max()) if len(distances) else math.nan,
            "sampling/importance_sampling_ratio/mean": float(self.ratio_BU[self.counted_BU].mean()),
            "sampling/importance_sampling_ratio/clipped": float(self.clipped_BU[self.counted_BU].float().mean()),
        }


def correct(
    trainer_BT: torch.Tensor,
    engine_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    mode: str,
    clip_min: float | None,
    clip_max: float | None,
) -> Correction:
    """The trainer's over the engine's probability of each token, within bounds.

    Args:
        trainer_BT, engine_BT: Log-probabilities of the engine's tokens under the weights that wrote them, float32.
        mask_BT: 1 at tokens that carry loss.
        mode: One of `MODES`: of each token or of a rollout's product; `truncate` bounds the ratio, `mask` makes it 0
            outside the bounds.
        clip_min, clip_max: The bounds; None for none.
    """
    carries_BT = mask_BT != 0
    difference_BT = (trainer_BT - engine_BT).masked_fill(~carries_BT, math.nan)
    logs_BU, counted_BU = difference_BT.nan_to_num(nan=0.0), carries_BT
    if mode.startswith("sequence"):
        logs_BU, counted_BU = logs_BU.sum(dim=1, keepdim=True), carries_BT.any(dim=1, keepdim=True)
    ratio_BU = logs_BU.exp()
    low, high = -math.inf if clip_min is None else clip_min, math.inf if clip_max is None else clip_max
    clipped_BU = (ratio_BU < low) | (ratio_BU > high)
    bounded_BU = ratio_BU.clamp(low, high) if mode.endswith("truncate") else ratio_BU.masked_fill(clipped_BU, 0.0)
    return Correction(bounded_BU, counted_BU, clipped_BU, difference_BT.abs())
