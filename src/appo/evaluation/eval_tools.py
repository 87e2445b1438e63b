"""The tools that a model under evaluation may call, from what `--tools` and `--search` say.

Whatever can be found out without the model is found out here: names, files, whether a search server answers, whether
Python programs can be isolated. Left out on purpose: environments; a benchmark's question has no state.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from transformers.utils import get_json_schema

from appo.errors import UserError
from appo.evaluation.eval_config import EvalConfig
from appo.tools import PythonSandbox, ToolError
from appo.tools.schema_tool import SchemaTool
from appo.tools.search.source import SERVER_KINDS, open_search, split_spec

Tools = dict[str, Callable[..., Any]]
PROGRAM_SECONDS = 5.0  # as the sandbox has it by default, in training too


def tool_specs(config: EvalConfig) -> list[str]:
    """What `tools` asks for: python, search, module:function; the default written out."""
    default = "python,search" if config.search else "python"
    given = [spec.strip() for spec in (config.tools if config.tools is not None else default).split(",")]
    return [] if given == ["none"] else list(dict.fromkeys(given))


def open_tools(config: EvalConfig) -> Tools:
    """The tools by name.

    Raises:
        UserError: in one sentence, for a tool or search that does not exist or does not work.
    """
    specs = tool_specs(config)
    if ("search" in specs) != (config.search is not None):
        raise UserError("tools with search and --search SOURCE belong together; give both or neither.")
    tools: Tools = {}
    for spec in specs:
        if spec == "python":
            tool = python_tool(config.tool_timeout, config.allow_unisolated)
        elif spec == "search":
            tool = _search(config)
        else:
            tool = function_tool(spec)
        name = tool.__name__
        if name in tools or name in ("answer", "think", "result"):
            raise UserError(f"tools: two things are called {name}; rename a function.")
        tools[name] = tool
    return tools


def python_tool(tool_timeout: float, allow_unisolated: bool) -> Callable[..., Any]:
    """Isolated Python, whose programs end within the time of a call.

    Raises:
        UserError: where programs cannot be isolated.
    """
    try:
        # Within the call's time, so that the policy reads what became of its program.
        timeout = min(PROGRAM_SECONDS, 0.8 * tool_timeout)
        return PythonSandbox(timeout_s=timeout, allow_unisolated=allow_unisolated).python
    except RuntimeError as error:
        raise UserError(str(error)) from None


def _search(config: EvalConfig) -> Callable[..., Any]:
    spec, given = str(config.search), config.search_options or {}
    assert isinstance(given, dict)
    try:
        if split_spec(spec)[0] not in SERVER_KINDS:
            return open_search(spec, **given).search
        # Kept, so that a run that goes on reads what it would have read; and the policy reads why a search failed.
        options = {"cache": config.directory / "search.sqlite", "patience": 0.8 * config.tool_timeout}
        search = open_search(spec, **{**options, **given})
        search.find("capital of France")
    except ToolError as error:
        raise UserError(f"search = {spec!r} does not work: {error}.") from None
    return search.search


def function_tool(spec: str) -> Callable[..., Any]:
    """The tool that `my.module:function` names.

    Raises:
        UserError: where there is none, or a model could not be told of it.
    """
    module, _, name = spec.partition(":")
    if not name or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"tools: {spec!r} is neither python nor search nor my.module:function, nor none alone.")
    try:
        tool = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if not (error.name and f"{module}.".startswith(f"{error.name}.")):
            raise  # a package that the module itself imports
        raise UserError(f"tools: {spec!r} cannot be imported: {error}.") from None
    if not callable(tool) or not getattr(tool, "__name__", "").isidentifier():
        raise UserError(f"tools: {spec!r} is no function.")
    check_schema(tool, repr(spec))
    return tool


def check_schema(tool: Callable[..., Any], name: str) -> None:
    """
    Raises:
        UserError: for a tool that a model could not be told of, as hints or a docstring are missing.
    """
    if isinstance(tool, SchemaTool):
        return
    try:
        get_json_schema(tool)  # what TRL asks of a tool
    except Exception as error:  # DocstringParsingException, TypeHintParsingException and what inspect raises
        raise UserError(f"tools: {name}: {' '.join(str(error).split())}") from None
