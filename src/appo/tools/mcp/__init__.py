"""Tools of MCP servers, over stdio and HTTP (extra `mcp`)."""

from appo.tools.mcp.server import MCPServer, UnusableServer

__all__ = ["MCPServer", "UnusableServer"]
