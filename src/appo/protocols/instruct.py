"""What ways of function calling share in which instruct models write: turns end at end tokens, and the chat template
writes results.

A turn that plainly holds a call which cannot be read (it would pass as an answer) is a call with an error, so that the
policy is told what is wrong. A subclass says how a turn is read (`message`). Left out on purpose: who reads it
(`chat_template.py`: TRL), so that another trainer's parser can do so.
"""

import abc
from collections.abc import Callable, Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.engines.base import Stop
from appo.protocols.call_faults import called_name, fault_of, find_mark
from appo.protocols.calls import (
    THOUGHT,
    ParsedCall,
    PlainText,
    ReadableText,
    decode,
    has_begun_to_answer,
    opens_thought,
)
from appo.rollout.types import Rollout


class InstructProtocol(abc.ABC):
    """
    Args:
        tokenizer: The policy's.
        tool_names: The tools that may be called.
        suffix_ids: Tool messages -> token ids after the assistant's turn.
        eos_token_ids: Tokens that end a turn.
    """

    stop = Stop()  # the end tokens are enough

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tool_names: list[str],
        suffix_ids: Callable[[list[dict[str, str]]], list[int]],
        eos_token_ids: Collection[int],
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)
        self._tool_names, self._suffix_ids = tool_names, suffix_ids
        self._encode_plain = PlainText(tokenizer)
        self._text = ReadableText(tokenizer, tool_names)

    @abc.abstractmethod
    def message(self, turn_ids: list[int], context_ids: list[int]) -> dict[str, Any]:
        """A turn as a message, with `tool_calls` where calls can be read; as plain text else."""

    @property
    def hint(self) -> str:
        """What the policy is told besides where it wrote a call that cannot be read."""
        return ""

    def should_stop(self, turn_ids: list[int]) -> bool:
        # Asked of prefixes only: the engine ends turns at these tokens.
        return turn_ids[-1] in self.eos_token_ids or turn_ids[-1] in self.stop.token_ids

    def spoken(self, turn_ids: list[int], context_ids: list[int]) -> str:
        """The turn's text without its closed thoughts and the token that ended it."""
        opening = "<think>" if opens_thought(self.tokenizer, context_ids) else ""
        ended = turn_ids[-1:] and turn_ids[-1] in self.eos_token_ids
        return THOUGHT.sub("", opening + decode(self.tokenizer, turn_ids[:-1] if ended else turn_ids))

    def mark(self, spoken: str) -> int | None:
        """Where a turn begins to look like a call; None if it does not."""
        return find_mark(spoken, self._tool_names)

    def plain(self, turn_ids: list[int], context_ids: list[int]) -> dict[str, Any]:
        """A turn as a message that is text alone."""
        return {"role": "assistant", "content": self._text.begun(self._text(turn_ids), context_ids)}

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        functions = [
            call.get("function", call) for call in self.message(turn_ids, context_ids).get("tool_calls") or []
        ]
        if functions:
            return [ParsedCall(call["name"], call["arguments"], 0, len(turn_ids)) for call in functions]
        spoken = self.spoken(turn_ids, context_ids)
        mark = self.mark(spoken)
        if mark is None:
            return []
        return [ParsedCall(called_name(spoken, mark), None, 0, len(turn_ids), fault_of(spoken, mark) + self.hint)]

    def encode_results(self, results: list[tuple[str, str]]) -> list[int]:
        names = [name if name in self._tool_names else "unknown" for name, _ in results]  # some templates show them

        def render(texts: list[str]) -> list[int]:
            return self._suffix_ids(
                [{"role": "tool", "name": name, "content": text} for name, text in zip(names, texts, strict=True)]
            )

        return self._encode_plain.rendered([text for _, text in results], render)

    def region(self, rollout: Rollout, position: int) -> str:
        start = max((end for end in rollout.answered_turns() if end <= position), default=0)
        context = rollout.prompt_ids + rollout.completion_ids[:start]
        opening = "<think>" if opens_thought(self.tokenizer, context) else ""
        before, up_to = (
            opening + self.tokenizer.decode(rollout.completion_ids[start:end]) for end in (position, position + 1)
        )
        if before.rfind("<think>") > before.rfind("</think>"):
            return "think"
        if any(call.start <= position < call.end for call in rollout.tool_calls):
            return "call"
        return "answer" if has_begun_to_answer(up_to) else "think"

    def completion(self, rollout: Rollout, conversational: bool) -> Any:
        if not conversational:
            return self._text.begun(self._text(rollout.completion_ids), rollout.prompt_ids)
        messages, start = [], 0
        ids = rollout.completion_ids
        for end in rollout.answered_turns():
            calls = [call for call in rollout.tool_calls if call.result_end == end]
            messages.append(self.message(ids[start : calls[0].end], rollout.prompt_ids + ids[:start]))
            messages += [{"role": "tool", "name": call.name, "content": call.result} for call in calls]
            start = end
        if ids[start:] or not messages:
            messages.append(self.message(ids[start:], rollout.prompt_ids + ids[:start]))
        return messages
