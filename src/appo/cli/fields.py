"""Dataclasses from the fields of a file and from flags, which take precedence.

    --learning_rate 1e-4            a field
    --cold_start.max_steps 10       a field of the cold start
    --lora.r 8                      a name in a field that is a mapping; the file's other names stay

Every mistake is one sentence that says which of the two gave the field. TRL's `TrlParser` is not used for this: it
reads YAML 1.1 (`save_strategy: no` is false, `min_lr: 1e-7` text), lets wrong types of a file through, has no flags
below a mapping, and argparse ends the process with its usage at the first mistake, where a dry run goes on.

Left out on purpose: how a value is read (`field_values.py`), and abbreviated flags.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from appo.cli.field_values import in_mapping, read_texts, read_value, takes_mapping
from appo.cli.mistakes import FieldError, RecipeError
from appo.config import check_values, read_mapping
from appo.errors import UserError, is_complaint
from appo.methods.misplaced import unknown_field

NESTED = "cold_start"
FLAGS = "the flags"  # as the source of a mistake, where it is not the file

Flags = dict[str, list[str]]  # field (perhaps with a name below it) and texts


def split_flags(arguments: Sequence[str]) -> tuple[Flags, Flags]:
    """The flags of the run and those of the cold start: field names with the texts that follow each.

    Raises:
        RecipeError: for a text that follows no flag.
    """
    parts: tuple[Flags, Flags] = ({}, {})
    texts: list[str] | None = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, text = argument.removeprefix("--").partition("=")
            of_nested = name.replace("-", "_").startswith(f"{NESTED}.")
            if of_nested:
                name = name[len(NESTED) + 1 :]
            # Names below a mapping are the user's own, and may have hyphens.
            own, dot, below = name.partition(".")
            texts = [text] if equals else []
            parts[of_nested][f"{own.replace('-', '_')}{dot}{below}"] = texts
        elif texts is None:
            raise RecipeError(f"{FLAGS}: {argument!r} is one value too many; a flag comes before its value.")
        else:
            texts.append(argument)
    return parts


def read_dataclasses(
    kinds: tuple[type, ...], values: Mapping[str, Any], flags: Flags, path: str, part: str = ""
) -> tuple[Any, ...]:
    """Dataclasses from the fields of a file, as `field_values` reads them, and from flags, which take precedence.

    Raises:
        RecipeError: for unknown and missing fields, wrong types, and what the dataclasses refuse.
    """
    known = {f.name: (f, hint) for kind in kinds for f, hint in _fields_of(kind)}
    for source, given in ((path, values), (FLAGS, flags)):
        if unknown := [name for name in map(head, given) if name not in known]:
            raise FieldError(source, part, _unknown(unknown[0], list(known), given.get(unknown[0])))
    names = {*values, *map(head, flags)}
    required = [name for name, (f, _) in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in names]:
        raise FieldError(path, part, f"{missing[0]} is missing; give it.")
    read = {
        name: read_field(name, hint, values, flags, path, part) for name, (_, hint) in known.items() if name in names
    }
    try:
        made = [kind(**{f.name: read[f.name] for f, _ in _fields_of(kind) if f.name in read}) for kind in kinds]
        for settings in made:
            check_values(settings)
        return tuple(made)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if not (isinstance(error, UserError) or is_complaint(error)):
            raise  # a fault in the code of a method of the user's
        said = _with_field(" ".join(str(error).split()), read)
        raise FieldError(source_of(said, values, flags, path), part, said) from None


def read_field(name: str, hint: Any, values: Mapping[str, Any], flags: Flags, path: str, part: str = "") -> Any:
    """One field of a file and its flags.

    Raises:
        RecipeError: for a wrong type.
    """
    below = {flag.partition(".")[2]: texts for flag, texts in flags.items() if flag.startswith(f"{name}.")}
    source, value = FLAGS if name in flags else path, None
    try:
        if name in flags:
            value = read_texts(name, flags[name], hint)
        elif name in values or not below:
            value = read_value(name, values.get(name), hint)
        if not below:
            return value
        if takes_mapping(hint):
            value = read_mapping(name, value)
        source = FLAGS
        if not takes_mapping(hint):
            raise ValueError(f"{name} is no mapping; --{name} VALUE is its flag.")
        return _with_flags(name, value or {}, below)
    except ValueError as error:
        raise FieldError(source, part, str(error)) from None


def _with_flags(name: str, value: Mapping[str, Any], below: Flags) -> dict[str, Any]:
    """A mapping with what flags say of its names; `a.b` is b in the mapping a."""
    changed = dict(value)
    for place, texts in below.items():
        inside, (*path, last) = changed, place.split(".")
        for step in path:
            inner = inside.get(step)
            if inner is not None and not isinstance(inner, dict):
                raise ValueError(f"{name}.{place}: {step} is no mapping, but {inner!r}.")
            inside[step] = inside = dict(inner or {})
        if not last:
            raise ValueError(f"--{name}. needs a name behind its dot.")
        inside[last] = in_mapping(f"{name}.{place}", texts)
    return changed


def head(flag: str) -> str:
    """The field that a flag is about."""
    return flag.partition(".")[0]


def source_of(said: str, values: Mapping[str, Any], flags: Flags, path: str) -> str:
    """Who gave the fields that a sentence names: the file, the flags, or both."""
    flagged = {*map(head, flags)}
    named = named_fields(said.partition(";")[0], {*values, *flagged})  # behind it is the remedy
    if not named & flagged or path == FLAGS:
        return path
    return f"{path} and {FLAGS}" if named - flagged else FLAGS


def named_fields(message: str, given: set[str]) -> set[str]:
    """The fields that a mistake is about, of those given."""
    if unknown := re.match(r"(?:unknown|the) field (\w+)", message):
        return {unknown[1]} & given
    words = set(re.findall(r"\w+", message))
    # A name that is a common word counts only where the sentence begins with it, or names nothing else.
    first = re.split(r"[\s.]", message, maxsplit=1)[0].strip(":'`")
    found = {name for name in given & words if "_" in name or name == first}
    return found or given & words - {"task", "model", "project"}


def _with_field(said: str, read: Mapping[str, Any]) -> str:
    """A sentence that names no field ("fast is not a valid OptimizerNames") behind the one that has the value."""
    texts = {name: value for name, value in read.items() if isinstance(value, str) and value}
    found = [name for name, value in texts.items() if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said)]
    if named_fields(said, set(read)) or len(found) != 1:
        return said
    return f"{found[0]} = {texts[found[0]]!r}: {said}"


def _fields_of(kind: Any) -> list[tuple[Field[Any], Any]]:
    """Fields and annotations; a field whose default is None takes it, whatever its annotation."""
    hints = get_type_hints(kind)
    return [(f, hints[f.name] | None if f.default is None else hints[f.name]) for f in fields(kind) if f.init]


def _unknown(name: str, known: list[str], value: Any) -> str:
    shown = value[0] if isinstance(value, list) and len(value) == 1 else value  # a flag's texts
    return unknown_field(name, known, shown, "see `appo train --help-all`.")
