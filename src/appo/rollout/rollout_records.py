"""What an update decided, as records: one dict per rollout, whose keys `record_columns.py` explains.

Left out on purpose: files (`records.py`), and how anything here is measured: it comes from whoever trains. Further
segments of agents' runs (`rollout/further.py`) are in no record: each is of a rollout, a run's main segment.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout

if TYPE_CHECKING:
    from torch import Tensor

# Shapes: B rollouts of a mini-batch, T completion tokens.


def rollout_records(
    trees: Sequence[RolloutTree],
    per_token: "dict[str, Tensor]",
    step: int,
    trains: str = "initial",
    *,
    factors: "dict[str, Tensor] | None" = None,
    decisions: Callable[[Rollout], list[int] | None] | None = None,
) -> list[dict[str, Any]]:
    """One record per rollout of a mini-batch, branches included.

    What is per token is a view of the tensors, of the rollout's length; whoever writes it puts null in tool results.

    Args:
        trees: The mini-batch's tasks.
        per_token: Names and tensors (B, T), rows being the trained rollouts in the order of the trees. An untrained
            branch has the engine's log-probabilities only, and so has every rollout where this is empty, as in an
            evaluation: the others are not computed.
        step: Number of the optimizer step, from 1; of an evaluation, that after which it was made.
        trains: As in `RolloutTree.trained`.
        factors: Names and tensors (B, T) whose product, without the loss mask, is `per_token["advantages"]`.
        decisions: The positions at which a rollout truly decides; None where it is not known.
    """
    scores, parts = _arrays(per_token), _arrays(factors or {})
    records, row = [], 0
    for tree in trees:
        trained = len(tree.trained(trains))
        both = {**_spread("initial", tree.initial), **_spread("branch", tree.branches)}
        for index, rollout in enumerate(tree.rollouts):
            length = len(rollout.completion_ids)
            record = {**_of_rollout(tree, index, step), **both}
            record["decisions"] = None if decisions is None else decisions(rollout)
            if index < trained and per_token:
                record.update({name: values[row + index, :length] for name, values in scores.items()})
                if parts:
                    record["factors"] = {name: values[row + index, :length] for name, values in parts.items()}
            else:
                record["logprobs"] = rollout.logprobs
            records.append(record)
        row += trained
    return records


def _arrays(tensors: "dict[str, Tensor]") -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


def _of_rollout(tree: RolloutTree, index: int, step: int) -> dict[str, Any]:
    rollout = tree.rollouts[index]
    return {
        "step": step,
        "task": tree.id,
        "row": tree.row,
        "rollout": index,
        "parent": rollout.parent,
        "branch_position": rollout.branch_position,
        "branch_score": rollout.branch_score,
        "branch_rank": rollout.branch_rank,
        "alternatives": rollout.alternatives,
        "prompt": rollout.prompt,
        "completion_ids": rollout.completion_ids,
        "policy_mask": rollout.policy_mask,
        "finish_reason": rollout.finish_reason,
        "reward": rollout.reward,
        "rewards": rollout.rewards,
        "tool_calls": [
            {name: value for name, value in vars(call).items() if name != "seconds"} for call in rollout.tool_calls
        ],
        "call_seconds": [call.seconds for call in rollout.tool_calls],  # for a file of their own (`record_times.py`)
    }


def _spread(group: str, rollouts: Sequence[Rollout]) -> dict[str, float | None]:
    """Mean and standard deviation (of the population, as in Eq. 6) of the rewards that there are."""
    rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    return {
        f"{group}_mean": statistics.fmean(rewards) if rewards else None,
        f"{group}_std": float(np.std(rewards)) if rewards else None,
    }
