"""`appo.json`: what a training says of the use of its model, and what is made of a broken file."""

import json

import pytest

from appo import APPOConfig
from appo.errors import UserError
from appo.models.usage import FILE, Usage, read_usage, usage_of


@pytest.fixture
def args(tmp_path):
    return APPOConfig(
        str(tmp_path),
        bf16=False,
        use_cpu=True,
        tool_protocol="tags",
        result_format="({})",
        temperature=0.7,
        add_tools=True,
    )


def asks(system, question):
    own = [] if system is None else [{"role": "system", "content": system}]
    return [*own, {"role": "user", "content": question}]


def test_what_is_written_is_read_again(args, tmp_path):
    usage = usage_of(args, ["python"], [asks("Compute.", "1 + 1?"), asks("Compute.", "2 + 2?")])
    assert (usage.tool_protocol, usage.result_format, usage.temperature) == ("tags", "({})", 0.7)
    assert (usage.prompts, usage.system_prompt, usage.tools) == ("messages", "Compute.", ["python"])
    assert usage.add_tools is True
    (tmp_path / FILE).write_text(json.dumps(usage.as_json()))
    assert read_usage(str(tmp_path)) == usage


@pytest.mark.parametrize(
    ("prompts", "kind", "system"),
    [
        (["start boss e1"], "text", ""),
        ([asks(None, "?"), asks(None, "!")], "messages", ""),
        ([asks("A", "?"), asks("B", "?")], "messages", None),  # rows bring their own
        ([[{"role": "system", "content": [{"type": "text", "text": "A"}]}]], "messages", "A"),
        ([None], None, None),  # an environment gives them
    ],
)
def test_the_kind_of_prompts_and_their_system_message(args, prompts, kind, system):
    usage = usage_of(args, [], prompts)
    assert (usage.prompts, usage.system_prompt) == (kind, system)


def test_a_result_format_belongs_to_tags_alone(tmp_path):
    args = APPOConfig(str(tmp_path), bf16=False, use_cpu=True, result_format="({})")
    assert usage_of(args, [], []).result_format is None


def test_a_directory_and_a_hub_that_does_not_answer_say_nothing(tmp_path):
    assert read_usage(str(tmp_path)) == read_usage("Qwen/Qwen3-0.6B") == Usage()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is broken: it holds no JSON object"),
        ("[]", "is broken: it holds no JSON object"),
        ('{"temperature": "hot"}', "temperature = 'hot' is of the wrong type"),
        ('{"max_completion_length": true}', "max_completion_length = True is of the wrong type"),
        ('{"tools": "python"}', "tools = 'python' is of the wrong type"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=f"{FILE}.*{sentence}"):
        read_usage(str(tmp_path))


def test_what_a_later_version_adds_is_left_out(tmp_path):
    (tmp_path / FILE).write_text('{"temperature": 1, "colour": "red"}')
    assert read_usage(str(tmp_path)) == Usage(temperature=1)
