"""Values of fields as people write them: scalars of a YAML file and texts of flags, read by one function.

An unquoted scalar stays the text that it is until its field is known: the annotation says whether `1e5` is a number or
the name of a revision, and whether `no` is false or a word. A flag's text is read as such a scalar, so that both give
the same value. Below a field that is a mapping nothing is annotated: there YAML 1.2 decides, in which `5e-2` is a
number and dates are text.

    read_value("learning_rate", Plain("5e-4"), float)    # 0.0005

Left out on purpose: which fields there are (`recipe.py`), and what values make sense (the dataclasses).
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

TRUE = ("true", "yes", "on", "t", "y", "1")
FALSE = ("false", "no", "off", "f", "n", "0")
NULL = ("", "~", "null", "Null", "NULL")
# Truth values of YAML 1.1, which many still write; words of 1.2.
AMBIGUOUS = ("yes", "no", "on", "off")
INT = re.compile(r"[-+]?\d+(_\d+)*|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.\d+|\d+(_\d+)*(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Plain(str):
    """Text without quotation marks, whose type is not known yet."""


class _Loader(yaml.SafeLoader):
    """Leaves unquoted scalars as `Plain`."""

    # Of the implicit types only the merge key `<<` stays.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag.endswith(":merge")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class GivenTwice(yaml.YAMLError):
    """A key that a mapping holds twice, of which YAML's loader would keep the last in silence."""


def _construct_mapping(loader: _Loader, node: Any) -> Any:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise GivenTwice(f"{key.value} is given twice, again in line {key.start_mark.line + 1}; keep one")
        if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
            seen.add(key.value)
    yield from yaml.SafeLoader.construct_yaml_map(loader, node)


def _construct_text(loader: _Loader, node: Any) -> str:
    return node.value if node.style else Plain(node.value)


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_text)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse(text: str) -> Any:
    """A YAML document as dictionaries, lists and text, where unquoted scalars are `Plain`.

    Raises:
        yaml.YAMLError: for text that is none.
    """
    return yaml.load(text, _Loader)


def resolve(tree: Any, place: str | None = None) -> Any:
    """What `parse` returned, with the types of YAML 1.2; words stay `Plain`.

    Args:
        place: Given where no field types the words later: they are plain text then, and names the field in errors.

    Raises:
        ValueError: with `place`, for `yes`, `no`, `on` and `off`, which may be meant as true and false.
    """
    if isinstance(tree, dict):
        keys = [str(key) if isinstance(key, Plain) else key for key in map(resolve, tree)]
        values = [resolve(value, place and f"{place}.{key}") for key, value in tree.items()]
        return dict(zip(keys, values, strict=True))
    if isinstance(tree, list):
        return [resolve(value, place) for value in tree]
    if not isinstance(tree, Plain):
        return tree
    if tree in NULL:
        return None
    if tree in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return tree.lower() == "true"
    if INT.fullmatch(tree):
        return read_int(tree)
    if FLOAT.fullmatch(tree):
        return read_float(tree)
    if place is None:
        return tree
    if tree.lower() in AMBIGUOUS:
        raise ValueError(f"{place}: {tree} may be a word or a truth value; write true or false, or '{tree}'.")
    return str(tree)


def read_value(name: str, value: Any, hint: Any) -> Any:
    """A field's value with the type that its annotation asks for.

    Args:
        name: The field, for errors.
        value: What `parse` or `resolve` returned for it, or a value of Python's.
        hint: The annotation; of a union, the first of bool, int, float, text and the rest that fits.

    Raises:
        ValueError: where it has another type, in one sentence that begins with the field.
    """
    kinds = _kinds(hint)
    if isinstance(value, (bool, int, float)):
        value = Plain(str(value).lower())
    if isinstance(value, Plain) or (isinstance(value, str) and str not in kinds):
        return _read_text(name, value, hint)
    containers = {get_origin(kind) or kind: kind for kind in kinds}
    if isinstance(value, list) and list in containers:
        (element,) = get_args(containers[list])
        return [read_value(f"{name}: an element", part, element) for part in value]
    if isinstance(value, list) and len(value) > 1:
        raise ValueError(f"{name}: {str(value[1])!r} is one value too many; this field takes one.")
    if isinstance(value, dict) and dict in containers:
        return resolve(value, name)
    if type(value) in kinds:
        return value
    if value is None:
        raise ValueError(f"{name} cannot be null; leave it out for its default.")
    raise ValueError(f"{name}: invalid {_names(kinds)} value: {value!r}")


def read_texts(name: str, texts: Sequence[str], hint: Any) -> Any:
    """A field's value from what follows its flag: none (a truth value), one text, or several of a list."""
    if not texts:
        if _has_bool(_kinds(hint), True):
            return True
        raise ValueError(f"{name}: its flag needs a value.")
    # In a shell "" is the empty text; in a file nothing is null.
    values = [Plain(text) if text else "" for text in texts]
    return read_value(name, values[0] if len(values) == 1 else values, hint)


def takes_mapping(hint: Any) -> bool:
    """Whether a field with this annotation may be a mapping."""
    return dict in [get_origin(kind) or kind for kind in _kinds(hint)]


def in_mapping(place: str, texts: Sequence[str]) -> Any:
    """A value in a field that is a mapping, from what follows its flag: as `place: text` in YAML 1.2 has it.

    Raises:
        ValueError: where that is no YAML, or a truth value of YAML 1.1.
    """
    if not texts:
        return True
    try:
        values = [resolve(parse(text) if text[:1] in ("{", "[", "'", '"') else Plain(text), place) for text in texts]
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "it does not end"
        raise ValueError(f"{place} is neither YAML nor JSON ({problem}), got {' '.join(texts)!r}.") from None
    # In a shell "" is the empty text; in a file nothing is null.
    values = ["" if text == "" else value for text, value in zip(texts, values, strict=True)]
    return values[0] if len(values) == 1 else values


def read_int(text: str) -> int:
    """Raises ValueError for other text than 12, 1_000, 0o17 and 0x1f."""
    return int(text, 0 if text.lower().lstrip("+-").startswith(("0o", "0x")) else 10)


def read_float(text: str) -> float:
    """Raises ValueError for other text than Python's numbers and YAML's `.inf` and `.nan`."""
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE))


def _read_text(name: str, text: str, hint: Any) -> Any:
    kinds = _kinds(hint)
    if isinstance(text, Plain) and text in NULL:
        return read_value(name, None, hint)
    containers = [get_origin(kind) or kind for kind in kinds]
    if (text[:1] == "{" and dict in containers) or (text[:1] == "[" and list in containers):
        try:
            return read_value(name, parse(text), hint)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or "it does not end"
            raise ValueError(f"{name} is neither YAML nor JSON ({problem}), got {text!r}.") from None
    words = {True: TRUE, False: FALSE} if str not in kinds else {True: ("true",), False: ("false",)}
    for truth, spellings in words.items():
        if _has_bool(kinds, truth) and text.lower() in spellings:
            return truth
    for kind, read in ((int, read_int), (float, read_float)):
        if kind in kinds:
            with suppress(ValueError):
                return read(text)
    if str in kinds:
        return str(text)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum) and text in [member.value for member in kind]:
            return kind(text)
    if list in containers:
        return read_value(name, [text], hint)
    raise ValueError(f"{name}: invalid {_names(kinds)} value: {text!r}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _has_bool(kinds: tuple[Any, ...], value: bool) -> bool:
    literals = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    return bool in kinds or any(choice is value for choice in literals)


def _names(kinds: tuple[Any, ...]) -> str:
    return " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not NoneType)
