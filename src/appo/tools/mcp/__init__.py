"""Tools of MCP servers, over stdio and HTTP (extra `mcp`)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appo.tools.mcp.server import MCPServer, UnusableServer

__all__ = ["MCPServer", "UnusableServer"]


def __getattr__(name: str) -> Any:
    # When first used, so that `python -m appo.tools.mcp` can say in one sentence that the extra is missing.
    if name not in __all__:
        raise AttributeError(f"module 'appo.tools.mcp' has no attribute {name!r}")
    return getattr(import_module("appo.tools.mcp.server"), name)
