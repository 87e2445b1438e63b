"""What a client gets: turns as the JSON of OpenAI's API, whole or piece by piece, and as vLLM's tokens.

In a stream the text comes as it is written; calls, log-probabilities and token ids come at its end, whole.
"""

import json
import time
import uuid
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.protocols.calls import decode
from appo.serve.api import ChatRequest
from appo.serve.book import WrittenTurn


def usage_of(turn: WrittenTurn) -> dict[str, int]:
    """Numbers of tokens."""
    read, written = len(turn.prompt_ids), len(turn.token_ids)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def message_of(turn: WrittenTurn) -> dict[str, Any]:
    """The message of a turn; content is null beside calls where there is none, and arguments are a text."""
    assert turn.message is not None
    message = {"role": "assistant", "content": turn.message["content"], "refusal": None}
    if "reasoning_content" in turn.message:
        message["reasoning_content"] = turn.message["reasoning_content"]
    if "tool_calls" in turn.message:
        message["content"] = message["content"] or None
        message["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {**c["function"], "arguments": _text_of(c)}}
            for c in turn.message["tool_calls"]
        ]
    return message


def _text_of(call: dict[str, Any]) -> str:
    arguments = call["function"]["arguments"]
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def logprobs_of(turn: WrittenTurn, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Log-probabilities, with the alternatives that are known; tokens by their ids where there is no tokenizer."""

    def shown(token: int, logprob: float) -> dict[str, Any]:
        if tokenizer is None:
            return {"token": f"token_id:{token}", "logprob": logprob, "bytes": None}
        text = decode(tokenizer, [token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [shown(*pair) for pair in zip(turn.token_ids, turn.logprobs, strict=True)]
    for place, one in enumerate(content):
        one["top_logprobs"] = [shown(*pair) for pair in turn.likeliest[place]] if turn.likeliest else []
    return {"content": content, "refusal": None}


class ChatAnswer:
    """The response to one chat completion.

    Args:
        request: What was asked.
        tokenizer: Shows tokens.
    """

    def __init__(self, request: ChatRequest, tokenizer: PreTrainedTokenizerBase) -> None:
        self.request, self.tokenizer = request, tokenizer
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}
        self._told = {"reasoning_content": "", "content": ""}

    def whole(self, turn: WrittenTurn) -> dict[str, Any]:
        """The body of a response that comes at once."""
        choice = {"index": 0, "message": message_of(turn), **self._end_of(turn)}
        body = {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage_of(turn)}
        return {**body, "prompt_token_ids": turn.prompt_ids} if self.request.return_token_ids else body

    def _end_of(self, turn: WrittenTurn) -> dict[str, Any]:
        end: dict[str, Any] = {"finish_reason": turn.finish_reason, "logprobs": None}
        if self.request.logprobs:
            end["logprobs"] = logprobs_of(turn, self.tokenizer)
        if self.request.return_token_ids:
            end["token_ids"] = turn.token_ids
        return end

    # ---- a stream ----

    def _chunk(self, delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **choice}]
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}

    def first(self) -> dict[str, Any]:
        """The chunk that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def more(self, thoughts: str, content: str) -> dict[str, Any] | None:
        """A chunk with what has come since the last one; None where nothing has."""
        delta = {}
        for name, text in (("reasoning_content", thoughts), ("content", content)):
            if len(text) > len(self._told[name]) and text.startswith(self._told[name]):
                delta[name] = text[len(self._told[name]) :]
                self._told[name] = text
        return self._chunk(delta) if delta else None

    def last(self, turn: WrittenTurn) -> list[dict[str, Any]]:
        """The chunks that end a stream: the rest of the text, the calls, why it ended, numbers of tokens."""
        message = message_of(turn)
        rest = self.more(message.get("reasoning_content", ""), message["content"] or "")
        chunks = [rest] if rest else []
        if calls := message.get("tool_calls"):
            chunks.append(self._chunk({"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}))
        chunks.append(self._chunk({}, **self._end_of(turn)))
        if self.request.return_token_ids:
            chunks[-1]["prompt_token_ids"] = turn.prompt_ids
        if self.request.stream_options and self.request.stream_options.include_usage:
            chunks.append({**self._chunk({}), "choices": [], "usage": usage_of(turn)})
        return chunks


def generated(turn: WrittenTurn, model: str, request_id: str | None, with_logprobs: bool) -> dict[str, Any]:
    """The body that vLLM's `POST /inference/v1/generate` has."""
    name = request_id or f"generate-tokens-{uuid.uuid4().hex}"
    choice = {
        "index": 0,
        "token_ids": turn.token_ids,
        "finish_reason": turn.finish_reason,
        "logprobs": logprobs_of(turn, None) if with_logprobs else None,
    }
    return {
        "id": name, "request_id": name, "created": int(time.time()), "model": model, "choices": [choice],
        "usage": usage_of(turn), "prompt_logprobs": None, "kv_transfer_params": None,
    }  # fmt: skip
