"""From `method:` and `method_args:` to a method: by its name, or a class of one's own as `my.module:MyMethod`.

Left out on purpose: entry points and other plug-ins; an import says where a class comes from.
"""

import difflib
import json
import math
import traceback
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from appo.errors import UserError
from appo.methods.base import Method, MethodOptions, Setting


def make_method(
    methods: Mapping[str, type[Method]], name: str, values: dict[str, Any] | None, args: Setting
) -> Method:
    """The method of a run, with its options checked.

    Args:
        methods: Those that are known by name.
        name: One of them, or `module:Class`.
        values: Options by name; None for the defaults.
        args: The run's settings.

    Raises:
        UserError: for unknown names and options, wrong types, and options that contradict each other or the settings.
    """
    kind = find_method(methods, name)
    method = kind(read_options(kind.Options, name, {} if values is None else values), args)
    method.check()
    if not 1 <= method.num_initial <= (args.num_generations or 1):
        raise UserError(
            f"method = {name!r} writes {method.num_initial} rollouts per task before its branches; num_initial has to "
            f"lie between 1 and num_generations = {args.num_generations}."
        )
    return method


def find_method(methods: Mapping[str, type[Method]], name: str) -> type[Method]:
    """The class that a name names.

    Raises:
        UserError: where there is none. An error inside the user's module is left as it is.
    """
    if name in methods:
        return methods[name]
    module, _, attribute = name.partition(":")
    if not (attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        close = difflib.get_close_matches(name.lower(), methods, 1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(methods)}, or my.module:MyMethod."
        raise UserError(f"method = {name!r} is unknown; {hint}")
    try:
        found = getattr(import_module(module), attribute, None)
    except ImportError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"method = {name!r}: there is no module {module} in the current folder or on PYTHONPATH; write "
                "my.module:MyMethod."
            ) from None
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"method = {name!r}: {module} cannot be imported: {error} ({last.filename}, line {last.lineno})."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method = {name!r}: {module} holds no class {attribute} derived from appo.methods.Method.")
    if found.base_advantages is Method.base_advantages and found.credit is Method.credit:
        raise UserError(f"method = {name!r} has no base_advantages; write it (docs/methods.md).")
    return found


def read_options(kind: type[MethodOptions], method: str, values: dict[str, Any]) -> Any:
    """An instance of `kind` with `values`, whose types are looked at.

    Raises:
        UserError: naming the option, for unknown names and wrong types.
    """
    if not isinstance(values, dict):
        raise UserError(f"method_args must be a mapping, got {values!r}.")
    known = {f.name: f for f in fields(kind)}
    hints = get_type_hints(kind)
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}; leave out those of others."
            raise UserError(f"method_args: method = {method!r} has no option {name}; {hint}")
    try:
        return kind(**{name: typed(name, value, hints[name]) for name, value in values.items()})
    except UserError as error:
        raise UserError(f"method_args: {error}") from None


def typed(name: str, value: Any, hint: Any) -> Any:
    """The value as its annotation has it: as JSON, so that a list may be a tuple and 1 a float, but true no number.

    Raises:
        UserError: for another type, and for numbers that are not finite.
    """
    try:
        typed = TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError):
        shown = hint.__name__ if isinstance(hint, type) else str(hint)
        raise UserError(f"{name} must be of type {shown}, got {value!r}.") from None
    for number in typed if isinstance(typed, (list, tuple)) else [typed]:
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{name} must be a finite number, got {number}.")
    return typed
