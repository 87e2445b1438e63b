"""`Dialect`: how a conversation becomes token ids, and what was sampled a message, for one set of tools.

    prompt          a whole conversation, as text that is encoded
    continuation    what follows a turn in a conversation that goes on from it; the turn's own ids stay as sampled
    message         a turn as the client gets it: content, thoughts and calls apart
    begun           as much of that as is certain while the turn is being written

`TemplateDialect` and `TagDialect` are the two ways of writing calls that the package has (`appo.protocols`). Messages
are dicts as a chat template takes them, arguments of calls as mappings.

Left out on purpose: running calls, which is the client's; calls that cannot be read stay text.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.engines.base import Stop
from appo.protocols.calls import PlainText, ReadableText, decode
from appo.serve.book import WrittenTurn
from appo.tools.schema_tool import SchemaTool

Message = dict[str, Any]

UNSURE = 48  # last characters that are held back where a call may begin in them
OPENERS = "<{["  # how calls and tags begin
UNFINISHED = "\ufffd"  # ends the text of tokens of which the last one ends inside a character
THINK, THOUGHT = "<think>", "</think>"
PLACEHOLDER = "what the assistant says"


class Dialect(abc.ABC):
    """
    Args:
        tokenizer: The policy's.
        tools: That the client has.
        reads_calls: Whether calls in turns are read.
        eos_token_ids: Tokens that end a turn.
        names: Of tags that are shown though they may be special tokens.

    Attributes:
        stop: What ends a turn besides the end tokens.
    """

    stop = Stop()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: Sequence[SchemaTool],
        reads_calls: bool,
        eos_token_ids: frozenset[int],
        names: Sequence[str] = (),
    ) -> None:
        self.tokenizer, self.tools, self.eos_token_ids = tokenizer, list(tools), eos_token_ids
        self.reads_calls = reads_calls and bool(tools)
        self.readable, self.plain = ReadableText(tokenizer, names), PlainText(tokenizer)

    @abc.abstractmethod
    def prompt(self, messages: list[Message], sampled: Mapping[int, WrittenTurn]) -> list[int]:
        """Token ids of a conversation, up to where the policy writes.

        Args:
            sampled: Turns that were told as the messages at these places: their tokens stand there.
        """

    @abc.abstractmethod
    def continuation(self, messages: list[Message], place: int, turn: WrittenTurn) -> list[int] | None:
        """What follows a turn.

        Args:
            messages: A conversation in which `messages[place]` is what the client was told of the turn.

        Returns:
            Token ids, up to where the policy writes; None where the template now writes what is before them otherwise.
        """

    @abc.abstractmethod
    def parsed(self, turn_ids: list[int], context_ids: list[int]) -> Message | None:
        """A turn that holds calls: `content`, `tool_calls` with arguments as mappings or text, and
        `reasoning_content`; None for one without."""

    @abc.abstractmethod
    def mark(self, content: str) -> int | None:
        """Where content that is still being written begins to look like a call."""

    # ---- what both have in common ----

    def message(self, turn_ids: list[int], context_ids: list[int], cut_off: bool = False) -> Message:
        """A turn as a message; one that was cut off by its bound has no calls.

        Args:
            turn_ids: As sampled.
            context_ids: What precedes it, or the end of that.
        """
        found = self.parsed(turn_ids, context_ids) if self.reads_calls and not cut_off else None
        if found is not None:
            return {**found, "content": found["content"].strip()}
        thoughts, content, _ = split_thoughts(self._text(turn_ids, context_ids))
        return message_of(thoughts.strip(), content.strip() if self.reads_calls else content)

    def begun(self, turn_ids: list[int], context_ids: list[int]) -> tuple[str, str]:
        """Thoughts and content of a turn that is being written, as far as they will not change any more."""
        text = self._text(turn_ids, context_ids)
        if text.endswith(UNFINISHED):
            text = text.rstrip(UNFINISHED)
        if THINK.startswith(text.lstrip()):
            return "", ""
        thoughts, content, closed = split_thoughts(text)
        if not closed:
            thoughts = _without_beginning(thoughts, THOUGHT)
        if self.reads_calls:
            mark = self.mark(content)
            content = content[: len(content) if mark is None else mark]
            tail = max(0, len(content) - UNSURE)
            unsure = [place for opener in OPENERS if (place := content.find(opener, tail)) >= 0]
            content = content[: min(unsure, default=len(content))].strip()
        return thoughts.strip(), content

    def _text(self, turn_ids: list[int], context_ids: list[int]) -> str:
        return self.readable.begun(self.readable(turn_ids), context_ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which those of special tokens are these."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def after_end(self, closing: str, turn: WrittenTurn) -> str:
        """What a template writes after an assistant's text, without the end token that the turn has written itself."""
        if turn.reason == "eos":
            ends = [turn.token_ids[-1], *self.eos_token_ids]
            for end in (decode(self.tokenizer, [index]) for index in ends):
                if end and closing.startswith(end):
                    return closing[len(end) :]
        return closing


def message_of(thoughts: str, content: str, calls: list[Any] | None = None) -> Message:
    """An assistant's message; what it has not is left out, but for the content."""
    message: Message = {"role": "assistant", "content": content}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = calls
    return message


def split_thoughts(text: str) -> tuple[str, str, bool]:
    """The thoughts that a turn begins with, what follows them, and whether they are closed (or there are none)."""
    if not text.lstrip().startswith(THINK):
        return "", text, True
    thoughts, closed, rest = text.lstrip()[len(THINK) :].partition(THOUGHT)
    return thoughts, rest.lstrip(), bool(closed)


def _without_beginning(text: str, ending: str) -> str:
    """A text without what may be the first characters of `ending`."""
    for length in range(len(ending) - 1, 0, -1):
        if text.endswith(ending[:length]):
            return text[:-length]
    return text
