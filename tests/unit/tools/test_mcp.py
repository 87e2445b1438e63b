"""Tools of a real MCP server, over standard input and output and over HTTP."""

import copy
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the package mcp is not installed: pip install appo[mcp]")

from transformers.utils import get_json_schema

from appo.rollout.agent_loop import snapshot
from appo.tools import ToolError
from appo.tools.mcp import MCPServer
from appo.tools.runner import ToolRunner

SCRIPT = Path(__file__).with_name("mcp_server.py")
COMMAND = [sys.executable, str(SCRIPT)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_http(port):
    process = subprocess.Popen([*COMMAND, str(port)], stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    process.kill()
    raise TimeoutError("the test server does not listen")


@pytest.fixture(scope="module")
def stdio():
    with MCPServer(COMMAND, env={"GREETING": "${APPO_TEST_GREETING}"}) as server:
        yield server


@pytest.fixture(scope="module")
def http():
    port = free_port()
    process = start_http(port)
    with MCPServer(url=f"http://127.0.0.1:{port}/mcp") as server:
        yield server
    process.kill()
    process.wait()


@pytest.fixture(scope="module", autouse=True)
def _greeting():
    os.environ["APPO_TEST_GREETING"] = "hello"
    yield
    del os.environ["APPO_TEST_GREETING"]


@pytest.fixture(params=["stdio", "http"])
def server(request):
    """The same server over both transports."""
    return request.getfixturevalue(request.param)


def tools_of(server):
    return {tool.__name__: tool for tool in server.tools}


def outcome(server, name, arguments, runner=None):
    found = (runner or ToolRunner()).submit(tools_of(server), name, arguments).result()
    return found.text, found.error


def gone(pid):
    """Whether a process ended, within ten seconds."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_tool_is_called_through_a_runner(server):
    assert outcome(server, "add", {"a": 2, "b": 3}) == ("5", None)


def test_the_schema_that_transformers_reads_is_the_servers(server):
    add = get_json_schema(tools_of(server)["add"])["function"]
    assert add["description"] == "Adds two numbers."
    assert add["parameters"] == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "The first one."},
            "b": {"type": "integer", "description": "The second one."},
        },
        "required": ["a", "b"],
    }


def test_enums_and_optional_arguments_reach_the_policy(server):
    parameters = get_json_schema(tools_of(server)["look_up"])["function"]["parameters"]
    assert parameters["required"] == ["query"]
    found = parameters["properties"]
    assert found["order"] == {"type": "string", "enum": ["new", "old"], "description": 'Order (default: "new")'}
    assert found["tags"] == {"type": "array", "items": {"type": "string"}, "nullable": True, "description": "Tags"}
    assert found["limit"]["description"].startswith("At most so many. (default: 10) (JSON schema: {")
    assert '"minimum": 1' in found["limit"]["description"]


def test_defaults_are_the_servers_and_objects_arrive(server):
    text = "ghana new 10 None x=1 y=0"
    assert outcome(server, "look_up", {"query": "ghana", "near": {"x": 1}}) == (text, None)


def test_calls_from_many_threads_run_at_the_same_time(server):
    runner = ToolRunner()
    start = time.monotonic()
    pending = [runner.submit(tools_of(server), "wait", {"seconds": 0.5}) for _ in range(8)]
    assert [call.result().text for call in pending] == ["waited 0.5 s"] * 8
    assert time.monotonic() - start < 3.0  # one after the other: 4 seconds


def test_a_failure_is_in_the_servers_words(server):
    text, error = outcome(server, "fail", {"message": "no such page"})
    assert (text, error) == ("error: Error executing tool fail: no such page", "ToolError")


def test_arguments_that_the_server_refuses_are_a_failure_to_read(server):
    text, error = outcome(server, "look_up", {"query": "ghana", "limit": 0})
    assert error == "ToolError"
    assert "greater than or equal to 1" in text


def test_a_slow_call_times_out_and_the_next_one_works(server, monkeypatch):
    monkeypatch.setattr(server, "timeout_s", 0.2)
    assert outcome(server, "wait", {"seconds": 30}) == ("error: timeout after 0.2 s", "timeout")
    monkeypatch.undo()
    assert outcome(server, "add", {"a": 2, "b": 3}) == ("5", None)


def test_structured_content_without_text_is_json(server):
    assert outcome(server, "structured", {}) == ('{"name": "Ann", "ages": [3, 4]}', None)


def test_a_picture_is_named(server):
    assert outcome(server, "picture", {}) == ("[image/png, 5 bytes]", None)


def test_environment_variables_are_passed_by_name(stdio):
    assert tools_of(stdio)["variable"](name="GREETING") == "hello"


def test_the_server_sees_nothing_else_of_the_environment(stdio):
    assert tools_of(stdio)["variable"](name="APPO_TEST_GREETING") == "not set"


def test_copies_share_the_server(stdio):
    class Environment:
        def __init__(self):
            self._server, self._tools, self.found = stdio, tools_of(stdio), []

    environment = Environment()
    copied = snapshot(environment)
    assert copied.found is not environment.found
    assert copied._server is stdio
    assert copied._tools["add"] is environment._tools["add"]
    assert copy.deepcopy(stdio.tools)[0](a=1, b=1) == "2"


def test_a_server_that_dies_in_a_call_is_said_to_and_started_again():
    with MCPServer(COMMAND) as server:
        tools = tools_of(server)
        first = tools["process"]()
        text, error = outcome(server, "die", {})
        assert error == "ConnectionError"
        assert f"the connection to the MCP server {' '.join(COMMAND)} broke during the call" in text
        assert tools["process"]() != first


def test_a_server_that_died_between_calls_is_started_again():
    with MCPServer(COMMAND) as server:
        tools = tools_of(server)
        first = int(tools["process"]())
        os.kill(first, signal.SIGKILL)
        for _ in range(200):  # until the end of its output was read
            if server._connection.broken:
                break
            time.sleep(0.05)
        assert tools["add"](a=1, b=2) == "3"


def test_a_server_that_cannot_be_started_again_is_a_failure_to_read(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SCRIPT.read_text())
    with MCPServer([sys.executable, str(script)]) as server:
        outcome(server, "die", {})
        script.unlink()
        text, error = outcome(server, "add", {"a": 1, "b": 2})
        assert error == "ConnectionError"
        assert "cannot be started: Connection closed; its last words: " in text


def test_an_http_server_that_comes_back_is_connected_to_again():
    port = free_port()
    process = start_http(port)
    with MCPServer(url=f"http://127.0.0.1:{port}/mcp") as server:
        process.kill()
        process.wait()
        assert outcome(server, "add", {"a": 1, "b": 2})[1] == "ConnectionError"
        text, error = outcome(server, "add", {"a": 1, "b": 2})
        assert error == "ConnectionError"
        assert f"the MCP server http://127.0.0.1:{port}/mcp cannot be reached: " in text
        process = start_http(port)
        assert outcome(server, "add", {"a": 1, "b": 2}) == ("3", None)
    process.kill()
    process.wait()


def test_a_server_that_does_not_start_is_one_sentence_with_its_last_words():
    with pytest.raises(
        ConnectionError, match=r"cannot be started: .*; its last words: .*not to be started with 3 char"
    ) as found:
        MCPServer(COMMAND, env={"SECRET": "k3y"})
    assert " ".join(COMMAND) in str(found.value)
    assert "k3y" not in str(found.value)


def test_a_program_that_is_no_server_is_given_up():
    with pytest.raises(ConnectionError, match=r"MCP server sleep 60 cannot be started: no answer within 0.2 s\."):
        MCPServer(["sleep", "60"], start_timeout_s=0.2)


def test_a_program_that_does_not_exist_is_named():
    with pytest.raises(ConnectionError, match=r"the MCP server no-such-program cannot be started: .*No such file"):
        MCPServer(["no-such-program"])


def test_a_key_reaches_the_server_and_no_message(monkeypatch, caplog):
    seen = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.headers["Authorization"])
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("APPO_TEST_KEY", "k3y-9876")
    web = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{web.server_port}/mcp"
    with (
        caplog.at_level("INFO"),
        pytest.raises(ConnectionError, match=f"MCP server {url} cannot be reached: ") as found,
    ):
        MCPServer(url=url, headers={"Authorization": "Bearer ${APPO_TEST_KEY}"})
    web.shutdown()
    web.server_close()
    assert set(seen) == {"Bearer k3y-9876"}
    assert "k3y-9876" not in str(found.value) + caplog.text


def test_a_key_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("APPO_TEST_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable APPO_TEST_KEY is not set"):
        MCPServer(COMMAND, env={"KEY": "${APPO_TEST_KEY}"})


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_the_server_ends_with_the_process_that_started_it(end):
    program = (
        "import os, sys\n"
        "from appo.tools.mcp import MCPServer\n"
        f"server = MCPServer({COMMAND!r})\n"
        "tools = {tool.__name__: tool for tool in server.tools}\n"
        "print(tools['process'](), flush=True)\n"
        f"{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60)
    assert gone(int(done.stdout))


def test_closing_ends_the_server_and_fails_calls_to_read():
    server = MCPServer(COMMAND)
    pid = int(tools_of(server)["process"]())
    pending = ToolRunner().submit(tools_of(server), "wait", {"seconds": 30})
    time.sleep(0.2)
    server.close()
    server.close()
    assert pending.result().error == "ConnectionError"
    assert gone(pid)
    with pytest.raises(ToolError, match="was closed"):
        tools_of(server)["add"](a=1, b=2)


def test_a_prefix_tells_two_servers_apart():
    with MCPServer(COMMAND, prefix="other_") as server:
        assert tools_of(server)["other_add"](a=1, b=2) == "3"


def test_tools_whose_names_clash_are_refused(tmp_path):
    script = tmp_path / "clash.py"
    script.write_text(
        "from mcp.server.mcpserver import MCPServer\n"
        "server = MCPServer('clash')\n"
        "for name in ('a-b', 'a.b'):\n"
        "    server.tool(name=name)(lambda: 'x')\n"
        "server.run()\n"
    )
    with pytest.raises(ValueError, match=r"clash.py: the tools 'a-b' and 'a.b' both become a_b"):
        MCPServer([sys.executable, str(script)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either command or url"),
        ({"command": COMMAND, "url": "http://localhost/mcp"}, "either command or url"),
        ({"command": "python server.py"}, "command must be a list"),
        ({"url": "localhost:8000"}, "url must read"),
        ({"url": "http://localhost/mcp?key=k3y"}, "url must read"),
        ({"url": "http://localhost/mcp", "env": {"A": "b"}}, "env goes with command"),
        ({"command": COMMAND, "timeout_s": 0}, "timeout_s must be above 0, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MCPServer(**options)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "appo.tools.mcp")
    with pytest.raises(ModuleNotFoundError, match=r"The package mcp is missing: run `pip install appo\[mcp\]`"):
        importlib.import_module("appo.tools.mcp")


def test_the_command_prints_the_tools():
    done = subprocess.run(
        [sys.executable, "-m", "appo.tools.mcp", *COMMAND], capture_output=True, text=True, timeout=60, check=True
    )
    assert '"name": "look_up"' in done.stdout
