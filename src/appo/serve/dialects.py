"""Which dialect a policy speaks, with the settings of its training: what `Chat` is made of."""

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.serve.dialect import Dialect
from appo.serve.tag_dialect import TagDialect
from appo.serve.template_dialect import TemplateDialect
from appo.tools.schema_tool import SchemaTool

MakeDialect = Callable[[Sequence[SchemaTool], bool], Dialect]


def dialects(
    tokenizer: PreTrainedTokenizerBase,
    eos_token_ids: frozenset[int],
    tool_protocol: str,
    *,
    chat_template_kwargs: dict[str, Any] | None = None,
    add_tools: bool = False,
    result_format: str | None = None,
    trained_tools: Sequence[str] = (),
    plain_prompts: bool = False,
) -> MakeDialect:
    """Makes dialects for tools, which differ between requests.

    Args:
        tokenizer: The policy's.
        eos_token_ids: Tokens that end a turn.
        tool_protocol: "chat_template" or "tags".
        chat_template_kwargs, add_tools, result_format: As in `APPOConfig`.
        trained_tools: Names; with tags their closing tags end a turn of a client without tools, too.
        plain_prompts: Whether prompts were plain texts in training (tags alone).
    """

    def make(tools: Sequence[SchemaTool], reads_calls: bool) -> Dialect:
        if tool_protocol == "tags":
            return TagDialect(
                tokenizer, tools, reads_calls, eos_token_ids, trained_tools, result_format, plain_prompts,
                chat_template_kwargs,
            )  # fmt: skip
        return TemplateDialect(tokenizer, tools, reads_calls, eos_token_ids, chat_template_kwargs, add_tools)

    return make
