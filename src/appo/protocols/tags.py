"""The paper's way of writing calls: `<name>text</name>`, answered by `<result>text</result>`, ended by
`<answer>..</answer>`. It needs nothing of the tokenizer or of the model.

Left out on purpose: calls with several arguments as tags; a tool that takes several reads one JSON object.
"""

import re
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.engines.base import Stop
from appo.errors import UserError
from appo.protocols.calls import (
    MAX_CALL_CHARS,
    THOUGHT,
    ParsedCall,
    PlainText,
    ReadableText,
    decode,
    has_begun_to_answer,
    opens_thought,
    token_at,
)
from appo.rollout.types import Rollout

NO_TOOLS = ("think", "result")  # tags with a meaning of their own, beside the answer's


class TagProtocol:
    """The paper's tags.

    Args:
        tokenizer: The policy's.
        tool_names: Tools that may be called; the closing tag of any of them ends the turn.
        result_format: How a result is written, with one `{}`.
        answer_tag: The tag that ends the rollout.

    Raises:
        UserError: where a tool has the name of a tag that is no call.
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
        if not placeholder or "{}" in after:
            raise UserError(f"result_format must hold one {{}} for the result's text, got {result_format!r}.")
        taken = {answer_tag, *NO_TOOLS, *re.findall(r"<(\w+)>", result_format)}.intersection(tool_names)
        if taken:
            raise UserError(
                f"a tool is called {min(taken)}, but <{min(taken)}> is no call in tags: it would never run; "
                "rename it, or use tool_protocol: chat_template."
            )
        self._before, self._after = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)
        )
        tags = sorted({*tool_names, answer_tag})
        names = "|".join(map(re.escape, tags))
        self._opening, self._closing = re.compile(rf"<({names})>"), re.compile(rf"</({names})>")
        self.answer_tag = answer_tag
        self.stop = Stop(strings=tuple(f"</{name}>" for name in tags))
        self._result_format = result_format
        self._tags = re.compile(rf"</?(?:{'|'.join([names, *NO_TOOLS])})>")
        self._encode_plain, self._text = PlainText(tokenizer), ReadableText(tokenizer, tags)
        self._window = max(len(f"</{name}>".encode()) for name in tags)  # no token holds less than a byte

    def should_stop(self, turn_ids: list[int]) -> bool:
        # A closing tag is no longer than the window, and earlier ones would have ended the turn before.
        return self._closing.search(decode(self.tokenizer, turn_ids[-self._window :])) is not None

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        text = decode(self.tokenizer, turn_ids)
        closing = self._closing.search(text)
        end = len(text) if closing is None else closing.start()
        opened = list(self._opening.finditer(text, self._after_thoughts(text, end, context_ids), end))
        if closing is None:
            if not opened or self.answer_tag in (tag[1] for tag in opened):
                return []
            name, first = opened[-1][1], opened[-1].start()
        elif closing[1] == self.answer_tag:
            return []
        else:
            name, first = closing[1], opened[0].start() if opened else closing.start()
        body = text[opened[0].end() : end].strip() if opened else ""
        error = self._error(name, [tag[1] for tag in opened], closing is not None, len(body))
        start = token_at(self.tokenizer, turn_ids, text, first)
        return [ParsedCall(name, None if error else body, start, len(turn_ids), error)]

    def _after_thoughts(self, text: str, end: int, context_ids: list[int]) -> int:
        """Where the thoughts of a turn end: they may speak of tags, and a program of thoughts."""
        place = 0
        if opens_thought(self.tokenizer, context_ids) and "</think>" in text[:end]:
            place = text.index("</think>") + len("</think>")
        while thought := THOUGHT.search(text, place, end):
            call = self._opening.search(text, place, end)
            if call and call.start() < thought.start():
                break
            place = thought.end()
        return place

    @staticmethod
    def _error(name: str, opened: list[str], closed: bool, length: int) -> str | None:
        """What is wrong with a call, in words for the policy; None for a good one."""
        form = f"write <{name}>...</{name}>"
        if not closed:
            return f"<{name}> was not closed; {form}"
        if not opened:
            return f"</{name}> has no <{name}> before it; {form}"
        if name not in opened:
            return f"<{opened[0]}> was closed with </{name}>; write <{opened[0]}>...</{opened[0]}>"
        if opened[0] != name:
            return f"<{name}> stands inside <{opened[0]}>, which was not closed; {form} by itself"
        if opened.count(name) > 1:
            return f"<{name}> was opened {opened.count(name)} times before </{name}>; {form} once"
        if length > MAX_CALL_CHARS:
            return f"it has {length:,} characters; at most {MAX_CALL_CHARS:,} are read"
        return None

    def encode_results(self, results: list[tuple[str, str]]) -> list[int]:
        ids = []
        for _, text in results:
            ids += [*self._before, *self._encode_plain(text), *self._after]
        return ids

    def region(self, rollout: Rollout, position: int) -> str:
        if any(call.start <= position < call.end for call in rollout.tool_calls):
            return "call"
        last = max(rollout.answered_turns(), default=0)
        context = rollout.prompt_ids + rollout.completion_ids[:last]
        text = ("<think>" if opens_thought(self.tokenizer, context) else "") + decode(
            self.tokenizer, rollout.completion_ids[last : position + 1]
        )
        return "answer" if has_begun_to_answer(text, self.answer_tag) else "think"

    def completion(self, rollout: Rollout, conversational: bool) -> Any:
        """What reward functions get, without tags in results: a page that holds an `<answer>` has not answered.

        A thought that the prompt opened is given its `<think>`.
        """
        pieces, start = [], 0
        for call in rollout.tool_calls:
            if call.answered and self._tags.search(call.result):
                pieces.append(self._text(rollout.completion_ids[start : call.result_start]))
                pieces.append(self._result_format.replace("{}", self._tags.sub("", call.result), 1))
                start = call.result_end
        text = self._text.begun("".join([*pieces, self._text(rollout.completion_ids[start:])]), rollout.prompt_ids)
        return [{"role": "assistant", "content": text}] if conversational else text
