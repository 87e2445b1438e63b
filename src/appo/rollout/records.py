"""records.jsonl: one line per rollout and optimizer step, with everything that the step decided.

The report and the pictures read this file, never the trainer. Times are left out: two runs with one seed write the
same records.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from appo.errors import UserError
from appo.rollout.tree import RolloutTree


def _strict(value: Any) -> Any:
    """The value with None for numbers that JSON does not have; everything else to the last digit."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value


def _of_policy(scores: list[float], policy_mask: list[int]) -> list[float | None]:
    """Scores of the policy's tokens, None in tool results; five digits are more than float32 scores mean."""
    return [float(f"{score:.5g}") if written else None for score, written in zip(scores, policy_mask, strict=True)]


def rollout_records(
    trees: list[RolloutTree], per_token: dict[str, torch.Tensor], step: int, train_on: str = "initial"
) -> list[dict[str, Any]]:
    """One record per rollout of a mini-batch, branches included.

    Args:
        trees: The mini-batch's tasks.
        per_token: Names and tensors (B, T), rows being the trained rollouts in the order of the trees; cut to each
            rollout's length, rounded, and None in tool results, which the policy did not write. An untrained branch
            has the engine's log-probabilities only: the others are not computed.
        step: Number of the optimizer step, from 1.
    """
    lists = {name: tensor.tolist() for name, tensor in per_token.items()}
    records, row = [], 0
    for tree in trees:
        for index, rollout in enumerate(tree.rollouts):
            record = {
                "step": step,
                "task": tree.id,
                "rollout": index,
                "parent": rollout.parent,
                "branch_position": rollout.branch_position,
                "prompt": rollout.prompt,
                "completion_ids": rollout.completion_ids,
                "policy_mask": rollout.policy_mask,
                "finish_reason": rollout.finish_reason,
                "reward": rollout.reward,
                "rewards": rollout.rewards,
                "tool_calls": [
                    {name: value for name, value in vars(call).items() if name != "seconds"}
                    for call in rollout.tool_calls
                ],
            }
            if index < len(tree.trained(train_on)):
                mask = rollout.policy_mask
                record.update({name: _of_policy(values[row][: len(mask)], mask) for name, values in lists.items()})
                row += 1
            else:
                record["logprobs"] = _of_policy(rollout.logprobs, rollout.policy_mask)
            records.append(record)
    return records


def append_records(path: str | os.PathLike[str], records: Iterable[dict[str, Any]]) -> None:
    """Appends records, each as one line; NaN and infinity become null, and nothing is rounded."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(_strict(record), default=str) + "\n" for record in records)


def read_records(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Records in order of writing; a last line cut off by a kill is skipped.

    Raises:
        UserError: for a broken line elsewhere, with its number.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                if line.endswith("\n"):
                    raise UserError(f"{path}, line {number} is not JSON; move the file away or mend it.") from None


def start_records(path: str | os.PathLike[str], step: int) -> int:
    """Prepares the file for a run that continues after optimizer step `step`.

    Records of later steps are dropped, as these steps will be done again. A new run (step 0) moves a file that is
    already there to `records.1.jsonl`, `records.2.jsonl` and so on: nothing is lost.

    Returns:
        How many records are kept.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0
    if step == 0:
        number = 1
        while (old := path.with_suffix(f".{number}.jsonl")).exists():
            number += 1
        path.rename(old)
        return 0
    partial, kept = path.with_suffix(".partial"), 0
    with open(partial, "w", encoding="utf-8") as file:
        for record in read_records(path):
            if record["step"] <= step:
                file.write(json.dumps(record) + "\n")
                kept += 1
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return kept
