"""A tool of an MCP server in a rollout: it is in the prompt, and written tokens call it."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the package mcp is not installed: pip install 'appo[mcp]'")

from test_loop import ScriptedEngine
from test_protocol import chat_trainer, qwen  # noqa: F401 - fixtures

from appo.protocols.chat_template import ChatProtocol
from appo.protocols.tags import TagProtocol
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.mcp import MCPServer
from appo.tools.runner import ToolRunner

SCRIPT = Path(__file__).parents[1] / "tools" / "mcp_server.py"


@pytest.fixture(scope="module")
def tools():
    with MCPServer([sys.executable, str(SCRIPT)]) as server:
        yield {tool.__name__: tool for tool in server.tools}


def test_the_chat_template_shows_every_tool(qwen, tools):  # noqa: F811
    prompt = [{"role": "user", "content": "2 + 3?"}]
    text = qwen.apply_chat_template(prompt, tools=list(tools.values()), tokenize=False)
    assert '"name": "add", "description": "Adds two numbers.' in text
    assert all(f"\n{json.dumps(tool)}\n" in text for tool in tools.values())
    assert '"$defs": {"Point": {"properties": {"x": ' in text


def test_tokens_of_a_chat_call_it(chat_trainer, tools):  # noqa: F811
    tokenizer, trainer = chat_trainer.processing_class, chat_trainer
    protocol = ChatProtocol(tokenizer, list(tools.values()), trainer._get_tool_suffix_ids, trainer.eos_token_ids)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>'
    prompt = [{"role": "user", "content": "2 + 3?"}]
    ids = tokenizer.apply_chat_template(
        prompt, tools=list(tools.values()), add_generation_prompt=True, return_dict=False
    )
    engine = ScriptedEngine(tokenizer, {0: [call, "It is 5.<|im_end|>"]})
    loop = AgentLoop(engine, protocol, ToolRunner(), max_completion_length=400)
    (rollout,) = loop.run([Start(Rollout(list(ids), prompt), tools)], seed=0)
    assert [(call.name, call.result, call.error) for call in rollout.tool_calls] == [("add", "5", None)]
    assert "<tool_response>\n5\n</tool_response>" in tokenizer.decode(rollout.completion_ids)


def test_tokens_in_tags_call_it(qwen, tools):  # noqa: F811
    engine = ScriptedEngine(qwen, {0: ['<add>{"a": 2, "b": 3}</add>', "<answer>5</answer>"]})
    loop = AgentLoop(engine, TagProtocol(qwen, tools), ToolRunner(), max_completion_length=400)
    (rollout,) = loop.run([Start(Rollout(qwen("2 + 3?")["input_ids"], "2 + 3?"), tools)], seed=0)
    assert [(call.name, call.result, call.error) for call in rollout.tool_calls] == [("add", "5", None)]
