"""Whether a tool says what a policy has to know: a name, a docstring, parameters with type hints and descriptions.

A chat template shows all of it; in tags the hint says how the call's text is read. What lacks something is refused
when a trainer is made, not when the first prompt is rendered.

By kind: functions and bound methods are tools, those with `functools.wraps` by what they wrap; a `SchemaTool` (MCP)
brings a description of its own. Lambdas, partials, classes and objects with `__call__` are refused: they have no name
of their own, or nobody can read their parameters. So are `*args` and `**kwargs`, which a policy cannot write.

Left out on purpose: whether a description is a good one.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import parse_google_format_docstring

from appo.errors import UserError
from appo.tools.schema_tool import SchemaTool

WRAP = "write a function with `def` that calls it, with type hints and a docstring"


def check_tool(tool: Any, tool_protocol: str = "chat_template") -> None:
    """
    Raises:
        UserError: for the first thing that a tool lacks; see `tool_problems`.
    """
    for problem in tool_problems(tool, tool_protocol):
        raise UserError(problem)


def tool_problems(tool: Any, tool_protocol: str) -> Iterator[str]:
    """What a tool lacks, a sentence each: it names the tool, the parameter and what to write.

    Args:
        tool: What was given as one.
        tool_protocol: `tags` asks for no descriptions of parameters, as nobody reads them.
    """
    if isinstance(tool, SchemaTool):
        return
    try:
        check_is_function(tool)
    except UserError as error:
        yield str(error)
        return
    name = name_of(tool)
    try:
        parameters = inspect.signature(tool).parameters.values()
    except ValueError:  # some that are built in
        yield f"tool {name} does not say which parameters it has; {WRAP}."
        return
    missing = list(_missing(tool, name, parameters, described=tool_protocol != "tags"))
    yield from missing
    if tool_protocol != "tags" and not missing:
        try:
            get_json_schema(tool)  # what chat templates are given
        except Exception as error:  # a hint that cannot be looked up, or that JSON has no type for; choices
            yield f"tool {name}: {' '.join(str(error).split())} (as transformers reads its hints and docstring)."


def check_is_function(tool: Any) -> None:
    """
    Raises:
        UserError: for what has no name by which a policy could call it, and for anything else but functions.
    """
    if not isinstance(tool, SchemaTool) and not (inspect.isroutine(tool) and tool.__name__.isidentifier()):
        raise UserError(f"tools: {_kind(tool)}.")


def _missing(tool: Callable[..., Any], name: str, parameters: Any, described: bool) -> Iterator[str]:
    doc = inspect.getdoc(tool)
    if not doc:
        yield (
            f"tool {name} has no docstring; write one that says what it does, with a line per parameter below `Args:`."
        )
    descriptions = parse_google_format_docstring(doc.strip())[1] if doc else None
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield f"tool {name}: a policy cannot write {parameter}; give its parameters names, each with a type hint."
            continue
        if parameter.annotation is parameter.empty:
            yield (
                f"tool {name}: the parameter {parameter.name} has no type hint; write `{parameter.name}: str`, or "
                "another type."
            )
        if described and doc and parameter.name not in (descriptions or {}):
            yield (
                f"tool {name}: its docstring does not describe the parameter {parameter.name}; write "
                f"`{parameter.name}: What it is.` below a line `Args:`."
            )


def name_of(tool: Any) -> str:
    """`Class.method` for a method, else the function's name."""
    owner = getattr(tool, "__self__", None)
    return f"{type(owner).__name__}.{tool.__name__}" if inspect.ismethod(tool) else tool.__name__


def _kind(tool: Any) -> str:
    """What was given in place of a function, and the remedy."""
    kind = type(tool).__name__
    if inspect.isroutine(tool):
        return f"a lambda has no name that a policy could call; {WRAP}"
    if isinstance(tool, functools.partial):
        return f"a functools.partial of {getattr(tool.func, '__name__', tool.func)} has no name of its own; {WRAP}"
    if inspect.isclass(tool):
        return (
            f"{tool.__name__} is a class; give methods of an object, such as {tool.__name__}(..).METHOD, or the class "
            f"as environment_factory={tool.__name__}"
        )
    if callable(tool):
        return f"an object of class {kind} is no function; give one of its methods by name, or {WRAP}"
    return f"{tool!r} is no function; give the function itself, without quotation marks and without calling it"
