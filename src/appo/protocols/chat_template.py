"""Function calling as instruct models write it: the chat template writes tools and results, TRL's parser reads calls.

Left out on purpose: templates, which are the model's (`tool_template.py` adds tools to one that has none), and what
does not depend on who reads a turn (`instruct.py`).
"""

import functools
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_parsing.response_templates import load_response_template
from trl.chat_template_utils import (
    add_response_schema,
    get_training_chat_template,
    is_chat_template_prefix_preserving,
    parse_response,
    supports_tool_calling,
)

from appo.errors import UserError
from appo.protocols.calls import EMPTY_THOUGHT, MAX_CALL_CHARS, ParsedCall, decode
from appo.protocols.instruct import InstructProtocol
from appo.protocols.tool_template import add_tools
from appo.trl_seam import tool_suffix_ids


def set_up_tools(tokenizer: PreTrainedTokenizerBase, add: bool = False) -> str | None:
    """Does to a tokenizer what TRL's `GRPOTrainer` does before it uses tools; once is enough.

    Args:
        tokenizer: Its response template is set.
        add: Whether tools are added to a chat template that has none (`add_tools` in `APPOConfig`).

    Returns:
        The chat template that prompts and results must be rendered with, or None for the tokenizer's own.

    Raises:
        ValueError: if the template has no tools, or calls in its style cannot be read.
    """
    if not supports_tool_calling(tokenizer):
        if not add:
            raise UserError(
                "The tokenizer's chat template does not write tool calls and results. Set add_tools: true, which adds "
                "them to it, or use the tags of the paper (tool_protocol: tags); docs/protocols.md."
            )
        add_tools(tokenizer)
        if not supports_tool_calling(tokenizer):
            raise UserError(
                "add_tools = True, but the tokenizer's chat template does not write the messages that tools need: a "
                "system message, two of the user's in a row. Use the tags of the paper (tool_protocol: tags)."
            )
    try:
        if getattr(tokenizer, "response_template", None) is None:
            add_response_schema(tokenizer)
        return None if is_chat_template_prefix_preserving(tokenizer) else get_training_chat_template(tokenizer)
    except ValueError as error:
        raise UserError(
            "TRL does not know how calls are written in the tokenizer's chat template. Use the tags of the paper "
            "(tool_protocol: tags), or set tokenizer.response_template (docs/protocols.md)."
        ) from error


def chat_protocol_for(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Callable[..., Any]],
    eos_token_ids: Collection[int] = (),
    chat_template_kwargs: dict[str, Any] | None = None,
    add_tools: bool = False,
) -> "ChatProtocol":
    """The protocol without a trainer. Render prompts with its `chat_template` and the same tools.

    Args:
        tokenizer: The policy's; where there are tools, TRL's response template is set on it.
        tools: The tools; with none, every turn is an answer.
        eos_token_ids: Those of the model's generation config; the tokenizer's is added.
        chat_template_kwargs: As in `GRPOConfig`.
        add_tools: As in `APPOConfig`.

    Raises:
        ValueError: if the chat template cannot be used for tools; the sentence says what to do.
    """
    template = set_up_tools(tokenizer, add_tools) if tools else None

    def suffix_ids(messages: list[dict[str, str]]) -> list[int]:
        return tool_suffix_ids(tokenizer, template, chat_template_kwargs or {}, messages)

    eos = {*eos_token_ids, tokenizer.eos_token_id}
    return ChatProtocol(tokenizer, list(tools), suffix_ids, eos, chat_template=template)


def _read_arguments(arguments: Any) -> Any:
    """Arguments as a text that holds a JSON object, as OpenAI's interface has them, are that object; others stay."""
    if not isinstance(arguments, str):
        return arguments
    try:
        read = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return read if isinstance(read, dict) else arguments


class ChatProtocol(InstructProtocol):
    """Function calling as the tokenizer's chat template writes it and TRL's `parse_response` reads it.

    Args:
        tokenizer: The policy's, with a `response_template` where there are tools (TRL sets it).
        tools: The tools, as `apply_chat_template` takes them.
        suffix_ids: As `tool_suffix_ids` of `trl_seam.py`: tool messages -> token ids after the assistant's turn.
        eos_token_ids: Tokens that end a turn.
        chat_template: What prompts are rendered with; None: the tokenizer's.

    Raises:
        ValueError: if there are tools and nothing says how their calls are read.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: list[Callable[..., Any]],
        suffix_ids: Callable[[list[dict[str, str]]], list[int]],
        eos_token_ids: Collection[int],
        chat_template: str | None = None,
    ) -> None:
        super().__init__(tokenizer, [tool.__name__ for tool in tools], suffix_ids, eos_token_ids)
        self.tools = tools
        self.chat_template = chat_template
        template = getattr(tokenizer, "response_template", None)
        if tools and template is None:
            raise UserError("tokenizer.response_template is not set, so that calls cannot be read; set it.")
        self._reader = None if template is None else load_response_template(template)
        calls = self._reader.fields.get("tool_calls") if self._reader else None
        self._opening = calls.open_re if calls else None  # how a call begins; None: every turn is an answer

    def mark(self, spoken: str) -> int | None:
        """Where a turn begins to look like a call, to TRL's parser or else to us; None if it does not."""
        opening = None if self._opening is None else self._opening.search(spoken)
        return opening.start() if opening else super().mark(spoken)

    def message(self, turn_ids: list[int], context_ids: list[int]) -> dict[str, Any]:
        """A turn as TRL's parser reads it; as plain text where it finds nothing or cannot be asked."""
        if self._opening is None or not turn_ids:
            return self.plain(turn_ids, context_ids)
        spoken = self.spoken(turn_ids, context_ids)
        mark = self.mark(spoken)
        if mark is not None and len(spoken) - mark > MAX_CALL_CHARS:
            return self.plain(turn_ids, context_ids)  # it is not run, whatever it says
        # The parser looks for the beginning of the turn only, which the template writes last.
        prefix = decode(self.tokenizer, context_ids[-64:])
        message = self._parse(turn_ids, context_ids, prefix)
        if not message.get("tool_calls") and turn_ids[-1] in self.eos_token_ids:
            # The parser knows one of the tokens that may end a turn, and some templates no space before it.
            end = len(turn_ids) - 1
            while end and decode(self.tokenizer, turn_ids[end - 1 : end]).isspace():
                end -= 1
            usual = [*turn_ids[:end], self.tokenizer.eos_token_id]
            if usual != turn_ids:
                message = self._parse(usual, context_ids, prefix)
        return message

    def _parse(self, turn_ids: list[int], context_ids: list[int], prefix: str) -> dict[str, Any]:
        try:
            message = parse_response(self.tokenizer, turn_ids, prefix=prefix, tools=self.tools)
            for call in message.get("tool_calls") or []:
                function = call.get("function", call)
                function["arguments"] = _read_arguments(function["arguments"])
            # The parser leaves out an empty thought, with which a policy begins that is not to think.
            if EMPTY_THOUGHT.match(self._text.begun(self._text(turn_ids), context_ids)):
                message.setdefault("reasoning_content", "")
            # JSON may escape half a character ("\\ud800"), which no tokenizer and no file takes.
            return json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
        except (RecursionError, KeyError):  # thousands of nested brackets; a call in a list that has no name
            return self.plain(turn_ids, context_ids)

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        return [] if self._opening is None else super().parse_calls(turn_ids, context_ids)

    @property
    def hint(self) -> str:
        return f". Write a call as {self._form}"

    @functools.cached_property
    def _form(self) -> str:
        """How the template writes a call."""
        function = {"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}
        call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}, call], tokenize=False, chat_template=self.chat_template
        )
        assert self._reader is not None
        turn = self._reader.truncate_past_last_anchor(text).rpartition("</think>")[2]
        return turn.partition(self.tokenizer.eos_token)[0].strip()
