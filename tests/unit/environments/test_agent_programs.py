"""`AgentProgram`: what it takes, what it gives an agent, and how it ends."""

import asyncio
import json
import sys
import time

import pytest
import torch

from appo.environments.agents import KEPT, AgentFailed, AgentProgram, _Process, agent_of
from appo.errors import UserError

ROW = {"question": "What is it?", "number": 7}


def outcome(run, row=ROW, **options):
    return asyncio.run(AgentProgram(run, **options).run(row, "http://127.0.0.1:1/v1", "key"))


def script(text):
    return [sys.executable, "-c", text]


def test_a_function_is_given_row_address_and_key():
    assert outcome(lambda row, base_url, api_key: len(row["question"]) + len(api_key)) == 11 + 3
    assert outcome(lambda row, base_url, api_key: base_url.endswith("/v1")) == 1.0


def test_an_async_function_is_awaited_and_so_is_what_a_plain_one_returns():
    async def run(row, base_url, api_key):
        await asyncio.sleep(0)
        return 0.5

    class Agent:
        async def __call__(self, row, base_url, api_key):
            return 0.25

    async def forgetful(row, base_url, api_key):
        return run(row, base_url, api_key)

    assert outcome(run) == 0.5
    assert outcome(lambda *given: run(*given)) == 0.5
    assert outcome(forgetful) == 0.5
    assert outcome(Agent()) == 0.25


def test_no_reward_is_none_and_not_0():
    assert outcome(lambda row, base_url, api_key: None) is None
    assert outcome(lambda row, base_url, api_key: 0) == 0.0


def test_a_row_is_the_agents_to_change():
    row = {"list": [1]}
    outcome(lambda row, base_url, api_key: row["list"].append(2), row)
    assert row == {"list": [1]}


@pytest.mark.parametrize("reward", ["1.0", float("nan"), float("inf"), [1.0], {}, torch.ones(2), 10**400])
def test_what_is_no_reward_is_refused_with_the_agents_name(reward):
    def my_agent(row, base_url, api_key):
        return reward

    with pytest.raises(UserError, match=r"agent = my_agent returned .*; return its reward, a finite number, or None"):
        outcome(my_agent)


def test_a_fault_of_the_agent_is_passed_on_as_it_is():
    def broken(row, base_url, api_key):
        return row["no such column"]

    with pytest.raises(KeyError, match="no such column") as caught:
        outcome(broken)
    assert caught.traceback[-1].name == "broken"


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), KeyboardInterrupt()])
def test_an_agent_that_ends_the_program_has_failed(error):
    def leaving(row, base_url, api_key):
        raise error

    with pytest.raises(AgentFailed, match=type(error).__name__):
        outcome(leaving)


def test_a_command_gets_the_address_the_key_and_its_row_and_its_last_line_is_the_reward():
    text = (
        "import json, os; row = json.loads(os.environ['APPO_ROW']); print('working'); "
        "key, url = os.environ['OPENAI_API_KEY'], os.environ['OPENAI_BASE_URL']; "
        "print(row['number'] + len(key) + url.endswith('/v1')); print()"
    )
    assert outcome(script(text)) == 7 + 3 + 1


def test_python_is_the_one_that_runs_this():
    assert AgentProgram(["python", "agent.py"]).command == [sys.executable, "agent.py"]


def test_a_columns_name_in_braces_becomes_its_text_and_other_braces_stay():
    text = "import sys; assert sys.argv[1:] == ['What is it?', '--n=7', '{\"a\": 1}'], sys.argv; print(1)"
    assert outcome([*script(text), "{question}", "--n={number}", json.dumps({"a": 1})]) == 1.0


def test_braces_that_name_no_column_are_refused():
    with pytest.raises(UserError, match=r"command: \{answer\} names no column; the rows have question, number"):
        outcome([*script(""), "{answer}"])


@pytest.mark.parametrize("printed", ["", "done", "1.0 points", "nan"])
def test_a_last_line_that_is_no_number_is_no_reward(printed):
    assert outcome(script(f"print({printed!r})")) is None


def test_a_command_that_fails_says_what_it_said_last():
    with pytest.raises(AgentFailed, match=r"(?s)ended with 1: .*ValueError: no luck"):
        outcome(script("raise ValueError('no luck')"))


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(UserError, match="there is no program 'no-such-program'; give its path"):
        outcome(["no-such-program"])


def test_a_command_that_is_no_longer_waited_for_ends_with_its_children(tmp_path):
    child = f"import time; time.sleep(1); open({str(tmp_path / 'late')!r}, 'w')"
    text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    async def given_up():
        async with asyncio.timeout(0.3):
            await AgentProgram(script(text)).run(ROW, "", "")

    with pytest.raises(TimeoutError):
        asyncio.run(given_up())
    time.sleep(1.2)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("own_session", [True, False])
def test_a_command_has_ended_though_a_child_that_it_left_holds_what_it_prints_to(own_session):
    child = f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'], start_new_session={own_session})"
    assert outcome(script(f"import subprocess, sys; {child}; print(0.5)"), timeout=600.0) == 0.5


def test_of_what_a_command_prints_the_end_is_kept():
    process = _Process()
    for part in (b"1" * KEPT, b"\n0.5\n"):
        process.pipe_data_received(1, part)
    assert process.printed[1] == b"1" * (KEPT - 5) + b"\n0.5\n"
    assert outcome(script("print('x' * 5_000_000); print(0.5)")) == 0.5


def test_a_program_that_may_not_be_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"may not be run \(Permission denied\); make it so"):
        outcome([str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x" * 200_000, "a row of 200,[0-9]+ characters is too long for a program's environment"),
        ("a\0b", r"a row cannot be told to a program \(embedded null byte\); repair its text"),
        ("a\ud800b", "a row cannot be told to a program .*surrogates not allowed.*; repair its text"),
    ],
)
def test_a_row_that_no_program_can_be_told_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        outcome([*script(""), "{question}"], {**ROW, "question": text})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            "python agent.py",
            r"is the text 'python agent.py'; give a command as a list of words: \['python', 'agent.py'\]",
        ),
        ([], "must be a function or a command"),
        (["python", 1], "must be a function or a command"),
        (7, "must be a function or a command"),
        (AgentProgram, r"is the class AgentProgram; give a function, `def run\(row, base_url, api_key\)`"),
        (lambda row: None, r"<lambda>, must take row, base_url, api_key: .*; write"),
    ],
)
def test_what_is_no_agent_is_refused_with_what_to_give(given, sentence):
    with pytest.raises(UserError, match=sentence):
        AgentProgram(given)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": True}, {"at_once": 0}, {"at_once": 1.5}])
def test_bounds_that_are_none_are_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name} of the agent must be"):
        AgentProgram(["true"], **options)


def test_an_agent_stands_alone():
    def run(row, base_url, api_key):
        return 1.0

    assert agent_of(None, tools=[run]) is None
    assert agent_of(run).function is run
    for others in ({"tools": [run]}, {"environment_factory": dict}):
        with pytest.raises(UserError, match="agent = run brings its own tools"):
            agent_of(run, **others)
