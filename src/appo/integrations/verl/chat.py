"""Function calling as chat templates write it, read by verl's parser of calls (`rollout.multi_turn.format`).

Results are rendered by verl's own builder of tokens, so that a turn behind a result looks as in verl's tool agent.

Left out on purpose: models whose builder changes tokens that were sampled (sampled tokens are kept as they are), and
verl's tool classes.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import get_json_schema
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from appo.engines.base import Stop
from appo.errors import UserError
from appo.protocols.calls import MAX_CALL_CHARS
from appo.protocols.instruct import InstructProtocol


class VerlChatProtocol(InstructProtocol):
    """
    Args:
        tokenizer: The policy's, with a chat template.
        tools: Typed, documented functions by name.
        parser: verl's name of a parser, such as "hermes".
        model_type: The model's, by which verl knows how its template joins turns; None: the common way.
        template_kwargs: What the template gets besides.
        eos_token_ids: Tokens that end a turn; the tokenizer's is added.

    Raises:
        UserError: for a parser that verl does not have, and a template that cannot write results.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: Mapping[str, Callable[..., Any]],
        parser: str,
        model_type: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        eos_token_ids: Collection[int] = (),
    ) -> None:
        super().__init__(tokenizer, list(tools), self._suffix, {*eos_token_ids, tokenizer.eos_token_id})
        self.schemas = [get_json_schema(tool) for tool in tools.values()]
        self._builder = create_continuous_token_builder(
            tokenizer, hf_model_type=model_type, chat_template_kwargs=template_kwargs or {}
        )
        self._verl_schemas = [OpenAIFunctionToolSchema.model_validate(schema) for schema in self.schemas]
        self._parser: Any = None
        if not tools:
            return
        try:
            self._parser = ToolParser.get_tool_parser(parser, tokenizer)
        except ValueError:
            known = ", ".join(sorted(ToolParser._registry))
            raise UserError(
                f"actor_rollout_ref.rollout.multi_turn.format = {parser!r} is no parser of verl's; use one of {known}."
            ) from None
        self.stop = Stop(token_ids=frozenset(self._parser.stop_token_ids))

    def message(self, turn_ids: list[int], context_ids: list[int]) -> dict[str, Any]:
        if self._parser is None or not turn_ids:
            return self.plain(turn_ids, context_ids)
        spoken = self.spoken(turn_ids, context_ids)
        mark = self.mark(spoken)
        if mark is None or len(spoken) - mark > MAX_CALL_CHARS:
            return self.plain(turn_ids, context_ids)  # what is longer is not run, whatever it says
        content, calls = asyncio.run(self._parser.extract_tool_calls(turn_ids, self._verl_schemas))
        functions = [{"name": call.name, "arguments": _arguments(call.arguments)} for call in calls]
        if not functions or any(function["arguments"] is None for function in functions):
            return self.plain(turn_ids, context_ids)
        called = [{"type": "function", "function": function} for function in functions]
        return {"role": "assistant", "content": content, "tool_calls": called}

    def _suffix(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of tool messages behind a turn, up to where the policy writes on."""
        calls = [{"type": "function", "function": {"name": message["name"], "arguments": {}}} for message in messages]
        before = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": calls}]
        written = [self.tokenizer.eos_token_id]
        merged = self._builder.merge_context_tokens(before, [*before, *messages], written, tools=self.schemas)
        if merged.token_ids[:1] != written:
            raise UserError(
                "verl's token builder changes the end of what was sampled for this model; use tool_protocol=tags."
            )
        return merged.token_ids[1:]


def _arguments(text: str) -> dict[str, Any] | None:
    """A call's arguments, of which verl's parsers make JSON; None for what is no object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
