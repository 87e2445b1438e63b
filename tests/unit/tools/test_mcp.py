"""Tools of a real MCP server, over standard input and output and over HTTP."""

import copy
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the package mcp is not installed: pip install 'appo[mcp]'")

from appo.cli.loading import load_task
from appo.cli.run_config import RunConfig
from appo.errors import UserError
from appo.rollout.loop import snapshot
from appo.tools import ToolError
from appo.tools.mcp import MCPServer, UnusableServer
from appo.tools.runner import ToolRunner

SCRIPT = Path(__file__).with_name("mcp_server.py")
COMMAND = [sys.executable, str(SCRIPT)]
RAW = Path(__file__).with_name("raw_mcp_server.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_http(port):
    process = subprocess.Popen([*COMMAND, str(port)], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise RuntimeError("the test server ended")


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


def raw(**told):
    """A server that says what it is told to."""
    return MCPServer([sys.executable, str(RAW), json.dumps(told)], timeout_s=300)


def named(name, **schema):
    return {"name": name, "inputSchema": {"type": "object", **schema}}


def outcome(server, name, arguments):
    found = ToolRunner(timeout=6000).submit(tools_of(server), name, arguments).result()
    return found.text, found.error


def gone(pid):
    """Whether a process ended, within two minutes."""
    for _ in range(2400):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_tool_is_called_through_a_runner(server):
    assert outcome(server, "add", {"a": 2, "b": 3}) == ("5", None)


def test_the_schema_is_the_servers_own(server):
    function = tools_of(server)["look_up"]["function"]
    assert function["name"] == "look_up"
    assert function["description"] == "Looks something up."
    parameters = function["parameters"]
    assert parameters["required"] == ["query"]
    assert parameters["properties"]["order"] == {
        "enum": ["new", "old"],
        "default": "new",
        "title": "Order",
        "type": "string",
    }
    limit = {"description": "At most so many.", "minimum": 1, "default": 10, "title": "Limit", "type": "integer"}
    assert parameters["properties"]["limit"] == limit
    assert parameters["properties"]["near"]["anyOf"] == [{"$ref": "#/$defs/Point"}, {"type": "null"}]
    assert parameters["$defs"]["Point"]["required"] == ["x"]


def test_whatever_a_schema_holds_is_handed_through():
    odd = {
        "type": "object",
        "properties": {"城市": {"type": "string"}, "user-id": {"type": ["integer", "null"]}},
        "required": ["城市", "unlisted"],
        "additionalProperties": {"type": "number"},
        "patternProperties": {"^x": {}},
    }
    open_ended = {"type": "object", "additionalProperties": False, "required": ["only"]}
    pages = [{"tools": [{"name": "a", "inputSchema": odd}, {"name": "b", "inputSchema": open_ended}]}]
    with raw(pages=pages) as server:
        tools = tools_of(server)
        assert tools["a"]["function"]["parameters"] == odd
        assert tools["b"]["function"]["parameters"] == open_ended
        arguments = {"城市": "北京", "user-id": 3, "unlisted": 1, "x": 2.5}
        assert json.loads(outcome(server, "a", arguments)[0]) == arguments
        assert outcome(server, "b", "text in tags") == ('{"only": "text in tags"}', None)


def test_defaults_are_the_servers_and_objects_arrive(server):
    text = "ghana new 10 None x=1 y=0"
    assert outcome(server, "look_up", {"query": "ghana", "near": {"x": 1}}) == (text, None)


def test_calls_from_many_threads_run_at_the_same_time(server):
    runner = ToolRunner()
    pending = [runner.submit(tools_of(server), "meet", {"count": 8}) for _ in range(8)]
    assert [call.result().text for call in pending] == ["met"] * 8  # one after the other they would wait for ever


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


@pytest.mark.parametrize("content", [[], [{"type": "text", "text": ""}], [{"type": "text", "text": " \n"}]])
def test_an_empty_text_does_not_hide_structured_content(content):
    with raw(result={"content": content, "structuredContent": {"a": 1}}) as server:
        assert outcome(server, "echo", {}) == ('{"a": 1}', None)


def test_a_text_beside_structured_content_is_what_is_read():
    content = [{"type": "text", "text": ""}, {"type": "text", "text": "one"}]
    with raw(result={"content": content, "structuredContent": {"a": 1}}) as server:
        assert outcome(server, "echo", {}) == ("\none", None)


@pytest.mark.parametrize(
    "noise",
    [
        b"caf\xe9 \xff\xfe\n",
        b"starting ...\n\n",
        b"\0\0\n",
        b'{}\n[1]\nnull\n"x"\n',
        b'{"jsonrpc": "2.0", "id": 99, "result": {}}\n',
    ],
    ids=["no UTF-8", "words", "zeros", "JSON", "an answer to nothing"],
)
def test_lines_that_are_no_message_are_skipped(noise):
    with raw(noise=noise.hex()) as server:
        first = server._connection
        assert [outcome(server, "echo", {"n": n}) for n in (1, 2)] == [('{"n": 1}', None), ('{"n": 2}', None)]
        assert server._connection is first


def test_a_result_that_cannot_be_read_fails_that_call_in_one_line():
    with raw(result={"content": [{"type": "text"}]}) as server:
        for _ in range(2):
            text, error = outcome(server, "echo", {})
            assert error == "ToolError"
            assert text.startswith(
                "error: the server's answer cannot be read: content.0.TextContent.text: Field required"
            )
            assert "\n" not in text


def test_a_result_that_is_not_what_the_tool_promises_fails_that_call_in_one_line():
    promised = {**named("echo"), "outputSchema": {"type": "object", "required": ["a"]}}
    with raw(pages=[{"tools": [promised]}], result={"content": [], "structuredContent": {"b": 1}}) as server:
        text, error = outcome(server, "echo", {})
        assert error == "ToolError"
        assert text.endswith("Invalid structured content returned by tool echo: 'a' is a required property")


@pytest.mark.parametrize("end", ["", None])
def test_pages_of_tools_are_read_to_their_end(end):
    pages = [{"tools": [named("a")], "nextCursor": "2"}, {"tools": [named("b")], "nextCursor": end}]
    with raw(pages=pages) as server:
        assert list(tools_of(server)) == ["a", "b"]


def test_a_cursor_that_comes_again_ends_the_list_and_is_said(caplog):
    with raw(pages=[{"tools": [named("a")], "nextCursor": "2"}]) as server:
        assert [tool.__name__ for tool in server.tools] == ["a"]
    assert "repeats a page of its tools; 1 were named until then." in caplog.text


@pytest.mark.parametrize("pages", [1, 2])
def test_a_tool_that_is_named_twice_is_one(pages):
    twice = {"tools": [named("a"), named("a")]}
    with raw(pages=[twice] if pages == 1 else [{**twice, "nextCursor": "2"}, twice]) as server:
        assert [tool.__name__ for tool in server.tools] == ["a"]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ({"tools": [{"name": "echo"}]}, r"tools\.0\.inputSchema: Field required, got {'name': 'echo'}\.$"),
        ({"tools": [named(None)]}, r"tools\.0\.name: Input should be a valid string, got None\.$"),
        ({}, r"tools: Field required, got {}\.$"),
    ],
)
def test_tools_that_are_not_as_the_protocol_has_them_are_one_sentence(page, words):
    with pytest.raises(ConnectionError, match=r"raw_mcp_server.py .* does not name its tools: " + words):
        raw(pages=[page])


def test_a_list_without_an_end_is_given_up():
    with raw(pages=[{"tools": []}, {"tools": [], "nextCursor": "new"}]) as server:
        server.start_timeout_s = 0.5
        with pytest.raises(ConnectionError, match=r"does not name its tools: no end of them within 0.5 s\.$"):
            server._wait(server._list())


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


@pytest.mark.parametrize("code", [-32000, -32603])
@pytest.mark.parametrize("message", ["no such row", "Connection closed", "Session terminated"])
def test_an_error_of_the_servers_is_its_own_words_whatever_its_code(code, message):
    with raw(error={"code": code, "message": message}) as server:
        first = server._connection
        assert outcome(server, "echo", {"fail": 1}) == (f"error: {message}", "ToolError")
        assert outcome(server, "echo", {"n": 1}) == ('{"n": 1}', None)
        assert server._connection is first


def test_a_server_that_hangs_for_ever_is_started_again(monkeypatch):
    monkeypatch.setattr("appo.tools.mcp.connection.PING_SECONDS", 0.2)
    with raw() as server:
        monkeypatch.setattr(server, "timeout_s", 0.2)
        assert outcome(server, "echo", {"hang": 1}) == ("error: timeout after 0.2 s", "timeout")
        monkeypatch.undo()
        assert outcome(server, "echo", {"n": 1}) == ('{"n": 1}', None)


def test_a_server_that_answers_again_after_a_call_was_given_up_is_kept(server, monkeypatch):
    first = server._connection
    monkeypatch.setattr(server, "timeout_s", 0.2)
    assert outcome(server, "wait", {"seconds": 30})[1] == "timeout"
    monkeypatch.undo()
    assert outcome(server, "add", {"a": 2, "b": 3}) == ("5", None)
    assert server._connection is first


def test_a_server_that_died_between_calls_is_started_again():
    with MCPServer(COMMAND) as server:
        tools = tools_of(server)
        first = int(tools["process"]())
        os.kill(first, signal.SIGKILL)
        while not server._connection.broken:  # until the end of its output was read
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


def test_a_session_that_an_http_server_ended_is_opened_again():
    sessions = []

    class Sessions(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if request["method"] == "initialize":
                sessions.append(f"s{time.monotonic_ns()}")
                info = {"name": "sessions", "version": "1"}
                version = request["params"]["protocolVersion"]
                result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
            elif self.headers["Mcp-Session-Id"] not in sessions:
                return self.answer(404 if "Mcp-Session-Id" in self.headers else 400, None)
            elif "id" not in request:
                return self.answer(202, None)
            elif request["method"] == "tools/list":
                result = {"tools": [named("session")]}
            else:
                result = {"content": [{"type": "text", "text": str(len(sessions))}]}
            return self.answer(200, {"jsonrpc": "2.0", "id": request["id"], "result": result})

        def do_GET(self):
            self.answer(405, None)

        do_DELETE = do_GET

        def answer(self, status, message):
            body = b"" if message is None else json.dumps(message).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if body else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            if sessions:
                self.send_header("Mcp-Session-Id", sessions[-1])
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Sessions)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with MCPServer(url=f"http://127.0.0.1:{web.server_port}/mcp") as server:
        assert outcome(server, "session", {}) == ("1", None)
        sessions[:] = ["another's"]
        text, error = outcome(server, "session", {})
        assert (error, "broke during the call" in text) == ("ConnectionError", True)
        assert outcome(server, "session", {}) == ("2", None)
    web.shutdown()
    web.server_close()


def test_a_server_that_does_not_start_is_one_sentence_with_its_last_words():
    with pytest.raises(
        ConnectionError, match=r"cannot be started: .*; its last words: .*not to be started with 3 char"
    ) as found:
        MCPServer(COMMAND, env={"SECRET": "k3y"})
    assert " ".join(COMMAND) in str(found.value)
    assert "k3y" not in str(found.value)


def test_what_makes_a_server_unusable_is_a_mistake_of_the_users():
    assert issubclass(UnusableServer, UserError) and issubclass(UnusableServer, ConnectionError)


def test_a_program_that_is_no_server_is_given_up():
    with pytest.raises(ConnectionError, match=r"MCP server sleep 60 cannot be started: no answer within 0.2 s\."):
        MCPServer(["sleep", "60"], start_timeout_s=0.2)


def test_a_program_that_does_not_exist_is_named():
    # "No such file", or where a directory of PATH may not be looked into "Permission denied".
    with pytest.raises(
        UnusableServer, match=r"the MCP server no-such-program cannot be started: \[Errno \d+\] .*'no-such"
    ):
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
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=600)
    assert gone(int(done.stdout))


def test_closing_ends_the_server_and_fails_calls_to_read():
    server = MCPServer(COMMAND)
    pid = int(tools_of(server)["process"]())
    pending = ToolRunner().submit(tools_of(server), "meet", {"count": 2})
    while tools_of(server)["waiting"]() != "1":
        time.sleep(0.05)
    server.close()
    server.close()
    assert pending.result().error == "ConnectionError"
    assert gone(pid)
    with pytest.raises(ToolError, match="was closed"):
        tools_of(server)["add"](a=1, b=2)


def test_tools_keep_letters_of_any_script_in_their_names():
    with raw(pages=[{"tools": [named("検索"), named("खोज-शब्द"), named("from")]}]) as server:
        assert list(tools_of(server)) == ["検索", "खोज_शब्द", "from"]
        assert outcome(server, "खोज_शब्द", {"n": 1}) == ('{"n": 1}', None)


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
    with pytest.raises(UserError, match=message):
        MCPServer(**options)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "appo.tools.mcp.server")
    with pytest.raises(ModuleNotFoundError, match=r"The package mcp is missing: run `pip install 'appo\[mcp\]'`"):
        importlib.import_module("appo.tools.mcp.server")


def test_the_command_without_the_package_is_one_sentence(tmp_path):
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "appo.tools.mcp", "true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    assert done.stderr == "The package mcp is missing: run `pip install 'appo[mcp]'`.\n"


def test_a_task_of_mcp_tools_without_the_package_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "mcp_task.py").write_text("from appo.tools.mcp import MCPServer\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "appo.tools.mcp.server")
    with pytest.raises(UserError, match=r"^The package mcp is missing: run `pip install 'appo\[mcp\]'`"):
        load_task(RunConfig("mcp_task"))


def test_the_command_prints_the_tools():
    done = subprocess.run(
        [sys.executable, "-m", "appo.tools.mcp", *COMMAND],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert '"name": "look_up"' in done.stdout
