"""Arguments of a tool from what the policy wrote: a mapping by name, or one text, made what the parameter's hint says.

Values are read by pydantic. Which parameter a text is for is ours to say: transformers makes a schema of a function
(`get_json_schema`, which the chat template is given), but binds nothing to one.

Left out on purpose: checking a mapping's values against the hints. JSON has types of its own, and TRL passes them on
as they are, too.
"""

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, get_type_hints, is_typeddict

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from appo.tools.schema_tool import SchemaTool


def bind_arguments(function: Callable[..., Any], arguments: Any) -> dict[str, Any]:
    """Keyword arguments for `function` from what the policy wrote.

    A mapping is taken by name. Text goes to the only required parameter, as a value of its hint: as it is where the
    hint takes text, else read as JSON or as pydantic reads text (`True`, `nan`, an enum's value, a date). A
    `TypedDict` is any JSON object; in a union or a list, before Python 3.12, it has to be that of `typing_extensions`,
    or its argument stays text. A function with several required parameters takes a JSON object.

    Raises:
        TypeError, ValueError: with a sentence for the policy.
    """
    if isinstance(function, SchemaTool):
        return function.bind(arguments)
    plain = getattr(function, "__func__", function)
    # Objects that can be called may have no hash, or be equal to others.
    read = _signature if inspect.isroutine(plain) else _signature.__wrapped__
    signature, readers = read(plain, hasattr(function, "__func__"))
    named = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if isinstance(arguments, str):
        required = [p.name for p in named if p.default is p.empty] or [p.name for p in named[:1]]
        if len(required) == 1:
            arguments = {required[0]: _value(arguments, readers.get(required[0]))}
        else:
            arguments = json.loads(arguments) if arguments else {}
    if not isinstance(arguments, Mapping):
        raise TypeError(f"arguments must be a JSON object with {', '.join(p.name for p in named) or 'no names'}")
    signature.bind(**arguments)
    return dict(arguments)


@functools.lru_cache(maxsize=1024)
def _signature(function: Callable[..., Any], is_method: bool) -> tuple[inspect.Signature, dict[str, TypeAdapter[Any]]]:
    """Signature without `self`, and what reads each parameter's text; every rollout has methods of its own of the same
    few functions."""
    signature = inspect.signature(function)
    if is_method:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    names = getattr(inspect.unwrap(function), "__globals__", {})
    readers = {}
    for name, parameter in signature.parameters.items():
        if parameter.annotation is not parameter.empty:
            reader = _reader(parameter.annotation, names)
            if reader is not None:
                readers[name] = reader
    return signature, readers


def _reader(annotation: Any, names: dict[str, Any]) -> TypeAdapter[Any] | None:
    """What reads text as a value of a hint; None for text, for a hint that pydantic does not know, and for one that
    cannot be looked up, as its names are imported for type checkers only."""
    try:
        # A hint at a time, so that one that cannot be looked up spoils no other.
        hints = get_type_hints(SimpleNamespace(__annotations__={"value": annotation}), names, include_extras=True)
        hint = hints["value"]
        if is_typeddict(hint):  # before Python 3.12 pydantic knows those of `typing_extensions` alone
            hint = dict[str, Any]
        return None if hint is str else TypeAdapter(hint)
    except (NameError, AttributeError, TypeError, SyntaxError, PydanticUserError):
        return None


def _value(text: str, reader: TypeAdapter[Any] | None) -> Any:
    """The value of a hint that a text stands for; the text itself where the hint takes texts, or says nothing."""
    if reader is None:
        return text
    with suppress(ValidationError):
        value = reader.validate_python(text, strict=True)
        if isinstance(value, str):
            return value
    try:
        value = reader.validate_json(text)
        return iter(list(value)) if isinstance(value, Iterator) else value  # else it would fail in the tool
    except ValidationError as error:
        faults = error.errors(include_url=False)
    try:
        value = reader.validate_python(text)
        if not isinstance(value, Iterator):  # over the text's characters
            return value
    except ValidationError as error:
        if any(fault["type"] == "json_invalid" for fault in faults):
            faults = error.errors(include_url=False)
    reasons = "; ".join(dict.fromkeys(fault["msg"] for fault in faults))
    raise ValueError(f"{text[:100]!r} does not fit: {reasons}")
