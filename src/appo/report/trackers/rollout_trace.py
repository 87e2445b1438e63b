"""A rollout as a trace, the form in which trackers of experiments show conversations: messages, facts, operations.

A tracker shows numbers of a message or an operation, none of a token. So advantages are given as means: of the
rollout, and of each of its parts (a thought, a call, an answer). Those of single tokens are in the records.

Left out on purpose: sending (`trackio_log.py`, `wandb_log.py`).
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from appo.files import strict_json
from appo.report.text.segments import Segment, segments
from appo.rollout.record_columns import FACTORS
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall

Record = dict[str, Any]
Decode = Callable[[list[int]], str]  # token ids to text


@dataclass
class RolloutTrace:
    """All of it is strict JSON: None where there is no number.

    Args:
        messages: As OpenAI has them, with `tool_calls` and results.
        metadata: What the rollout earned, and its branches with what they earned.
        spans: Its parts in order, as trackio has them: kind "generation" (a thought, a call, an answer) or "tool".
        prompt_messages: How many of the messages are the prompt's.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)
    prompt_messages: int = 0


def rollout_traces(
    trees: Sequence[RolloutTree], records: Sequence[Record], decode: Decode, *, tags: bool, most: int
) -> list[RolloutTrace]:
    """The first `most` rollouts that carry loss.

    Args:
        trees: An update's tasks.
        records: What was decided about their rollouts, in the same order (`rollout_records`).
        decode: The text of sampled ids, special tokens included.
        tags: As for `segments`.
    """
    found: list[RolloutTrace] = []
    place = 0
    for tree in trees:
        there, place = records[place : place + len(tree.rollouts)], place + len(tree.rollouts)
        for rollout, record in zip(tree.rollouts, there, strict=True):
            if len(found) == most:
                return found
            if record.get("advantages") is not None:
                found.append(_trace(rollout, record, there, decode, tags))
    return found


def _trace(rollout: Rollout, record: Record, task: Sequence[Record], decode: Decode, tags: bool) -> RolloutTrace:
    prompt = _prompt(rollout.prompt)
    trace = RolloutTrace(list(prompt))
    ids = rollout.completion_ids
    text, calls = "", 0
    for segment in segments(record, [decode([token]) for token in ids], tags=tags):
        part = decode(ids[segment.start : segment.end])
        if segment.part == "result":
            answered = [call for call in rollout.tool_calls if segment.start <= call.result_start < segment.end]
            trace.messages += _turn(text, answered, calls)
            text, calls = "", calls + len(answered)
            trace.spans += [_tool_span(call) for call in answered]
        else:
            text += part
            trace.spans.append(_generation_span(segment, part, record))
    if text:
        trace.messages.append({"role": "assistant", "content": text})
    trace.spans += [_tool_span(call) for call in rollout.tool_calls if not call.answered]
    for number, span in enumerate(trace.spans):
        span["id"] = str(number)
    trace.metadata = _metadata(rollout, record, task, decode)
    return RolloutTrace(
        strict_json(trace.messages), strict_json(trace.metadata), strict_json(trace.spans), prompt_messages=len(prompt)
    )


def _prompt(prompt: Any) -> list[dict[str, Any]]:
    if isinstance(prompt, list):
        return [dict(message) for message in prompt]
    return [{"role": "user", "content": "" if prompt is None else str(prompt)}]


def _turn(text: str, calls: Sequence[ToolCall], before: int) -> Iterator[dict[str, Any]]:
    """A turn that calls tools, and what they returned."""
    names = [f"call-{before + number}" for number in range(len(calls))]
    functions = [{"name": call.name, "arguments": _as_json(call.arguments)} for call in calls]
    asked = [{"id": id, "type": "function", "function": one} for id, one in zip(names, functions, strict=True)]
    yield {"role": "assistant", "content": text, "tool_calls": asked}
    for id, call in zip(names, calls, strict=True):
        yield {"role": "tool", "tool_call_id": id, "name": call.name, "content": call.result}


def _as_json(arguments: Any) -> str:
    if arguments is None:  # of a call that could not be read
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(strict_json(arguments), default=str)


def _generation_span(segment: Segment, text: str, record: Record) -> dict[str, Any]:
    names = ", ".join(call["name"] for call in segment.calls)
    measured = {name: _mean(record.get(column), record, segment) for name, column in _MEASURED.items()}
    return {
        "name": f"call {names}" if names else segment.part,
        "kind": "generation",
        "status": "success",
        "output": text,
        "usage": {"output_tokens": segment.end - segment.start},
        "metadata": {"start": segment.start, "end": segment.end, **measured},
    }


_MEASURED = {"advantage": "advantages", "entropy": "entropies", "omega": "omega", "score": "score"}


def _tool_span(call: ToolCall) -> dict[str, Any]:
    failed = {} if call.error is None else {"error": call.error}
    return {
        "name": call.name,
        "kind": "tool",
        "status": "success" if call.error is None else "error",
        "input": _as_json(call.arguments),
        "output": call.result,
        "duration_ms": 1000 * call.seconds,
        **failed,
    }


def _metadata(rollout: Rollout, record: Record, task: Sequence[Record], decode: Decode) -> dict[str, Any]:
    values = _carried(record["advantages"], record, range(len(rollout.completion_ids)))
    left = [one for one in task if one["parent"] == record["rollout"]]
    return {
        "task": record["task"],
        "rollout": record["rollout"],
        "reward": rollout.reward,
        **{f"rewards/{name}": value for name, value in rollout.rewards.items()},
        "advantage": sum(values) / len(values) if values else None,
        "advantage_min": min(values, default=None),
        "advantage_max": max(values, default=None),
        "finish_reason": rollout.finish_reason,
        "tokens": sum(rollout.policy_mask),
        "tool_calls": len(rollout.tool_calls),
        "tool_errors": sum(call.error is not None for call in rollout.tool_calls),
        "branches": [_branch(one, rollout, decode) for one in left],
    }


def _branch(branch: Record, parent: Rollout, decode: Decode) -> dict[str, Any]:
    """Where a branch left the rollout, and what came of it."""
    place = branch["branch_position"]
    before, instead = (ids[place : place + 1] for ids in (parent.completion_ids, branch["completion_ids"]))
    return {
        "rollout": branch["rollout"],
        "position": place,
        "token": decode(before),
        "instead": decode(instead),
        "score": branch["branch_score"],
        "reward": branch["reward"],
    }


def _mean(values: Sequence[float] | None, record: Record, segment: Segment) -> float | None:
    if values is None:
        return None
    known = _carried(values, record, range(segment.start, segment.end))
    return sum(known) / len(known) if known else None


def _carried(values: Sequence[float], record: Record, places: range) -> list[float]:
    """The values at tokens that carry loss."""
    factors = record.get(FACTORS) or {}
    mask = factors["loss_mask"] if "loss_mask" in factors else record["policy_mask"]
    return [float(values[place]) for place in places if mask[place] and not math.isnan(values[place])]
