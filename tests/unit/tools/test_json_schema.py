"""A function made from a JSON schema gives transformers the same schema back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import get_json_schema

from appo.tools._json_schema import make_function


def read_back(schema, description="Does it."):
    """transformers' view of a tool that has `schema` for its arguments."""
    return get_json_schema(make_function("tool", description, schema, dict))["function"]


def one_argument(schema, **root):
    properties = {"x": {"description": "An x.", **schema}}
    return read_back({"type": "object", "properties": properties, "required": ["x"], **root})["parameters"][
        "properties"
    ]["x"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "array"},
        {"type": "object"},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"type": "string", "enum": ["new", "old"]},
        {"type": "integer", "enum": [1, 2, 3]},
        {"type": ["integer", "string"]},
        {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string", "enum": ["all"]}]},
        {},
    ],
)
def test_what_a_hint_can_say_comes_back_as_it_was(schema):
    assert one_argument(schema) == {**schema, "description": "An x."}


def test_null_comes_back_as_nullable():
    expected = {"type": "string", "nullable": True, "description": "An x."}
    assert one_argument({"anyOf": [{"type": "string"}, {"type": "null"}]}) == expected
    assert one_argument({"type": ["string", "null"]}) == expected


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer", "minimum": 1}, {"type": "integer"}),
        ({"type": "string", "pattern": "^a(b|c)$"}, {"type": "string"}),
        ({"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}, {"type": "object"}),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"type": ["integer", "string"]}),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, {}),
        ({"enum": [["a"], ["b"]]}, {}),
        ({"not": {"type": "string"}}, {}),
    ],
)
def test_what_no_hint_can_say_is_in_the_description(schema, kind):
    assert one_argument(schema) == {**kind, "description": f"An x. (JSON schema: {json.dumps(schema)})"}


def test_references_are_resolved():
    definitions = {"Colour": {"type": "string", "enum": ["red", "blue"], "title": "Colour"}}
    expected = {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}, "description": "An x."}
    assert one_argument({"type": "array", "items": {"$ref": "#/$defs/Colour"}}, **{"$defs": definitions}) == expected


def test_a_schema_that_contains_itself_is_cut():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    found = one_argument({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": node}})
    assert found["type"] == "object"
    assert '{"next": {"$ref": "#/$defs/Node"}}' in found["description"]


def test_optional_arguments_are_not_required_and_show_their_default():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "default": 3}, "b": {"type": "string"}, "c": {"type": "string"}},
        "required": ["c"],
    }
    parameters = read_back(schema)["parameters"]
    assert parameters["required"] == ["c"]
    assert parameters["properties"]["a"] == {"type": "integer", "description": "a (default: 3)"}
    assert parameters["properties"]["b"] == {"type": "string", "description": "b"}


def test_only_the_arguments_given_are_passed_on_under_their_own_names():
    properties = {
        "from": {"type": "integer", "default": 1},
        "max-size": {"type": "integer"},
        "2nd": {"type": "string"},
    }
    function = make_function("tool", "", {"type": "object", "properties": properties}, dict)
    assert function(from_=5, max_size=6) == {"from": 5, "max-size": 6}
    assert function(_2nd="b") == {"2nd": "b"}
    assert function() == {}


def test_names_that_become_the_same_are_refused():
    properties = {"a-b": {"type": "string"}, "a_b": {"type": "string"}}
    with pytest.raises(ValueError, match="tool tool: the arguments 'a-b' and 'a_b' both become a_b"):
        make_function("tool", "", {"type": "object", "properties": properties}, dict)


def test_wrong_arguments_are_a_type_error():
    function = make_function("tool", "", {"properties": {"a": {"type": "string"}}, "required": ["a"]}, dict)
    with pytest.raises(TypeError, match="'a'"):
        function()
    with pytest.raises(TypeError, match="'b'"):
        function(a="", b="")


def test_a_docstring_in_the_description_is_taken_apart():
    text = """Adds.

        Slowly.

        Args:
            x: The first
                one.

        Returns:
            The sum.
        """
    tool = read_back({"properties": {"x": {"type": "integer", "title": "X"}}, "required": ["x"]}, text)
    assert tool["description"] == "Adds.\n\nSlowly."
    assert tool["parameters"]["properties"]["x"]["description"] == "The first one."
    assert tool["return"]["description"] == "The sum."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Takes Args: a list.\nReturns: nothing. Raises: no one.",
            "Takes Arguments: a list.\nReturn value: nothing. Errors: no one.",
        ),
        ("One of (choices: a, b)", "One of (choices are: a, b)"),
        ("", "tool"),
        ("x: not an argument", "x: not an argument"),
    ],
)
def test_words_that_transformers_would_take_for_its_own_are_changed(text, shown):
    schema = {"properties": {"x": {"type": "string", "description": text or "tool"}}, "required": ["x"]}
    tool = read_back(schema, text)
    assert tool["description"] == shown
    assert tool["parameters"]["properties"]["x"]["description"] == " ".join(shown.split())


def test_what_binds_several_arguments_is_in_the_description():
    schema = {"type": "object", "properties": {}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "title": "T"}
    shown = 'Does it.\n\nThe arguments follow the JSON schema {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}.'
    assert read_back(schema)["description"] == shown


TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["Args:\n  a: b", "Returns:", "(choices: [1)", "a:\nb: c"]))
KINDS = st.sampled_from(
    [*("string", "integer", "number", "boolean", "null", "array", "object", "file"), ["string", "null"]]
)
LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": KINDS,
        "enum": st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)), max_size=3),
        "default": st.integers(),
        "description": TEXTS,
        "title": TEXTS,
        "$ref": st.sampled_from(["#/properties/x", "#/$defs/missing", "http://elsewhere"]),
    },
)
SCHEMAS = st.recursive(
    st.one_of(st.booleans(), LEAVES),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={"type": KINDS, "items": inner, "additionalProperties": inner, "anyOf": st.lists(inner, max_size=3)},
    ),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["x", "from", "a-b", "self", "return", "1", ""]), SCHEMAS, max_size=3), TEXTS)
def test_transformers_reads_whatever_a_server_says(properties, description):
    tool = read_back({"type": "object", "properties": properties, "required": ["x"]}, description)
    assert len(tool["parameters"]["properties"]) == len(properties)
    assert json.loads(json.dumps(tool)) == tool
