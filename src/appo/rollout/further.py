"""Further segments of runs: conversations beside the one that is the rollout, each a row of its own in the loss.

An agent that is a program of its own may hold several (`appo.rollout.agents`): it shortens its history, asks another
one, or writes its history anew for every turn. A method sees one rollout per run, branches it and gives it credit. The
run's other segments follow their rollout into the loss, with the run's advantage at each token: the mean of their
rollout's over its own loss. That is exact where a method gives a rollout one advantage (GRPO, RAFT, DAPO); where it
credits by token it is the mean: a further segment is not told apart by what the credit found within the main one.

Left out on purpose: credit by token, branch points and factors for them (GPPO's clip of the ratio is TRL's there);
records, traces and evaluations, which are of rollouts; and how a book is read (`agents/rollouts.py`).
"""

from dataclasses import dataclass, replace

import torch

from appo.methods.base import Credit
from appo.rollout.loss_inputs import MEAN_OVER_OWN_TOKENS, MEAN_OVER_ROLLOUTS
from appo.rollout.scoring import RolloutBatch, Scores, TokenScores, interleave, interleave_scores, stack_scores
from appo.rollout.types import Rollout

# Shapes: B rollouts that carry loss, F further segments, R = B + F rows, T completion tokens.


@dataclass
class Segment:
    """A further segment.

    Args:
        rollout: Its tokens. `policy_mask` is 1 at those that carry loss: what its own run sampled, and did not take
            over from the run that it branched.
        scores: Of its completion, without padding, under the policy that wrote it.
    """

    rollout: Rollout
    scores: TokenScores


def segments_of(further: list[list[Rollout]], scores: TokenScores) -> list[list[Segment]]:
    """Segments, of rows of scores: F rows, in order."""
    lengths = [len(rollout.completion_ids) for own in further for rollout in own]
    rows = iter(scores.rows(lengths))
    return [[Segment(rollout, next(rows)) for rollout in own] for own in further]


def in_order(further: list[list[Segment]]) -> tuple[list[bool], torch.Tensor]:
    """Whose the rows are, where each rollout is followed by its segments.

    Returns:
        Of each row whether it is a further one, and its rollout's number: int64 (R,).
    """
    is_further = [flag for own in further for flag in (False, *[True] * len(own))]
    owner_R = torch.tensor([number for number, own in enumerate(further) for _ in range(1 + len(own))])
    return is_further, owner_R


def run_advantages(advantages_BT: torch.Tensor, loss_mask_BT: torch.Tensor) -> torch.Tensor:
    """The mean advantage (B,) of each rollout over its loss mask, in the dtype of `advantages_BT`; 0 for an empty
    mask."""
    mask_BT = loss_mask_BT.double()
    sums_B = advantages_BT.double().masked_fill(mask_BT == 0, 0.0).sum(dim=1)
    return (sums_B / mask_BT.sum(dim=1).clamp(min=1)).to(advantages_BT.dtype)


def row_weights(loss_mask_RT: torch.Tensor, owner_R: torch.Tensor, loss_type: str) -> torch.Tensor:
    """What rows are weighted with (R,), float32, so that a run counts once, however many segments it has.

    Where the loss is a mean over rollouts (Eq. 8), it is to be one over the B runs and not over the R rows; and where
    each of those is a mean over tokens, over all of a run's: a row has its share of them. Means over all tokens need
    none of it. The KL term (`beta`), which has no advantage, stays a mean over rows.

    Args:
        loss_mask_RT: 1 at tokens that carry loss.
        owner_R: The run of each row, from 0; every run has a row.
        loss_type: TRL's.
    """
    rows = len(owner_R)
    if loss_type not in MEAN_OVER_ROLLOUTS:
        return torch.ones(rows, device=loss_mask_RT.device)
    runs = int(owner_R.max()) + 1
    weights_R = torch.full((rows,), rows / runs, device=loss_mask_RT.device)
    if loss_type not in MEAN_OVER_OWN_TOKENS:
        return weights_R
    tokens_R = loss_mask_RT.sum(dim=1).float()
    tokens_B = tokens_R.new_zeros(runs).index_add(0, owner_R, tokens_R)
    return weights_R * tokens_R / tokens_B[owner_R].clamp(min=1)


def with_segments(
    scores: Scores, credit: Credit, further: list[list[Segment]], batch: RolloutBatch, loss_type: str
) -> tuple[Scores, Credit]:
    """What the loss is computed of, where each rollout is followed by its further segments.

    Args:
        scores, credit: Of the B rollouts.
        further: The segments of each, F of them.
        batch: All R rows, padded, in this order.
        loss_type: TRL's.

    Returns:
        Scores by the policy that wrote the rows, and credit of which the product is what the loss takes: each
        rollout's advantages as they are, for its segments their mean, times `row_weights` (the factor "row_weight"). A
        rollout without loss has segments without.
    """
    segments = [segment for own in further for segment in own]
    if not segments:
        return scores, credit
    is_further, owner_R = in_order(further)
    chosen_R, device = torch.tensor(is_further), batch.completion_ids_BT.device
    width = batch.completion_ids_BT.shape[1]
    written = stack_scores([segment.scores for segment in segments], width)
    behaviour = interleave_scores(is_further, scores.behaviour, written, width)

    owner_F = owner_R[chosen_R].to(device)
    carries_F = credit.loss_mask_BT.any(dim=1)[owner_F]
    mask_FT = batch.policy_mask_BT[chosen_R.to(device)] * carries_F[:, None]
    mask_RT = interleave(is_further, credit.loss_mask_BT, mask_FT, width)
    advantages_BT = credit.advantages_BT
    advantages_FT = run_advantages(advantages_BT, credit.loss_mask_BT)[owner_F][:, None].expand(-1, width)
    base_RT = interleave(is_further, advantages_BT, advantages_FT, width)
    weights_R = row_weights(mask_RT, owner_R.to(device), loss_type)
    old_BT = credit.old_logps_BT
    old_RT = None if old_BT is None else interleave(is_further, old_BT, written.logps_BT, width)

    own = iter(further)
    sizes = [sum(1 + len(next(own)) for _ in range(size)) for size in scores.sizes]
    joined = replace(scores, batch=batch, behaviour=behaviour, current=behaviour, sizes=sizes)
    return joined, Credit(base_RT, {"row_weight": weights_R[:, None]}, mask_RT, old_logps_BT=old_RT)
