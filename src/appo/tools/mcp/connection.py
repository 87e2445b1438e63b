"""A session with an MCP server, from its opening to its end, over standard input and output or over HTTP.

Left out on purpose: opening another one when this one broke (`appo.tools.mcp.server`).
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import METHOD_NOT_FOUND, EmptyResult, PingRequest

STDERR_BYTES = 1000  # of the end of what a server wrote, for the message when it does not start
PING_SECONDS = 5.0  # in which a server that is not stuck answers
CLOSE_SECONDS = 10.0  # more than `mcp` takes to end a program that does not want to end


class Connection:
    """One session from its opening to its end. Lives in one event loop.

    Attributes:
        doubtful: Whether a call was given up or failed, so that the server may be gone or stuck.
    """

    def __init__(self, command: list[str], url: str | None, variables: dict[str, str]) -> None:
        self._command, self._url, self._variables = command, url, variables
        self._stderr = b""
        self._stop = asyncio.Event()
        self._opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._input: Any = None
        self._broken = False
        self.doubtful = False
        # The session's task groups must be entered and left by one task.
        self._task = asyncio.create_task(self._live())

    @property
    def client(self) -> Client:
        return self._opened.result()

    @property
    def broken(self) -> bool:
        """Whether the server is known to be gone."""
        ended = self._input is not None and self._input.statistics().open_send_streams == 0
        return self._broken or self._task.done() or ended

    async def answers(self) -> bool:
        """Whether calls can be made; asks the server where that is in doubt."""
        if self.doubtful and not self.broken:
            try:
                await asyncio.wait_for(self.client.session.send_request(PingRequest(), EmptyResult), PING_SECONDS)
            except TimeoutError:
                self._broken = True
            except MCPError as error:
                # Over HTTP a server may not know the session any more; over its output any answer of its own is one.
                lost = error.message == "Connection closed" if self._command else error.code != METHOD_NOT_FOUND
                self._broken = self._broken or lost
            self.doubtful = False
        return not self.broken

    async def open(self, timeout: float) -> None:
        """Waits until calls can be made.

        Raises:
            ConnectionError: with the reason and the server's last words.
        """
        await asyncio.wait((self._opened, self._task), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._opened.done():
            return
        reason: BaseException | str = f"no answer within {timeout:g} s"
        if self._task.done() and not self._task.cancelled():
            reason = self._task.exception() or reason
        await self.close()
        while getattr(reason, "exceptions", None):  # groups of one, within each other
            reason = reason.exceptions[0]  # type: ignore[union-attr]
        words = " ".join(self._stderr.decode(errors="replace").split())
        said = f"; its last words: {words}" if words else ""
        raise ConnectionError(f"{' '.join(str(reason).split()) or type(reason).__name__}{said}.")

    async def close(self) -> None:
        """Ends the session and the server's process. Does not raise."""
        self._stop.set()
        if not self._opened.done():
            self._task.cancel()
        await asyncio.wait((self._task,), timeout=CLOSE_SECONDS)
        self._task.cancel()  # over HTTP a server may not answer the farewell
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.exception()  # asyncio complains of one that nobody asked for

    async def _live(self) -> None:
        transport = self._program() if self._command else self._http()
        async with Client(transport) as client:
            self._opened.set_result(client)
            await self._stop.wait()

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[Any]:
        assert self._url is not None
        timeout = httpx2.Timeout(30.0, read=300.0)  # as `mcp` has it; a call has its own
        async with (
            httpx2.AsyncClient(headers=self._variables, timeout=timeout) as client,
            streamable_http_client(self._url, http_client=client) as streams,
        ):
            yield streams

    @asynccontextmanager
    async def _program(self) -> AsyncIterator[Any]:
        parameters = StdioServerParameters(
            command=self._command[0],
            args=self._command[1:],
            env=self._variables,
            encoding_error_handler="replace",  # a line that is no UTF-8 is no message, and not the session's end
        )
        reading, writing = os.pipe()
        reader = threading.Thread(target=self._keep_stderr, args=(reading,), daemon=True, name="appo-mcp-stderr")
        reader.start()
        try:
            with os.fdopen(writing, "w") as errors:
                session: AbstractAsyncContextManager[Any] = stdio_client(parameters, errors)
                async with session as streams:
                    self._input = streams[0]
                    yield streams
        finally:
            reader.join(1.0)  # ends with the server, unless that left a process behind

    def _keep_stderr(self, descriptor: int) -> None:
        with open(descriptor, "rb", buffering=0) as pipe:
            while chunk := pipe.read(4096):
                self._stderr = (self._stderr + chunk)[-STDERR_BYTES:]
