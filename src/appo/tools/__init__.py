"""Tools that a policy may call: plain functions with type hints and Google-style docstrings, as TRL reads them."""

from appo.tools.python import PythonSandbox
from appo.tools.results import ToolError, ToolResult

__all__ = ["PythonSandbox", "ToolError", "ToolResult"]
