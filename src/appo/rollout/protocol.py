"""How calls are written and read.

`TagProtocol` is the paper's: `<name>text</name>`, answered by `<result>text</result>`, ended by `<answer>..</answer>`.
`ChatProtocol` is that of instruct models: the chat template writes tools and results, TRL's parser reads the calls.
Both read sampled ids by decoding them, never encode them again, and encode results only. The text of a special token
inside a result becomes plain text, not the token.

Left out on purpose: running tools (`tools/runner.py`).
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import parse_response

from appo.rollout.types import Rollout


@dataclass
class ParsedCall:
    """A call as written. `start` and `end` count tokens from the start of the turn."""

    name: str
    arguments: Any
    start: int
    end: int


class ToolProtocol(Protocol):
    """What the agent loop needs to know of a way of writing calls."""

    stop_candidates: frozenset[int]

    def should_stop(self, turn_ids: list[int]) -> bool:
        """Whether the turn ends with the token just written (one of `stop_candidates`)."""

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        """The calls of a turn; none for a final answer. `context_ids` is what precedes the turn."""

    def encode_results(self, results: list[tuple[str, str]]) -> list[int]:
        """Token ids of `(name, text)` results, up to where the policy writes on."""

    def region(self, rollout: Rollout, position: int) -> str:
        """Whether a token is part of a call ("call"), of the answer ("answer") or of neither ("think")."""

    def completion(self, rollout: Rollout, conversational: bool) -> Any:
        """The completion as TRL's reward functions get it: a string, or messages for conversational prompts."""


class PlainText:
    """Encodes text in which the text of special and added tokens is text.

    Such text is cut behind its first character, and the pieces are encoded apart. (`split_special_tokens` would leave
    out tokens that were added without being special, such as `<tool_call>` in many models.)
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        self.tokens = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")

    def __call__(self, text: str) -> list[int]:
        cuts = [match.start() + 1 for match in self.tokens.finditer(text) if len(match[0]) > 1]
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return [token for ids in self.tokenizer(pieces, add_special_tokens=False)["input_ids"] for token in ids]


def closing_tokens(tokenizer: PreTrainedTokenizerBase, tags: Collection[str]) -> frozenset[int]:
    """Tokens that may complete one of the tags: what they hold up to a `>` is the tag's end, or ends with the tag."""
    found = set()
    for token, index in tokenizer.get_vocab().items():
        parts = [token[: match.end()] for match in re.finditer(">", token)]
        if any(tag.endswith(part) or part.endswith(tag) for tag in tags for part in parts):
            found.add(index)
    return frozenset(found)


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Text of sampled ids, special tokens included; straight from the Rust tokenizer where there is one, as this is
    called at every candidate for a stop."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return tokenizer.decode(ids) if backend is None else backend.decode(ids, skip_special_tokens=False)


def token_at(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str, offset: int) -> int:
    """Index of the token that completes character `offset` of `text`, the decoded `ids`; by bisection.

    Prefixes are compared and not measured: one that ends inside a character decodes to other text of any length.
    """
    wanted = text[: offset + 1]
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if decode(tokenizer, ids[: middle + 1]).startswith(wanted):
            high = middle
        else:
            low = middle + 1
    return low


class TagProtocol:
    """The paper's tags.

    Args:
        tokenizer: The policy's.
        tool_names: Tools that may be called; the closing tag of any of them ends the turn.
        result_format: How a result is written, with one `{}`.
        answer_tag: The tag that ends the rollout.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tool_names: Collection[str],
        result_format: str = "\n<result>\n{}\n</result>\n",
        answer_tag: str = "answer",
    ) -> None:
        self.tokenizer = tokenizer
        before, placeholder, after = result_format.partition("{}")
        if not placeholder:
            raise ValueError(f"result_format must hold one {{}} for the result's text, got {result_format!r}.")
        self._before, self._after = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)
        )
        names = "|".join(re.escape(name) for name in sorted({*tool_names, answer_tag}))
        self._closing = re.compile(rf"</({names})>")
        self.answer_tag = answer_tag
        self.stop_candidates = closing_tokens(tokenizer, [f"</{name}>" for name in {*tool_names, answer_tag}])
        self._encode_plain = PlainText(tokenizer)
        self._window = 2 * max(len(name) for name in (*tool_names, answer_tag)) + 8

    def should_stop(self, turn_ids: list[int]) -> bool:
        # A closing tag is shorter than the window, and earlier ones would have ended the turn before.
        return self._closing.search(decode(self.tokenizer, turn_ids[-self._window :])) is not None

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        text = decode(self.tokenizer, turn_ids)
        closing = self._closing.search(text)
        if closing is None or closing[1] == self.answer_tag:
            return []
        opening = text.rfind(f"<{closing[1]}>", 0, closing.start())
        if opening < 0:
            # Kept as a call, so that the policy is told what is wrong instead of being cut off.
            start = token_at(self.tokenizer, turn_ids, text, closing.start())
            return [ParsedCall(closing[1], None, start, len(turn_ids))]
        body = text[opening + len(closing[1]) + 2 : closing.start()].strip()
        return [ParsedCall(closing[1], body, token_at(self.tokenizer, turn_ids, text, opening), len(turn_ids))]

    def encode_results(self, results: list[tuple[str, str]]) -> list[int]:
        ids = []
        for _, text in results:
            ids += [*self._before, *self._encode_plain(text), *self._after]
        return ids

    def region(self, rollout: Rollout, position: int) -> str:
        if any(call.start <= position < call.end for call in rollout.tool_calls):
            return "call"
        last = max(rollout.answered_turns(), default=0)
        answering = position >= last and f"<{self.answer_tag}>" in self.tokenizer.decode(
            rollout.completion_ids[last : position + 1]
        )
        return "answer" if answering else "think"

    def completion(self, rollout: Rollout, conversational: bool) -> Any:
        text = self.tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)
        return [{"role": "assistant", "content": text}] if conversational else text


class ChatProtocol:
    """Function calling as the tokenizer's chat template writes it and TRL's `parse_response` reads it.

    Args:
        tokenizer: The policy's, with `response_template` or `response_schema` where tools are used (TRL sets it).
        tools: The tools, as `apply_chat_template` takes them.
        suffix_ids: TRL's `GRPOTrainer._get_tool_suffix_ids`: tool messages -> token ids after the assistant's turn.
        eos_token_ids: Tokens that end a turn.
    """

    stop_candidates: frozenset[int] = frozenset()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: list[Callable[..., Any]],
        suffix_ids: Callable[[list[dict[str, str]]], list[int]],
        eos_token_ids: Collection[int],
    ) -> None:
        self.tokenizer = tokenizer
        self.tools = tools
        self._suffix_ids = suffix_ids
        self.eos_token_ids = frozenset(eos_token_ids)
        self._encode_plain = PlainText(tokenizer)

    def should_stop(self, turn_ids: list[int]) -> bool:
        return turn_ids[-1] in self.eos_token_ids  # asked of prefixes only: the engine ends turns at these tokens

    def _message(self, turn_ids: list[int], context_ids: list[int]) -> dict[str, Any]:
        readable = any(getattr(self.tokenizer, name, None) for name in ("response_template", "response_schema"))
        if not readable or not turn_ids:
            content = self.tokenizer.decode(turn_ids, skip_special_tokens=True)
            return {"role": "assistant", "content": content}
        try:
            return parse_response(self.tokenizer, turn_ids, prefix=context_ids, tools=self.tools)
        except RecursionError:  # thousands of nested brackets: a text like any other
            return {"role": "assistant", "content": self.tokenizer.decode(turn_ids, skip_special_tokens=True)}

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        calls = []
        for call in self._message(turn_ids, context_ids).get("tool_calls") or []:
            function = call.get("function") or {}
            calls.append(ParsedCall(str(function.get("name")), function.get("arguments"), 0, len(turn_ids)))
        return calls

    def encode_results(self, results: list[tuple[str, str]]) -> list[int]:
        texts = [text for _, text in results]
        if not any(self._encode_plain.tokens.search(text) for text in texts):
            return self._suffix_ids([{"role": "tool", "name": name, "content": text} for name, text in results])
        # The template would turn this text into special tokens: marks stand in for the results while it is rendered.
        marks = [f"@@result-{index}@@" for index in range(len(results))]
        marked = [
            {"role": "tool", "name": name, "content": mark} for (name, _), mark in zip(results, marks, strict=True)
        ]
        frame = self.tokenizer.decode(self._suffix_ids(marked), clean_up_tokenization_spaces=False)
        ids = []
        for mark, text in zip(marks, texts, strict=True):
            before, _, frame = frame.partition(mark)
            ids += self.tokenizer(before, add_special_tokens=False)["input_ids"] + self._encode_plain(text)
        return ids + self.tokenizer(frame, add_special_tokens=False)["input_ids"]

    def region(self, rollout: Rollout, position: int) -> str:
        start = max((end for end in rollout.answered_turns() if end <= position), default=0)
        before = self.tokenizer.decode(rollout.completion_ids[start:position])
        if before.rfind("<think>") > before.rfind("</think>"):
            return "think"
        return "call" if any(call.start <= position < call.end for call in rollout.tool_calls) else "answer"

    def completion(self, rollout: Rollout, conversational: bool) -> Any:
        if not conversational:
            return self.tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)
        messages, start = [], 0
        ids = rollout.completion_ids
        for end in rollout.answered_turns():
            calls = [call for call in rollout.tool_calls if call.result_end == end]
            messages.append(self._message(ids[start : calls[0].end], rollout.prompt_ids + ids[:start]))
            messages += [{"role": "tool", "name": call.name, "content": call.result} for call in calls]
            start = end
        if ids[start:] or not messages:
            messages.append(self._message(ids[start:], rollout.prompt_ids + ids[:start]))
        return messages
