"""Adds function calling to a tokenizer whose chat template has none, such as SmolLM2's and SmolLM3's.

The model's own template still writes every turn; what is put before it turns tools, calls and results into the text of
ordinary messages. Left out on purpose: teaching a model to use them (`appo sft` does).
"""

import re
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from appo.errors import UserError

# Jinja: lists the tools in the system message, writes calls behind an assistant's text, results as a user's message.
_BEFORE = """\
{%- set new = namespace(messages=[], tools='') -%}
{%- if tools -%}
  {%- for tool in tools -%}{%- set new.tools = new.tools + '\\n' + (tool | tojson) -%}{%- endfor -%}
  {%- set new.tools = 'You can call these tools:\\n<tools>' + new.tools + '\\n</tools>\\nTo call, write\\n' + FORM -%}
  {%- if messages[0]['role'] == 'system' -%}
    {%- set new.messages = [{'role': 'system', 'content': messages[0]['content'] + '\\n\\n' + new.tools}] -%}
    {%- set messages = messages[1:] -%}
  {%- else -%}
    {%- set new.messages = [{'role': 'system', 'content': new.tools}] -%}
  {%- endif -%}
{%- endif -%}
{%- for message in messages -%}
  {%- set text = namespace(content=message['content'] or '', calls=[]) -%}
  {%- if message['role'] == 'tool' -%}
    {%- set text.content = '<tool_response>\\n' + text.content + '\\n</tool_response>' -%}
  {%- endif -%}
  {%- for call in message['tool_calls'] or [] -%}
    {%- set call = call['function'] -%}
    {%- set arguments = call['arguments'] | tojson -%}
    {%- set text.calls = text.calls + ['{"name": ' + (call['name'] | tojson) + ', "arguments": ' + arguments + '}'] -%}
  {%- endfor -%}
  {%- if text.calls -%}
    {%- set text.content = text.content + ('\\n' if text.content else '') + WRITTEN -%}
  {%- endif -%}
  {%- set role = 'user' if message['role'] == 'tool' else message['role'] -%}
  {%- set new.messages = new.messages + [{'role': role, 'content': text.content}] -%}
{%- endfor -%}
{%- set messages = new.messages -%}
"""
_CALL = '{"name": <name>, "arguments": <object>}'
# By style: how a call is described, and how a turn's calls are written (Jinja expressions).
_STYLES = {
    "object": (
        f"'<tool_call>\\n{_CALL}\\n</tool_call>'",
        "'<tool_call>\\n' + (text.calls | join('\\n</tool_call>\\n<tool_call>\\n')) + '\\n</tool_call>'",
    ),
    "list": (
        f"'<tool_call>[{_CALL}, ...]</tool_call>'",
        "'<tool_call>[' + (text.calls | join(', ')) + ']</tool_call>'",
    ),
}


def add_tools(tokenizer: PreTrainedTokenizerBase, style: Literal["object", "list"] = "object") -> None:
    """Sets a `chat_template` that writes tools, calls and results, and the `response_template` that reads calls.

    Args:
        tokenizer: One whose chat template writes messages of role system, user and assistant, in any order.
        style: How calls are written: "object" is `<tool_call>{...}</tool_call>` for each, as SmolLM3, Qwen and many
            others were trained; "list" is `<tool_call>[{...}, {...}]</tool_call>`, as SmolLM2-1.7B-Instruct was.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(
            "tokenizer.chat_template is not a text: there is no template to add tools to; set one, use an instruct "
            "model, or tool_protocol: tags."
        )
    question = [{"role": "user", "content": "?"}]
    without, with_prompt = (
        tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=prompt)
        for prompt in (False, True)
    )
    form, written = _STYLES[style]
    tokenizer.chat_template = _BEFORE.replace("FORM", form).replace("WRITTEN", written) + tokenizer.chat_template
    tokenizer.response_template = _response_template(style, with_prompt[len(without) :], tokenizer.eos_token)


def _response_template(style: str, prompt: str, eos: str) -> dict[str, Any]:
    """How transformers' parser reads the style back."""
    calls: dict[str, Any] = {"open": "<tool_call>", "content": "json"}
    if style == "object":
        calls |= {"close_pattern": r"</tool_call>\s*", "repeats": True}
        calls |= {"transform": {"type": "function", "function": "{content}"}}
    else:
        # Only one list, at the turn's end: the parser would forget the first of two.
        calls |= {"close_pattern": rf"</tool_call>\s*(?={re.escape(eos)})", "transform_each": True}
        calls |= {"transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}}
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": prompt,
        "fields": {
            "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
            "tool_calls": calls,
            "content": {"close_pattern": re.escape(eos) + r"\s*", "content": "text"},
        },
    }
