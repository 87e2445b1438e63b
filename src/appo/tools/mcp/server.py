"""Tools of MCP servers (Model Context Protocol): a program that is started here, or an address.

    with MCPServer(["python", "server.py"], env={"API_KEY": "${API_KEY}"}) as server:
        trainer = APPOTrainer(..., tools=server.tools)
        trainer.train()
    MCPServer(url="http://localhost:8000/mcp", headers={"Authorization": "Bearer ${TOKEN}"})

    python -m appo.tools.mcp python server.py        # prints the tools as the policy sees them; or an address

`tools` are the server's own JSON schemas, and can be called (`appo.tools.schema_tool`); TRL's trainers take them too.
They may be called from many threads at once; one thread per server runs the session. A call in which the connection
breaks is a `ConnectionError`, as it may or may not have had its effect; the next call starts the server again, or
connects anew. So it does where a call was given up and the server does not answer a ping. Lines of a server that are
no messages are skipped, and logged by `mcp`.

Needs the package `mcp`: `pip install 'appo[mcp]'`. Left out on purpose: resources, prompts, sampling and elicitation,
which are not tools; OAuth; tools that a server adds later; pickling of the tools.
"""

import asyncio
import atexit
import inspect
import json
import logging
import os
import re
import shlex
import sys
import threading
import unicodedata
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from appo.errors import MissingPackage, UserError
from appo.tools import ToolError, ToolResult
from appo.tools.schema_tool import SchemaTool

try:
    from mcp import Client, MCPError
    from mcp.types import (
        AudioContent,
        CallToolResult,
        ImageContent,
        ResourceLink,
        TextContent,
        TextResourceContents,
        Tool,
    )
    from pydantic import ValidationError

    from appo.tools.mcp.connection import Connection
except ModuleNotFoundError as error:
    raise MissingPackage(f"The package {error.name} is missing: run `pip install 'appo[mcp]'`.") from None
except ImportError as error:
    raise MissingPackage(f"The package mcp is another version ({error}): run `pip install -U appo[mcp]`.") from None

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 25.0  # below a ToolRunner's time-out of 30 seconds, so that the server is told to stop
START_SECONDS = 60.0  # `npx` and `uvx` may have to download a server first

T = TypeVar("T")


class UnusableServer(UserError, ConnectionError):
    """A server cannot be started or reached, or does not say what tools it has."""


class MCPServer:
    """The tools of one server. Starts it, or connects to it, at once.

    Args:
        command: The program and its arguments, for a server that talks over standard input and output. It gets HOME,
            PATH and the like of this process's environment, and `env`.
        url: The address of a server that talks streamable HTTP; instead of `command`.
        env: Environment variables for `command`.
        headers: HTTP headers for `url`. In values of both, `${NAME}` is this process's environment variable NAME: the
            place for keys, which are kept nowhere else and are in no message.
        prefix: Begins the tools' names, to tell apart servers whose tools have the same names.
        timeout_s: Seconds for a call. Keep it below the tools' time-out (`tool_timeout`): a call that the runner has
            given up goes on.
        start_timeout_s: Seconds until the server must have named its tools.

    Attributes:
        tools: One per tool of the server's. It returns the server's text, raises `ToolError` with the server's words
            where the tool failed, and `ConnectionError` where the connection broke.

    Raises:
        UserError: for arguments that make no sense, and tools whose names clash.
        UnusableServer: a ConnectionError, where the server cannot be started or reached, or does not name its tools as
            the protocol has it, in one sentence, with its last words where it did not start.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        prefix: str = "",
        timeout_s: float = TIMEOUT_SECONDS,
        start_timeout_s: float = START_SECONDS,
    ) -> None:
        _check(command, url, env, headers, timeout_s, start_timeout_s)
        self.name = f"MCP server {shlex.join(command) if command else url}"
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s
        self._command, self._url = list(command or ()), url
        self._variables = {**(env or {}), **(headers or {})}
        _filled(self._variables)
        self._connection: Connection | None = None
        self._closed = False
        self._opening = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="appo-mcp")
        self._thread.start()
        atexit.register(self.close)
        try:
            listed = self._wait(self._list())
            names = _names([prefix + tool.name for tool in listed], self.name)
            self.tools = [self._tool(name, tool) for name, tool in zip(names, listed, strict=True)]
        except ConnectionError as error:
            self.close()
            raise UnusableServer(str(error)) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "MCPServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: object) -> "MCPServer":
        """Itself: copies of an environment, as branches take them, share the server."""
        return self

    def close(self) -> None:
        """Ends the session, and the server if it was started here. Calls under way fail."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _tool(self, name: str, tool: Tool) -> SchemaTool:
        def call(arguments: dict[str, Any]) -> str | ToolResult:
            self._raise_if_closed()
            return self._wait(self._call(tool.name, arguments))

        described = inspect.cleandoc(tool.description or tool.title or name)
        return SchemaTool(name, described, tool.input_schema, call)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ToolError(f"the {self.name} was closed")

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # ---- in the session's thread ----

    async def _connected(self) -> Connection:
        """The connection; a new one where there is none or it broke."""
        async with self._opening:
            self._raise_if_closed()
            if self._connection is None or not await self._connection.answers():
                if self._connection is not None:
                    await self._connection.close()
                self._connection = Connection(self._command, self._url, _filled(self._variables))
                try:
                    await self._connection.open(self.start_timeout_s)
                except ConnectionError as error:
                    verb = "started" if self._command else "reached"
                    raise ConnectionError(f"the {self.name} cannot be {verb}: {error}") from None
            return self._connection

    async def _list(self) -> list[Tool]:
        client = (await self._connected()).client
        try:
            return await asyncio.wait_for(self._pages(client), self.start_timeout_s)
        except TimeoutError:
            reason = f"no end of them within {self.start_timeout_s:g} s"
        except (MCPError, ValidationError) as error:
            reason = _reason(error)
        raise ConnectionError(f"the {self.name} does not name its tools: {reason}.")

    async def _pages(self, client: Client) -> list[Tool]:
        found: list[Tool] = []
        cursor, seen = None, set()
        while True:
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:  # the same one twice is one
                if tool not in found:
                    found.append(tool)
            cursor = page.next_cursor
            if not cursor:  # some write "" for none
                return found
            if cursor in seen:
                logger.warning("The %s repeats a page of its tools; %d were named until then.", self.name, len(found))
                return found
            seen.add(cursor)

    async def _call(self, name: str, arguments: dict[str, Any]) -> str | ToolResult:
        connection = await self._connected()
        try:
            result = await asyncio.wait_for(connection.client.call_tool(name, arguments), self.timeout_s)
        except TimeoutError:
            connection.doubtful = True
            return ToolResult(f"error: timeout after {self.timeout_s:g} s", "timeout")  # a ToolRunner's words
        except MCPError as error:
            connection.doubtful = True  # codes tell nothing: servers use that of a closed connection for any error
            if not await connection.answers():
                raise ConnectionError(f"the connection to the {self.name} broke during the call") from None
            raise ToolError(error.message) from None
        except (ValidationError, RuntimeError) as error:  # the latter where it is not what the tool's schema promises
            raise ToolError(f"the server's answer cannot be read: {_reason(error)}") from None
        if result.is_error:
            raise ToolError(text_of(result) or "the tool failed without a message")
        return text_of(result)

    async def _end(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        if under_way:
            await asyncio.wait(under_way, timeout=1.0)


def text_of(result: CallToolResult) -> str:
    """What the policy reads of a result: texts, one under the other; of anything else, what it is."""
    parts = []
    for block in result.content:
        if isinstance(block, TextContent):
            parts.append(block.text)
        elif isinstance(block, (ImageContent, AudioContent)):
            parts.append(f"[{block.mime_type}, {_size(block.data)} bytes]")
        elif isinstance(block, ResourceLink):
            parts.append(f"[{block.uri}]")
        elif isinstance(block.resource, TextResourceContents):
            parts.append(block.resource.text)
        else:
            parts.append(f"[{block.resource.mime_type or 'data'}, {_size(block.resource.blob)} bytes]")
    said = any(isinstance(block, TextContent) and block.text.strip() for block in result.content)
    if result.structured_content is not None and not said:
        structured = json.dumps(result.structured_content, ensure_ascii=False)
        parts = [structured, *(part for part in parts if part.strip())]
    return "\n".join(parts)


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r:.200}"
    return " ".join(str(error).partition("\n")[0].split()) or "no answer"


def _names(names: Sequence[str], server: str) -> list[str]:
    """The names with `_` for what is no letter, mark, digit or `_`, which some templates' calls cannot hold.

    Raises:
        ValueError: where two become the same.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = "".join(c if c == "_" or unicodedata.category(c)[0] in "LMN" else "_" for c in name)
        if plain in found:
            raise UserError(
                f"{server}: the tools {found[plain]!r} and {name!r} both become {plain}; have it name them apart."
            )
        found[plain] = name
    return list(found)


def _size(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")


def _filled(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with `${NAME}` replaced by the environment's; what is wrong is said without a value."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(
                f"the environment variable {match[1]} is not set; the MCP server's env or headers name it."
            )
        return os.environ[match[1]]

    return {name: re.sub(r"\$\{(\w+)\}", value, text) for name, text in variables.items()}


def _check(
    command: Sequence[str] | None,
    url: str | None,
    env: Mapping[str, str] | None,
    headers: Mapping[str, str] | None,
    timeout_s: float,
    start_timeout_s: float,
) -> None:
    if (command is None) == (url is None):
        raise UserError("give either command or url: a program to start, or an address.")
    if command is not None and (isinstance(command, str) or not command):
        raise UserError(f'command must be a list of texts, such as ["python", "server.py"], got {command!r}.')
    if url is not None:
        parts = urlsplit(url)
        # Keys belong into headers: addresses are shown in messages.
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise UserError("url must read http://host:port/path, without user, password or query.")
    if (env is not None and command is None) or (headers is not None and url is None):
        raise UserError("env goes with command, and headers with url.")
    for name, seconds in (("timeout_s", timeout_s), ("start_timeout_s", start_timeout_s)):
        if not seconds > 0:
            raise UserError(f"{name} must be above 0, got {seconds}.")


def main(arguments: list[str]) -> None:
    """The command; ends the process with one sentence where something is wrong."""
    if not arguments:
        sys.exit("usage: python -m appo.tools.mcp ADDRESS | PROGRAM ARGUMENT ..")
    is_url = arguments[0].startswith(("http://", "https://"))
    try:
        with MCPServer(url=arguments[0]) if is_url else MCPServer(arguments) as server:
            for tool in server.tools:
                print(json.dumps(tool["function"], indent=2, ensure_ascii=False))
    except (ValueError, ConnectionError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
