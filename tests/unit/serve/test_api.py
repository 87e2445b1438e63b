"""Shapes of requests: what is taken, and what each wrong one is answered."""

import json

import pytest

from appo.serve.api import (
    ApiError,
    ChatRequest,
    GenerateRequest,
    check_heeded,
    cut,
    read_body,
    stops_of,
    temperature_of,
)

ASKED = {"model": "policy", "messages": [{"role": "user", "content": "Hello"}]}


def read(**fields):
    return read_body(ChatRequest, json.dumps({**ASKED, **fields}).encode())


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"messages": []}, "messages", "messages: List should have at least 1 item"),
        ({"messages": "Hello"}, "messages", "messages: Input should be a valid list, got 'Hello'."),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role", "Input should be 'system'"),
        ({"model": 7}, "model", "model: Input should be a valid string, got 7."),
        ({"temperature": "hot"}, "temperature", "temperature: Input should be a valid number, got 'hot'."),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": float("nan")}, "temperature", "temperature: Input should be"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1, got 0."),
        ({"max_tokens": True}, "max_tokens", "valid integer, got True."),
        ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name", "pattern"),
        ({"frobnicate": 1}, "frobnicate", "frobnicate is not known here; leave it out."),
    ],
)
def test_a_wrong_field_is_named_with_its_value(fields, param, sentence):
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert sentence in caught.value.message


@pytest.mark.parametrize("body", [b"", b"hello", b"[1]", b"\xff\xfe", b'{"model": ' + b"[" * 100_000, b"null"])
def test_what_is_no_json_object_is_told_so(body):
    with pytest.raises(ApiError, match="send a JSON object") as caught:
        read_body(ChatRequest, body)
    error = caught.value.body["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


def test_what_would_change_the_answer_is_refused_unless_it_changes_nothing():
    for fields in (
        {"n": 1},
        {"presence_penalty": 0},
        {"response_format": {"type": "text"}},
        {"top_p": 1},
        {"top_k": -1},
    ):
        check_heeded(read(**fields), {})
    for fields in ({"n": 2}, {"frequency_penalty": 0.5}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(ApiError, match="is not supported; leave it out"):
            check_heeded(read(**fields), {})
    with pytest.raises(ApiError, match=r"top_p = 0.5 differs from the server's, 1.0; .* with --top_p 0.5"):
        check_heeded(read(top_p=0.5), {})
    check_heeded(read(top_p=0.5), {"top_p": 0.5})


def test_messages_are_what_a_template_takes():
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    broken = {"id": "b", "type": "function", "function": {"name": "f", "arguments": "x = 1"}}
    said = read(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
            {"role": "assistant", "content": None, "refusal": None, "audio": None, "tool_calls": [call, broken]},
            {"role": "tool", "tool_call_id": "a", "content": "\ud83d"},
        ]
    ).messages
    system, assistant, result = [one.as_message() for one in said]
    assert system == {"role": "system", "content": "Be brief."}
    assert [one["function"]["arguments"] for one in assistant["tool_calls"]] == [{"x": 1}, "x = 1"]
    assert assistant["content"] == ""
    assert result == {"role": "tool", "content": "?", "tool_call_id": "a"}  # half a character is none


def test_pictures_are_refused():
    with pytest.raises(ApiError, match=r"messages\.0\.content"):
        read(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_what_a_function_says_of_itself_reaches_the_policy():
    function = {"name": "f", "description": "Does.", "parameters": {"type": "object"}, "return": {"type": "string"}}
    (tool,) = read(tools=[{"type": "function", "function": {**function, "strict": True}}]).tools
    assert tool.function.as_tool() == function
    (bare,) = read(tools=[{"type": "function", "function": {"name": "f"}}]).tools
    assert bare.function.as_tool()["parameters"] == {"type": "object", "properties": {}}


def test_stops_and_temperatures_are_read():
    assert stops_of(None) == () and stops_of("a") == ("a",) and stops_of(["a", "b"]) == ("a", "b")
    with pytest.raises(ApiError, match="empty text"):
        stops_of(["a", ""])
    with pytest.raises(ApiError, match="17 texts; at most 16"):
        stops_of(["a"] * 17)
    assert [temperature_of(given, 0.7) for given in (None, 0, 1e-9, 1)] == [0.7, 0.0, 0.0, 1.0]
    assert cut("to be or not", (" or", "be")) == "to "
    assert cut("to be", ("x",)) == "to be"


def test_token_ids_are_read_as_vllm_takes_them():
    sampling = {
        "temperature": 0.0,
        "max_tokens": 3,
        "logprobs": 1,
        "stop_token_ids": [5],
        "skip_special_tokens": False,
    }
    asked = read_body(GenerateRequest, json.dumps({"token_ids": [1, 2], "sampling_params": sampling}).encode())
    assert (asked.token_ids, asked.sampling_params.max_tokens) == ([1, 2], 3)
    for wrong in (
        {"token_ids": []},
        {"token_ids": [-1]},
        {"token_ids": ["a"]},
        {"token_ids": [1.5]},
        {"stream": True},
    ):
        body = {"token_ids": [1], "sampling_params": {}, **wrong}
        with pytest.raises(ApiError):
            read_body(GenerateRequest, json.dumps(body).encode())
