"""Conversations by the tokenizer's chat template, calls as instruct models write them (`appo.protocols.ChatProtocol`).

What follows a turn that called tools is written as in training (`encode_results`). What follows another one is what
the template writes behind it; that is looked up where the template writes the conversation up to the turn in the same
way with and without what follows. Where it does not (Qwen3 leaves out old thoughts once the user speaks again), the
conversation is written anew.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.errors import UserError
from appo.protocols.chat_template import chat_protocol_for
from appo.serve.book import WrittenTurn
from appo.serve.dialect import PLACEHOLDER, Dialect, Message
from appo.tools.schema_tool import SchemaTool

MARKED = re.compile("\ue000([0-9]+)\ue001")  # characters that no text has


class TemplateDialect(Dialect):
    """
    Args:
        tokenizer: The policy's; it gets TRL's response template where there are tools.
        tools: That the client has; the template tells of them.
        reads_calls: Whether calls in turns are read.
        eos_token_ids: Tokens that end a turn.
        chat_template_kwargs: What the template is given besides.
        add_tools: Whether tools are added to a template that has none.

    Raises:
        UserError: for no template, and for one that cannot call tools.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: Sequence[SchemaTool],
        reads_calls: bool,
        eos_token_ids: frozenset[int],
        chat_template_kwargs: dict[str, Any] | None = None,
        add_tools: bool = False,
    ) -> None:
        super().__init__(tokenizer, tools, reads_calls, eos_token_ids)
        if tokenizer.chat_template is None:
            raise UserError(
                "the model has no chat template, by which messages become tokens; give its tokenizer one "
                "(tokenizer.chat_template), or train with tool_protocol: tags, which answers one question."
            )
        self._kwargs = chat_template_kwargs or {}
        self.protocol = chat_protocol_for(tokenizer, tools, eos_token_ids, self._kwargs, add_tools)
        self._closing = self._find_closing()

    def _render(self, messages: list[Message], to_be_continued: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages,
            tools=self.tools or None,
            chat_template=self.protocol.chat_template,
            add_generation_prompt=to_be_continued,
            tokenize=False,
            **self._kwargs,
        )

    def _find_closing(self) -> str | None:
        """What the template writes behind an assistant's text; None where it changes the text."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PLACEHOLDER}]
        _, found, closing = self._render(messages, False).rpartition(PLACEHOLDER)
        return closing if found else None

    def prompt(self, messages: list[Message], sampled: Mapping[int, WrittenTurn]) -> list[int]:
        found = self._with_sampled(messages, sampled)
        return self._encoded(messages, lambda given: self._render(given, True)) if found is None else found

    def _with_sampled(self, messages: list[Message], sampled: Mapping[int, WrittenTurn]) -> list[int] | None:
        """The conversation with sampled tokens in the place of messages; None where that cannot be done.

        A message with thoughts is left as the template writes it, which may leave them out.
        """
        places = [place for place in sampled if not messages[place].get("reasoning_content")]
        results = [message["content"] for message in messages if message["role"] == "tool"]
        if not places or any(map(self.plain.holds_tokens, results)):
            return None
        marked = [{**m, "content": f"\ue000{i}\ue001"} if i in places else m for i, m in enumerate(messages)]
        first, *others = MARKED.split(self._render(marked, True))
        if [int(place) for place in others[::2]] != sorted(places):
            return None  # the template leaves texts out
        ids = self.encode(first)
        for place, text in zip(map(int, others[::2]), others[1::2], strict=True):
            if messages[place].get("tool_calls"):  # they are among the sampled tokens
                end = text.find((self._closing or "").strip() or "\ue002")
                if end < 0:
                    return None
                text = text[end:]
            ids += sampled[place].token_ids + self.encode(self.after_end(text, sampled[place]))
        return ids

    def continuation(self, messages: list[Message], place: int, turn: WrittenTurn) -> list[int] | None:
        added = messages[place + 1 :]
        if self.tools and added and all(message["role"] == "tool" for message in added):
            return self.protocol.encode_results(results_of(messages, place + 1))
        closing, before = self._closing, self._render(messages[: place + 1], False)
        if closing is None or not before.endswith(closing) or not self._render(messages, True).startswith(before):
            return None
        begin = len(before) - len(closing)
        return self._encoded(messages, lambda given: self.after_end(self._render(given, True)[begin:], turn), place)

    def _encoded(self, messages: list[Message], render: Any, place: int = -1) -> list[int]:
        """What `render` makes of a conversation, in which the text of special tokens in results of tools behind
        `place` stays text."""
        places = [i for i, message in enumerate(messages) if message["role"] == "tool" and i > place]
        texts = [messages[i]["content"] for i in places]

        def ids(given: list[str]) -> list[int]:
            told = dict(zip(places, given, strict=True))
            return self.encode(render([{**m, "content": told.get(i, m["content"])} for i, m in enumerate(messages)]))

        return self.plain.rendered(texts, ids)

    def parsed(self, turn_ids: list[int], context_ids: list[int]) -> Message | None:
        found = self.protocol.message(turn_ids, context_ids)
        if not found.get("tool_calls"):
            return None
        functions = [call.get("function", call) for call in found["tool_calls"]]
        calls = [
            {"type": "function", "function": {"name": one["name"], "arguments": one["arguments"]}} for one in functions
        ]
        message: Message = {"role": "assistant", "content": found.get("content") or "", "tool_calls": calls}
        if found.get("reasoning_content"):
            message["reasoning_content"] = found["reasoning_content"]
        return message

    def mark(self, content: str) -> int | None:
        return self.protocol.mark(content)


def results_of(messages: list[Message], start: int) -> list[tuple[str, str]]:
    """The (name, text) results that follow each other from `start` on; a name is looked up in the call."""
    names = {
        call.get("id"): call["function"]["name"]
        for message in messages[:start]
        for call in message.get("tool_calls") or ()
    }
    results = []
    for message in messages[start:]:
        if message["role"] != "tool":
            break
        name = message.get("name") or names.get(message.get("tool_call_id")) or "unknown"
        results.append((name, message["content"]))
    return results
