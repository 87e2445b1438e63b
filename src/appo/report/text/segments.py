"""The parts of a rollout: what was thought, called, returned and answered.

A part is found from what a record holds (the mask, the calls' positions, the tokens' texts), so that no tokenizer is
needed. Left out on purpose: `protocols/`, which knows more and has to load transformers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

ANSWER_TAG = "<answer>"
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of one part.

    Args:
        part: "thought", "call", "result" or "answer".
        start, end: Positions in the completion; `end` is behind the last token.
        calls: The calls that were written or answered here, as the record has them.
    """

    part: str
    start: int
    end: int
    calls: tuple[dict[str, Any], ...] = ()


def segments(record: Mapping[str, Any], texts: Sequence[str | None], *, tags: bool) -> list[Segment]:
    """The rollout in parts, without a gap.

    Args:
        record: With `policy_mask` and, where there are, `tool_calls` and `finish_reason`.
        texts: Of each token; None where it is not known.
        tags: Whether calls and answers are written in tags: then only `<answer>` begins an answer. Otherwise a last
            turn without a call is one, after its thoughts.
    """
    calls = record.get("tool_calls") or []
    parts = token_parts(record, texts, tags=tags)
    found, place = [], 0
    # Two calls stand beside each other where one was not answered, so a call's beginning parts them.
    beginnings = {call["start"] for call in calls}
    number, keys = 0, []
    for position, part in enumerate(parts):
        number += position in beginnings
        keys.append((part, number if part == "call" else 0))
    for (part, _), tokens in groupby(keys):
        end = place + sum(1 for _ in tokens)
        found.append(Segment(part, place, end, _calls_in(part, place, end, calls)))
        place = end
    return found


def _calls_in(part: str, start: int, end: int, calls: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    if part == "call":  # its thoughts, if it began with some, are another part
        return tuple(call for call in calls if call["end"] == end)
    if part == "result":
        return tuple(call for call in calls if start <= call.get("result_start", -1) < end)
    return ()


def token_parts(record: Mapping[str, Any], texts: Sequence[str | None], *, tags: bool) -> list[str]:
    """The part that each token belongs to; arguments as in `segments`."""
    mask = record["policy_mask"]
    parts = ["thought"] * len(mask)
    last = 0  # where the last turn begins
    for call in record.get("tool_calls") or []:
        start = call["start"] + _length_of_thought(texts[call["start"] : call["end"]])
        end = min(call["end"], len(parts))
        parts[start:end] = ["call"] * (end - start)
        last = max(last, call["end"], call.get("result_end", -1))
    if record.get("finish_reason") == "tool_limit":  # the turn that asked for one call too many
        end, part = last + _length_of_thought(texts[last:]), "call"
    else:
        end, part = last + _begin_of_answer(texts[last:], tags), "answer"
    parts[end:] = [part] * len(parts[end:])
    return ["result" if not written else part for part, written in zip(parts, mask, strict=True)]


def _length_of_thought(texts: Sequence[str | None]) -> int:
    """Tokens of a call's turn up to the end of its thoughts: chat templates' calls begin with the turn."""
    text = "".join(text or "" for text in texts)
    closing = text.rfind("</think>")
    return 0 if closing < 0 else _tokens_before(texts, closing + len("</think>"))


def _begin_of_answer(texts: Sequence[str | None], tags: bool) -> int:
    """Tokens of the last turn before its answer; all of them where there is none."""
    text = "".join(text or "" for text in texts)
    thoughts = _THOUGHT.sub(lambda thought: "\0" * len(thought[0]), text)  # they may speak of the tag
    opening = thoughts.find(ANSWER_TAG)
    if opening < 0 and not tags:
        opening = _after_thoughts(text)
    return len(texts) if opening < 0 else _tokens_before(texts, opening)


def _after_thoughts(text: str) -> int:
    """Where a turn's thoughts end; -1 where they do not."""
    closing = text.rfind("</think>")
    if closing >= 0:
        return closing + len("</think>")
    return -1 if "<think>" in text else 0


def _tokens_before(texts: Sequence[str | None], offset: int) -> int:
    """Tokens that end at or before a character of their text."""
    length = 0
    for place, text in enumerate(texts):
        length += len(text or "")
        if length > offset:
            return place
    return len(texts)
