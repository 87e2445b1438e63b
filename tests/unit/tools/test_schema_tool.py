"""A tool that is a JSON schema: for templates, for TRL, and for what the policy writes."""

import copy
import inspect
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("jsonschema", reason="it comes with the package mcp: pip install 'appo[mcp]'")

from transformers.utils.chat_parsing.response_parser import parse_response
from trl.chat_template_utils import qwen3_5_template

from appo.evaluation.eval_config import EvalConfig
from appo.evaluation.eval_tools import open_tools
from appo.tools.runner import ToolRunner, bind_arguments
from appo.tools.schema_tool import SchemaTool

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def tool(parameters, name="tool"):
    return SchemaTool(name, "Does it.", {"type": "object", **parameters}, lambda arguments: arguments)


def one(schema, **root):
    """A tool with one argument."""
    return tool({"properties": {"x": schema}, "required": ["x"], **root})


def test_it_is_the_schema_and_a_function():
    made = tool({"properties": {"x": {}}})
    parameters = {"type": "object", "properties": {"x": {}}}
    assert dict(made) == {
        "type": "function",
        "function": {"name": "tool", "description": "Does it.", "parameters": parameters},
    }
    assert (made.__name__, made.__doc__) == ("tool", "Does it.")
    assert made(x=1, **{"self": 2, "an argument": 3}) == {"x": 1, "self": 2, "an argument": 3}
    assert not inspect.iscoroutinefunction(made)


def test_it_is_equal_to_itself_alone_and_its_own_copy():
    first, second = tool({}), tool({})
    assert first != second
    assert len({first, second, first}) == 2
    assert copy.deepcopy([first])[0] is first


def test_calls_that_are_written_without_types_get_those_of_the_schema():
    made = tool({"properties": {"数": {"type": "integer"}, "name": {"type": "string"}}})
    call = "<function=tool>\n<parameter=数>\n5\n</parameter>\n<parameter=name>\n5\n</parameter>\n</function>"
    text = f"<tool_call>\n{call}\n</tool_call><|im_end|>"
    (read,) = parse_response(text, qwen3_5_template, prefix="", tools=[made])["tool_calls"]
    assert read["function"] == {"name": "tool", "arguments": {"数": 5, "name": "5"}}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, '"a"', '"a"'),
        ({"type": "integer"}, "5", 5),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "boolean"}, "true", True),
        ({"type": "array", "items": {"type": "string"}}, '["a"]', ["a"]),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": ["integer", "string"]}, "5", "5"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"oneOf": [{"type": "string", "maxLength": 2}, {"type": "array"}]}, "[1, 2]", [1, 2]),
        ({"enum": [1, 2]}, "2", 2),
        ({"const": "a"}, '"a"', "a"),
        ({"$ref": "#/$defs/Point"}, '{"x": 1}', {"x": 1}),
        ({"type": "integer"}, "five", "five"),
        ({}, "5", "5"),
        ({"type": "nonsense"}, "5", "5"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "5", "5"),
        ({"type": "string", "pattern": "(("}, "5", "5"),
    ],
)
def test_text_becomes_what_the_schema_allows(schema, text, value):
    assert one(schema, **{"$defs": {"Point": POINT}}).bind(text) == {"x": value}


def test_text_goes_to_the_only_required_argument_or_else_to_the_first():
    properties = {"a": {"type": "string"}, "b": {"type": "integer"}}
    assert tool({"properties": properties, "required": ["b"]}).bind("3") == {"b": 3}
    assert tool({"properties": properties}).bind("3") == {"a": "3"}
    assert tool({"required": ["城市"]}).bind("北京") == {"城市": "北京"}


def test_text_for_several_required_arguments_is_a_json_object():
    made = tool({"required": ["a", "b"]})
    assert made.bind('{"a": 1, "b": 2, "c": 3}') == {"a": 1, "b": 2, "c": 3}
    assert tool({}).bind("") == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"a": 1}, "missing a required argument: 'b'"),
        ('{"a": 1}', "missing a required argument: 'b'"),
        ([1], "arguments must be a JSON object with a, b"),
        ("[1]", "arguments must be a JSON object with a, b"),
        ("5 + 5", "Extra data"),
    ],
)
def test_what_cannot_be_bound_is_a_sentence_for_the_policy(arguments, words):
    made = tool({"properties": {"a": {}}, "required": ["a", "b"]})
    outcome = ToolRunner().submit({"tool": made}, "tool", arguments).result()
    assert outcome.error == "bad arguments"
    assert words in outcome.text


@pytest.mark.parametrize("parameters", [{}, {"properties": None, "required": None}, {"required": True}])
def test_a_schema_that_says_little_takes_any_names(parameters):
    assert bind_arguments(tool(parameters), {"any thing": 1}) == {"any thing": 1}


def test_an_evaluation_takes_it(monkeypatch):
    made = tool({"required": ["城市"]})
    monkeypatch.setitem(sys.modules, "of_a_user", SimpleNamespace(weather=made))
    assert open_tools(EvalConfig(model="m", benchmark="math500", tools="of_a_user:weather")) == {"tool": made}
