"""A small MCP server for tests: `python mcp_server.py` talks over standard input, `.. PORT` over HTTP."""

import asyncio
import os
import sys
from typing import Annotated, Literal

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

server = MCPServer("tests", log_level="ERROR")


class Point(BaseModel):
    x: int
    y: int = 0


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two numbers.

    Args:
        a: The first one.
        b: The second one.

    Returns:
        The sum.
    """
    return str(a + b)


@server.tool()
async def wait(seconds: float) -> str:
    """Waits."""
    await asyncio.sleep(seconds)
    return f"waited {seconds:g} s"


met = asyncio.Event()
present = 0


@server.tool()
async def meet(count: int) -> str:
    """Waits until so many calls are under way."""
    global present
    present += 1
    if present == count:
        met.set()
    await met.wait()
    return "met"


@server.tool()
def waiting() -> str:
    """How many calls of `meet` there were."""
    return str(present)


@server.tool()
def fail(message: str) -> str:
    """Fails."""
    raise ToolError(message)


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def variable(name: str) -> str:
    """An environment variable of the server."""
    return os.environ.get(name, "not set")


@server.tool()
def process() -> str:
    """The server's process."""
    return str(os.getpid())


@server.tool()
def structured() -> CallToolResult:
    """Structured content without a text."""
    return CallToolResult(content=[], structured_content={"name": "Ann", "ages": [3, 4]})


@server.tool()
def picture() -> Image:
    """A picture."""
    return Image(data=b"12345", format="png")


@server.tool(name="look-up")
def look_up(
    query: Annotated[str, Field(description="What to look for.")],
    order: Literal["new", "old"] = "new",
    limit: Annotated[int, Field(description="At most so many.", ge=1)] = 10,
    tags: list[str] | None = None,
    near: Point | None = None,
) -> str:
    """Looks something up."""
    return f"{query} {order} {limit} {tags} {near}"


if __name__ == "__main__":
    print("the test server is here", file=sys.stderr)
    if "SECRET" in os.environ:
        sys.exit(f"it was not to be started with {len(os.environ['SECRET'])} characters of a secret")
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
