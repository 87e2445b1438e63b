"""`appo serve` as a user types it: a model as it was trained, OpenAI's client, mistakes in one sentence."""

import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import openai
import pytest
from scripted_model import save_scripted

from appo.cli.main import main
from appo.cli.mistakes import RecipeError
from appo.cli.serve import open_endpoint, read_flags
from appo.files import write_json
from appo.models.usage import FILE

# It searches once, then answers; a result ends with "|". What it is asked ends with a line break.
SCRIPT = {
    "\n": "<search>", "<search>": "x", "x": "</search>", "|": "<answer>", "<answer>": ["4", "5"], "4": "</answer>",
    "5": "</answer>",
}  # fmt: skip
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
)
SEARCH = {
    "type": "function",
    "function": {"name": "search", "parameters": {"properties": {"query": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model that was trained with tags, a system message and a temperature of 0."""
    made = save_scripted(tmp_path_factory.mktemp("searching"), SCRIPT, template=CHAT)
    trained = {"tool_protocol": "tags", "result_format": "<result>{}|", "tools": ["search"], "prompts": "messages"}
    write_json(Path(made, FILE), {**trained, "system_prompt": "Search.", "temperature": 0.0})
    return made


@pytest.fixture(scope="module")
def server(directory):
    """(address, process) of the command."""
    command = [sys.executable, "-m", "appo", "serve", directory, "--port", "0", "--name", "searcher"]
    # A program that was started in the background ignores SIGINT, and so do its children.
    attentive = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=attentive
    )
    line = process.stdout.readline()
    assert line.startswith("searcher at http://127.0.0.1:"), process.stderr.read()
    yield line.split()[2].rstrip(";"), process
    process.kill()


def test_a_trained_model_is_asked_as_it_was_trained_and_calls_tools_of_the_clients(server):
    client = openai.OpenAI(base_url=server[0], api_key="any")
    messages = [{"role": "user", "content": "Who?"}]

    def ask():
        extra = {"return_token_ids": True}
        return client.chat.completions.create(model="searcher", messages=messages, tools=[SEARCH], extra_body=extra)

    first = ask()
    (call,) = first.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("search", '{"query": "x"}')
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "all about x"}]
    second = ask()
    assert second.choices[0].message.content in ("<answer>4</answer>", "<answer>5</answer>")
    added = second.prompt_token_ids[len(first.prompt_token_ids) :]
    assert added[:3] == first.choices[0].token_ids  # <search>, x, </search>
    assert first.usage.prompt_tokens == len("[system]Search.[user]Who?\n")


def test_the_trainings_temperature_holds_and_a_requests_own_wins(server):
    client = openai.OpenAI(base_url=server[0], api_key="any")
    told = [{"role": "user", "content": "Who?"}]
    call = {"id": "a", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}
    told += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "x"}]

    def answers(**options):
        asked = [
            client.chat.completions.create(model="searcher", messages=told, tools=[SEARCH], seed=seed, **options)
            for seed in range(12)
        ]
        return {answer.choices[0].message.content for answer in asked}

    assert len(answers()) == len(answers(temperature=0)) == 1
    assert answers(temperature=1) == {"<answer>4</answer>", "<answer>5</answer>"}


def test_a_client_without_tools_reads_tags_as_text(server):
    client = openai.OpenAI(base_url=server[0], api_key="any")
    answer = client.chat.completions.create(model="searcher", messages=[{"role": "user", "content": "Who?"}])
    assert answer.choices[0].message.content == "<search>x</search>"  # the training's tools still end a turn
    assert answer.choices[0].message.tool_calls is None


def test_a_server_that_is_terminated_says_so(directory):
    command = [sys.executable, "-m", "appo", "serve", directory, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert " at http://127.0.0.1:" in process.stdout.readline()
    process.terminate()
    assert (process.wait(30), process.stderr.read()) == (143, "appo: terminated; start it again.\n")


def test_ctrl_c_ends_it(server):
    server[1].send_signal(signal.SIGINT)
    assert server[1].wait(30) == 130
    assert server[1].stderr.read() == "appo: interrupted; start it again.\n"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--prot", "1"], "unknown option --prot; did you mean --port?"),
        (["--tool_timeout", "3"], "--tool_timeout is about tools that run here, but a client runs its own"),
        (["--host", "0.0.0.0"], "host = 0.0.0.0 can be reached by others; give an api_key"),
        (["--port", "70000"], "port must be at most 65535, got 70000."),
        (["--max_body_mib", "0"], "max_body_mib must be at least 1, got 0."),
        (["--temperature", "-1"], "temperature must be a finite number from 0 on"),
        (["--request_timeout", "0"], "request_timeout must be a positive number of seconds"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_loaded(directory, capsys, flags, sentence):
    assert main(["serve", directory, *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("appo: ") and sentence in said and said.count("\n") == 1


def test_a_model_that_is_not_there_and_a_port_that_is_taken_are_told(directory, capsys):
    assert main(["serve", "runs/nowhere"]) == 2
    assert "runs/nowhere" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", directory, "--port", str(taken.getsockname()[1])]) == 2
    assert "nothing can listen there" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="serve needs a model before its flags"):
        read_flags(["--port", "1"])


def test_the_secret_may_come_from_the_environment(monkeypatch):
    assert read_flags(["m"]).api_key is None
    monkeypatch.setenv("APPO_API_KEY", "from outside")
    assert read_flags(["m"]).api_key == "from outside"
    assert read_flags(["m", "--api_key", "mine"]).api_key == "mine"


def test_without_its_packages_it_says_what_to_install(directory, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "appo.serve.server", raising=False)
    assert main(["serve", directory]) == 2
    assert capsys.readouterr().err == "appo: appo serve needs uvicorn; pip install 'appo[serve]'.\n"


def test_what_is_served_has_the_trainings_bounds_and_forgets_old_conversations(directory):
    endpoint = open_endpoint(read_flags([directory, "--max_completion_length", "7", "--max_requests", "10"]))
    try:
        assert (endpoint.model.max_completion_length, endpoint.model.temperature) == (7, 0.0)
        assert endpoint.model.context_length == 4096
        assert endpoint.bounds.forgets and (endpoint.bounds.requests, endpoint.bounds.requests_per_key) == (10, 5)
    finally:
        endpoint.thread.close()
