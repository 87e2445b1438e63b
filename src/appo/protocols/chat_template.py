"""Function calling as instruct models write it: the chat template writes tools and results, TRL's parser reads calls.

A turn that plainly holds a call which TRL's parser cannot read (it would pass as an answer) is a call with an error,
so that the policy is told what is wrong. Left out on purpose: templates, which are the model's
(`tool_template.py` adds tools to one that has none).
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

from appo.engines.base import Stop
from appo.errors import UserError
from appo.protocols.call_faults import called_name, fault_of, find_mark
from appo.protocols.calls import (
    EMPTY_THOUGHT,
    MAX_CALL_CHARS,
    THOUGHT,
    ParsedCall,
    PlainText,
    ReadableText,
    decode,
    has_begun_to_answer,
    opens_thought,
)
from appo.rollout.types import Rollout
from appo.trl_seam import tool_suffix_ids


def set_up_tools(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Does to a tokenizer what TRL's `GRPOTrainer` does before it uses tools; once is enough.

    Returns:
        The chat template that prompts and results must be rendered with, or None for the tokenizer's own.

    Raises:
        ValueError: if the template has no tools, or calls in its style cannot be read.
    """
    if not supports_tool_calling(tokenizer):
        raise UserError(
            "The tokenizer's chat template does not write tool calls and results. Use the tags of the paper "
            "(tool_protocol: tags), or appo.protocols.tool_template.add_tools(tokenizer) (docs/protocols.md)."
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
) -> "ChatProtocol":
    """The protocol without a trainer. Render prompts with its `chat_template` and the same tools.

    Args:
        tokenizer: The policy's; where there are tools, TRL's response template is set on it.
        tools: The tools; with none, every turn is an answer.
        eos_token_ids: Those of the model's generation config; the tokenizer's is added.
        chat_template_kwargs: As in `GRPOConfig`.

    Raises:
        ValueError: if the chat template cannot be used for tools; the sentence says what to do.
    """
    template = set_up_tools(tokenizer) if tools else None

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


class ChatProtocol:
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

    stop = Stop()  # the end tokens are enough

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: list[Callable[..., Any]],
        suffix_ids: Callable[[list[dict[str, str]]], list[int]],
        eos_token_ids: Collection[int],
        chat_template: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.tools = tools
        self.chat_template = chat_template
        self._suffix_ids = suffix_ids
        self.eos_token_ids = frozenset(eos_token_ids)
        self._encode_plain = PlainText(tokenizer)
        template = getattr(tokenizer, "response_template", None)
        if tools and template is None:
            raise UserError("tokenizer.response_template is not set, so that calls cannot be read; set it.")
        self._reader = None if template is None else load_response_template(template)
        calls = self._reader.fields.get("tool_calls") if self._reader else None
        self._opening = calls.open_re if calls else None  # how a call begins; None: every turn is an answer
        self._tool_names = [tool.__name__ for tool in tools]
        self._text = ReadableText(tokenizer, self._tool_names)

    def should_stop(self, turn_ids: list[int]) -> bool:
        return turn_ids[-1] in self.eos_token_ids  # asked of prefixes only: the engine ends turns at these tokens

    def _spoken(self, turn_ids: list[int], context_ids: list[int]) -> str:
        """The turn's text without its closed thoughts and the token that ended it."""
        opening = "<think>" if opens_thought(self.tokenizer, context_ids) else ""
        ended = turn_ids[-1:] and turn_ids[-1] in self.eos_token_ids
        return THOUGHT.sub("", opening + decode(self.tokenizer, turn_ids[:-1] if ended else turn_ids))

    def _mark(self, spoken: str) -> int | None:
        """Where a turn begins to look like a call, to TRL's parser or else to us; None if it does not."""
        opening = None if self._opening is None else self._opening.search(spoken)
        return opening.start() if opening else find_mark(spoken, self._tool_names)

    def _message(self, turn_ids: list[int], context_ids: list[int]) -> dict[str, Any]:
        """A turn as TRL's parser reads it; as plain text where it finds nothing or cannot be asked."""
        if self._opening is None or not turn_ids:
            return self._plain(turn_ids, context_ids)
        spoken = self._spoken(turn_ids, context_ids)
        mark = self._mark(spoken)
        if mark is not None and len(spoken) - mark > MAX_CALL_CHARS:
            return self._plain(turn_ids, context_ids)  # it is not run, whatever it says
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
            return self._plain(turn_ids, context_ids)

    def _plain(self, turn_ids: list[int], context_ids: list[int]) -> dict[str, Any]:
        return {"role": "assistant", "content": self._text.begun(self._text(turn_ids), context_ids)}

    def parse_calls(self, turn_ids: list[int], context_ids: list[int]) -> list[ParsedCall]:
        if self._opening is None:
            return []
        functions = [
            call.get("function", call) for call in self._message(turn_ids, context_ids).get("tool_calls") or []
        ]
        if functions:
            return [ParsedCall(call["name"], call["arguments"], 0, len(turn_ids)) for call in functions]
        spoken = self._spoken(turn_ids, context_ids)
        mark = self._mark(spoken)
        if mark is None:
            return []
        error = f"{fault_of(spoken, mark)}. Write a call as {self._form}"
        return [ParsedCall(called_name(spoken, mark), None, 0, len(turn_ids), error)]

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

    def encode_results(self, results: list[tuple[str, str]]) -> list[int]:
        texts = [text for _, text in results]
        names = [name if name in self._tool_names else "unknown" for name, _ in results]  # some templates show them
        safe = texts
        if any(map(self._encode_plain.holds_tokens, texts)):
            # The template would turn this text into special tokens: a character that is not in it keeps them apart.
            cut = next(chr(code) for code in range(0xE000, 0xF900) if not any(chr(code) in text for text in texts))
            safe = [cut.join(self._encode_plain.cut(text)) for text in texts]
        messages = [{"role": "tool", "name": name, "content": text} for name, text in zip(names, safe, strict=True)]
        ids = self._suffix_ids(messages)
        self._encode_plain.tell_unknown(texts, ids)
        if safe is texts:
            return ids
        pieces = decode(self.tokenizer, ids).split(cut)
        if len(pieces) <= sum(text.count(cut) for text in safe):
            raise UserError("The tokenizer or its chat template changes the text of tool results.")
        return [token for ids in self.tokenizer(pieces, add_special_tokens=False)["input_ids"] for token in ids]

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
            messages.append(self._message(ids[start : calls[0].end], rollout.prompt_ids + ids[:start]))
            messages += [{"role": "tool", "name": call.name, "content": call.result} for call in calls]
            start = end
        if ids[start:] or not messages:
            messages.append(self._message(ids[start:], rollout.prompt_ids + ids[:start]))
        return messages
