"""Rollouts and numbers per token, to and from verl's transfer queue, under verl's names.

Left out on purpose: which ones (`trainer.py`, `writer.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch
import transfer_queue
from tensordict import NonTensorData, TensorDict
from transfer_queue import KVBatchMeta

from appo.integrations.verl.agent_loop import EXTRA, dataset_row
from appo.rollout.batches import rollout_from_dict
from appo.rollout.types import Rollout

# Shapes: B keys, T tokens of the longest completion.

TRAIN = "train"


def uid_of(key: str) -> str:
    """The task of a trajectory's key `uid_session_index`."""
    return key.split("_")[0]


def rows_of(keys: Sequence[str], *names: str) -> dict[str, list[Any]]:
    """Fields by name: a list with an entry per key."""
    data = transfer_queue.kv_batch_get(keys=list(keys), partition_id=TRAIN, select_fields=list(names))
    return {name: [getattr(entry, "data", entry) if not isinstance(entry, torch.Tensor) else entry
                   for entry in _entries(data[name])] for name in names}  # fmt: skip


def row_at(batch: TensorDict, place: int) -> dict[str, Any]:
    """A row of the data set, with `prompt`, of those that verl submits."""
    found = {}
    for name, column in batch.items():
        if not isinstance(column, torch.Tensor):
            entry = column.data if isinstance(column, NonTensorData) else column[place]
            found[name] = getattr(entry, "data", entry)
    return dataset_row(found)


def _entries(field: Any) -> list[Any]:
    return list(field.unbind()) if isinstance(field, torch.Tensor) else list(field)


def put_tokens(keys: Sequence[str], **values_BT: torch.Tensor) -> None:
    """Stores numbers per token under verl's names, without their padding.

    Args:
        keys: Of the rows; each row is as long as the completion that lies there.
        values_BT: By name.
    """
    lengths = [len(response) for response in rows_of(keys, "responses")["responses"]]
    nested = {
        name: torch.nested.as_nested_tensor(
            [row[:length] for row, length in zip(rows, lengths, strict=True)], layout=torch.jagged
        )
        for name, rows in values_BT.items()
    }
    transfer_queue.kv_batch_put(keys=list(keys), partition_id=TRAIN, fields=TensorDict(nested, batch_size=len(keys)))


def clear(keys: Sequence[str]) -> None:
    """Forgets what lies under these keys."""
    if keys:
        transfer_queue.kv_clear(keys=list(keys), partition_id=TRAIN)


def meta_of(keys: Sequence[str], tags: dict[str, dict[str, Any]]) -> KVBatchMeta:
    """What verl's methods take: keys with their tags."""
    return KVBatchMeta(partition_id=TRAIN, keys=list(keys), tags=[dict(tags[key]) for key in keys])


def read_rollouts(keys: Sequence[str]) -> list[Rollout]:
    """The rollouts that `agent_loop.py` wrote, rewarded by it or by verl."""
    if not keys:
        return []
    names = ("prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "extra_fields")
    found = rows_of(keys, *names)
    rollouts = []
    for prompt, response, mask, logprobs, scores, extra in zip(*(found[name] for name in names), strict=True):
        own = extra[EXTRA]
        policy_mask = [int(m) for m in mask]
        fields = {
            **{name: own[name] for name in ("prompt", "tool_calls", "finish_reason", "rewards")},
            "prompt_ids": [int(token) for token in prompt],
            "completion_ids": [int(token) for token in response],
            "policy_mask": policy_mask,
            "logprobs": [float(p) if m else float("nan") for p, m in zip(logprobs, policy_mask, strict=True)],
            "reward": None if own["scored"] is False else float(scores.sum()),
        }
        rollouts.append(rollout_from_dict(fields))
    return rollouts
