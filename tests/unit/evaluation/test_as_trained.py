"""`appo benchmark` asks a model as it was trained, where it says so and no flag does."""

import json

import pytest

from appo.cli.benchmark import read_flags
from appo.errors import UserError

OWN = {
    "tool_protocol": "chat_template", "system_prompt": "", "add_tools": True, "max_completion_length": 64,
    "max_tool_calls": 3, "max_tool_result_chars": 100, "tool_timeout": 2.0, "temperature": 0.5,
}  # fmt: skip


def flags(directory, own=None):
    if own is not None:
        (directory / "appo.json").write_text(json.dumps(own))
    return ["--model", str(directory), "--benchmark", "gsm8k"]


def test_what_a_model_says_of_its_training_is_the_default_but_for_sampling(tmp_path):
    config = read_flags(flags(tmp_path, OWN))
    assert (config.protocol, config.system_prompt, config.add_tools) == ("chat_template", "", True)
    assert (config.max_completion_length, config.max_tool_calls, config.max_tool_result_chars) == (64, 3, 100)
    assert (config.tool_timeout, config.temperature) == (2.0, 1.0)


def test_a_benchmark_with_a_prompt_of_its_own_is_asked_alike_of_every_model(tmp_path):
    flags(tmp_path, OWN)
    config = read_flags(["--model", str(tmp_path), "--benchmark", "humaneval,list_functions"])
    assert (config.protocol, config.add_tools) == ("chat_template", True)
    assert (config.system_prompt, config.tools, config.temperature) == ("", "none", 0.0)
    assert (config.max_completion_length, config.max_tool_calls) == (4096, None)
    several = read_flags(["--model", str(tmp_path), "--benchmark", "humaneval", "--samples", "5"])
    assert several.temperature == 1.0  # greedy samples would be five times the same
    given = ["--tools", "python", "--system_prompt", "S", "--temperature", "0.2"]
    asked = read_flags(["--model", str(tmp_path), "--benchmark", "humaneval", *given])
    assert (asked.system_prompt, asked.tools, asked.temperature) == ("S", "python", 0.2)


def test_flags_win_over_the_model(tmp_path):
    given = [*flags(tmp_path, OWN), "--tool_protocol", "tags", "--system_prompt", "S", "--max-completion-length", "9"]
    config = read_flags(given)
    assert (config.protocol, config.system_prompt, config.max_completion_length) == ("tags", "S", 9)
    assert config.max_tool_calls == 3


def test_a_model_that_says_nothing_is_asked_as_in_the_paper(tmp_path):
    config = read_flags(flags(tmp_path))
    assert (config.protocol, config.system_prompt, config.max_completion_length) == ("tags", None, 4096)


def test_a_result_format_belongs_to_tags(tmp_path):
    assert read_flags(flags(tmp_path, {"tool_protocol": "tags", "result_format": "<r>{}</r>"})).result_format
    assert read_flags(flags(tmp_path, {**OWN, "result_format": "<r>{}</r>"})).result_format is None


def test_the_protocol_is_given_once(tmp_path):
    with pytest.raises(UserError, match="--protocol and --tool_protocol are the same; give one"):
        read_flags([*flags(tmp_path), "--protocol", "tags", "--tool-protocol", "tags"])
