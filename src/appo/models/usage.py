"""`appo.json`: how a trained model wants to be asked, beside its weights.

A policy answers as it was trained only where it is asked as it was trained: by the same way of writing calls, with the
same system prompt and bounds. All that saves a model writes this file beside it, `appo.Agent` and `appo chat` read it.

    {"tool_protocol": "tags", "result_format": "\\n<result>\\n{}\\n</result>\\n", "tools": ["python"], ...}

Left out on purpose: the tools themselves, which are code; their names say what was there.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from transformers.utils import cached_file

from appo.errors import UserError
from appo.files import read_json

FILE = "appo.json"
LOOKED_AT = 100  # prompts, for the system prompt that they share


@dataclass
class Usage:
    """What is known of how a model was trained; None is not known, or the default of transformers.

    Args:
        tool_protocol, result_format, add_tools, chat_template_kwargs, max_completion_length,
            max_tool_calling_iterations, max_tool_calls, max_tool_result_chars, tool_timeout, temperature, top_p,
            top_k, min_p: As in `APPOConfig`.
        prompts: "messages", or "text" where prompts were plain texts.
        system_prompt: The system message of all prompts; "" where they had none, None where they had several.
        tools: Names of the tools, those of environments too.
    """

    tool_protocol: str | None = None
    result_format: str | None = None
    add_tools: bool | None = None
    prompts: str | None = None
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[str] | None = None
    max_completion_length: int | None = None
    max_tool_calling_iterations: int | None = None
    max_tool_calls: int | None = None
    max_tool_result_chars: int | None = None
    tool_timeout: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What is known, as JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def usage_of(args: Any, tools: Iterable[str], prompts: Iterable[Any]) -> Usage:
    """What a training says of the use of its model.

    Args:
        args: An `APPOConfig`.
        tools: Names of the tools.
        prompts: Of the training data, texts or messages, or None where an environment gives them; the first ones are
            looked at.
    """
    found = [prompt for prompt in islice(prompts, LOOKED_AT) if prompt is not None]
    systems = {_system_of(prompt) for prompt in found}
    own = {f.name: getattr(args, f.name) for f in fields(Usage) if hasattr(args, f.name)}
    return Usage(
        **{**own, "result_format": args.result_format if args.tool_protocol == "tags" else None},
        prompts=("text" if isinstance(found[0], str) else "messages") if found else None,
        system_prompt=systems.pop() if len(systems) == 1 else None,
        tools=list(tools),
    )


def _system_of(prompt: Any) -> str:
    """The text of a prompt's system message; "" where it has none."""
    first = prompt[0] if isinstance(prompt, list) and prompt else {}
    content = first.get("content") if first.get("role") == "system" else ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or [])


def read_usage(source: str) -> Usage:
    """What the model of a directory, or of the hub, says; nothing where it has no such file.

    Raises:
        UserError: for a file that is broken.
    """
    path = Path(source, FILE) if Path(source).is_dir() else _of_hub(source)
    if path is None or not path.is_file():
        return Usage()
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} is broken: it holds no JSON object; mend it, or take it away.")
    hints = get_type_hints(Usage)
    for name, hint in hints.items():
        value, kinds = found.get(name), _kinds(hint)
        listed = value if isinstance(value, list) else ()  # of texts, all that there are
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong or any(not isinstance(one, str) for one in listed):
            raise UserError(f"{path}: {name} = {value!r} is of the wrong type; mend it, or take it away.")
    # What a later version adds is left out.
    return Usage(**{name: found[name] for name in hints if name in found})


def _kinds(hint: Any) -> tuple[type, ...]:
    """The classes of an annotation such as `float | None`; a number without a point is a float, too."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = tuple(get_origin(part) or part for part in parts)
    return (*kinds, int) if float in kinds else kinds


def _of_hub(source: str) -> Path | None:
    """The file of a model on the hub; None where it has none or the hub does not answer."""
    try:
        found = cached_file(
            source,
            FILE,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # no such model, which whoever loads it says better
        return None
    return None if found is None else Path(found)
