"""Tool-use traces for the cold start: reading them. What of them carries loss is `demonstrations.py`'s.

    traces = read_traces(["dongguanting/ARPO-SFT-54K", "mine.jsonl", "runs/kinship"])

A .jsonl, .json or .parquet file, the split `train` of a data set of the hub, or the directory of a run, whose records
are read one after another. Each row is one of:

- ShareGPT: `conversations` with `from` and `value`, perhaps `system` (LLaMA-Factory's data/README.md, and how it is
  told to read ARPO-SFT-54K). `observation` is a tool's result, `function_call` a call as JSON. A human's text after
  the first answer that is one `<result>..</result>` is a result too.
- Alpaca: `instruction`, `input`, `output`, perhaps `system` (the same README).
- `messages` with `role` and `content`, perhaps `tool_calls` (OpenAI's layout, and verl's MultiTurnSFTDataset). verl's
  column `tools` is not read: the task's own tools are shown to the policy, as in its rollouts.
- `prompt` and `response`, or `extra_info` with `question` and `answer` (verl's SFTDataset, and its GSM8K example).
- a rollout of our records (of a run's directory, or its older records.jsonl): its tokens are taken as they are, never
  encoded again; of a branch, what it shares with its parent carries no loss.

Left out on purpose: pictures, and earlier questions in a `history`.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appo.data.rows import SUFFIXES, BadRows, DataError, Row, hub_rows, read_rows
from appo.rollout.record_files import record_files, records_at
from appo.rollout.records import read_records

logger = logging.getLogger(__name__)

Message = dict[str, Any]
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "observation": "tool", "tool": "tool", "function_call": "assistant",
}  # fmt: skip
RECORD_COLUMNS = (
    "prompt", "completion_ids", "policy_mask", "finish_reason", "reward", "parent", "branch_position"
)  # fmt: skip
FRAMED = re.compile(r"\s*<result>(.*)</result>\s*", re.DOTALL)


@dataclass
class Trace:
    """One trace: messages, or the tokens of a rollout.

    Args:
        place: The row, for messages.
        prompt: A text (of a rollout), or the messages before the first of the assistant.
        turns: The messages from there on.
        token_ids, policy_mask: Of a rollout, as in records; None for messages.
    """

    place: str
    prompt: str | list[Message]
    turns: list[Message] = field(default_factory=list)
    token_ids: list[int] | None = None
    policy_mask: list[int] | None = None


def read_traces(sources: Iterable[str], min_reward: float | None = None) -> list[Trace]:
    """The traces of files and data sets, in their order.

    Of records, rollouts that were cut off and, with `min_reward`, those below it are left out, and logged.

    Raises:
        DataError: a ValueError, in one sentence: for a source that cannot be read, and for rows that are no trace,
            with their lines.
    """
    traces = []
    for source in sources:
        bad = BadRows(source)
        unfit = 0
        for place, row in _rows(source, bad):
            try:
                trace = (
                    _rollout(row, f"{source} {place}", min_reward) if "completion_ids" in row else _trace(row, place)
                )
            except ValueError as error:
                bad.add(place, str(error))
                continue
            except (TypeError, AttributeError, LookupError):
                bad.add(place, "its fields have the wrong types")
                continue
            unfit += trace is None
            traces += [trace] if trace else []
        bad.raise_if_any()
        if unfit:
            below = "" if min_reward is None else f" or got less than {min_reward:g}"
            logger.warning("%s: left out %d rollouts that were cut off%s.", source, unfit, below)
    if not traces:
        raise DataError(f"{', '.join(sources)}: there are no traces.")
    return traces


def trace_files(source: str) -> list[Path]:
    """The files that a source consists of; none of a data set of the hub."""
    if records_at(source) is not None:
        return record_files(source, "train")
    return [Path(source)] if Path(source).is_file() else []


def _rows(source: str, bad: BadRows) -> Iterator[tuple[str, Row]]:
    path = Path(source)
    records = records_at(path)
    # Lines may be of any layout, and are read as such.
    if records is not None and records.suffix != ".jsonl":
        found = read_records(records, columns=RECORD_COLUMNS)
        yield from ((f"record {number}", row) for number, row in enumerate(found, 1))
    elif (file := records or path).is_file() or path.suffix in SUFFIXES:
        yield from read_rows(file, bad)
    else:
        yield from hub_rows(source, [None], "train", "download it and give the path of its file")


def _rollout(row: Row, place: str, min_reward: float | None) -> Trace | None:
    ids, mask = row["completion_ids"], row.get("policy_mask")
    if not isinstance(ids, list) or not isinstance(mask, list) or len(ids) != len(mask):
        raise ValueError("completion_ids and policy_mask must be lists of one length")
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ValueError("completion_ids must be whole numbers, none below 0")
    reward = row.get("reward")
    if row.get("finish_reason") != "stop" or (min_reward is not None and (reward is None or reward < min_reward)):
        return None
    if not isinstance(row.get("prompt"), (str, list)):
        raise ValueError("its prompt is neither a text nor messages")
    if row.get("parent") is not None:
        # What a branch shares with its parent is the parent's to train on: else it would count once per branch.
        shared = row["branch_position"]
        mask = [0] * len(mask[:shared]) + mask[shared:]
    return Trace(place, row["prompt"], token_ids=ids, policy_mask=mask)


def _trace(row: Row, place: str) -> Trace:
    messages = _messages({key: value for key, value in row.items() if value is not None})
    first = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), None)
    if first is None or not any(message["role"] == "user" for message in messages[:first]):
        raise ValueError("a question and an answer to it are expected")
    turns = messages[first:]
    for message in turns:
        if message["role"] == "user" and FRAMED.fullmatch(message["content"]):
            message["role"] = "tool"
    return Trace(place, messages[:first], turns)


def _messages(row: Row) -> list[Message]:
    """The messages of a row in any of the layouts; raises ValueError in words that fit behind its place."""
    info = row.get("extra_info")
    if found := row.get("conversations") or row.get("messages"):
        found = json.loads(found) if isinstance(found, str) else found
        messages = [_message(raw) for raw in found]
    elif "instruction" in row and "output" in row:
        if row.get("history"):
            raise ValueError("its history of earlier questions is not supported")
        question = "\n".join(text for text in (row["instruction"], row.get("input")) if text)
        messages = _question_and_answer(question, row["output"])
    elif "prompt" in row and "response" in row:
        messages = _question_and_answer(row["prompt"], row["response"])
    elif isinstance(info, dict) and {"question", "answer"} <= info.keys():
        messages = _question_and_answer(info["question"], info["answer"])
    else:
        raise ValueError("it has neither conversations nor messages, instruction and output, prompt and response")
    if isinstance(system := row.get("system"), str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _question_and_answer(question: Any, answer: Any) -> list[Message]:
    asked = question if isinstance(question, list) else [{"role": "user", "content": question}]
    return [_message(raw) for raw in [*asked, {"role": "assistant", "content": answer}]]


def _message(raw: Any) -> Message:
    if not isinstance(raw, dict):
        raise ValueError("a message must be an object")
    said, content = raw.get("from") or raw.get("role"), raw.get("value", raw.get("content"))
    if said not in ROLES:
        raise ValueError(f"a message is from {said!r}, not from one of {', '.join(ROLES)}")
    calls = raw.get("tool_calls")
    if said == "function_call":
        calls, content = _read_json(content, "a function_call"), ""
        calls = calls if isinstance(calls, list) else [calls]
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(part["text"] for part in content)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"the content of a message from {said} must be a text")
    message: Message = {"role": ROLES[said], "content": content}
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    # Thoughts of their own field, which chat templates read; and what a result answers.
    for key in ("name", "reasoning_content", "tool_call_id"):
        if isinstance(raw.get(key), str) and raw[key]:
            message[key] = raw[key]
    return message


def _call(raw: Any) -> Message:
    function = raw.get("function", raw) if isinstance(raw, dict) else {}
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("a call has no name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _read_json(arguments, "the arguments of a call")
    # Parquet gives every call the arguments of all, most of them empty.
    arguments = {key: value for key, value in arguments.items() if value is not None}
    call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": raw["id"], **call} if isinstance(raw.get("id"), str) else call


def _read_json(text: Any, what: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, json.JSONDecodeError):
        raise ValueError(f"{what} is no JSON") from None
