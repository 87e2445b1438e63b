"""A Python function from a JSON schema, such that transformers' `get_json_schema` reads the schema back.

Chat templates and TRL take tools as functions and make a schema of the signature and the docstring. So a schema that
comes from elsewhere is written into both:

- types become hints: `str`, `int`, `float`, `bool`, `list[..]`, `dict[..]`, `Literal` for `enum` and `const`, `Union`
  for `anyOf` and lists of types. `$ref` is resolved.
- whatever no hint says (bounds, patterns, properties of an object, ..) is appended to the description, as JSON; a
  default, too. Nothing is dropped but `title`s.
- an argument without a description, which transformers insists on, is described by its title or its name.
- a name that is no Python name is changed: other characters become `_`, and `_` is appended to a keyword.
- in descriptions `Args:`, `Returns:`, `Raises:` and `(choices:` are worded otherwise, as transformers would take them
  for its own. A description that is a Google-style docstring is taken apart instead.

Left out on purpose: checking arguments against the schema, which is for whoever answers the call; spelling out a
schema that contains itself.
"""

import inspect
import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

from transformers.utils.chat_template_utils import parse_google_format_docstring

_TYPES = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}
_NOTES = frozenset(("title", "description", "default", "examples", "deprecated", "$comment"))  # they constrain nothing
_ROOT = frozenset(("type", "properties", "required", "additionalProperties", "$schema", "$id", "$defs", "definitions"))
_MARKS = {"Args:": "Arguments:", "Returns:": "Return value:", "Raises:": "Errors:", "(choices:": "(choices are:"}


def make_function(
    name: str, description: str, schema: Mapping[str, Any], call: Callable[[dict[str, Any]], Any]
) -> Callable[..., Any]:
    """A function with keyword arguments that says what a JSON schema says.

    Args:
        name: Its name.
        description: What it does; may be empty.
        schema: Of its arguments: an object.
        call: Gets the arguments that a caller gave, under the schema's names; defaults are not filled in.

    Raises:
        ValueError: where two names of the schema become the same Python name.
    """
    properties = {key: _resolve(value, schema) for key, value in (schema.get("properties") or {}).items()}
    names = python_names(properties, f"tool {name}: the arguments")
    required = set(schema.get("required") or ())
    text, described, returns = _take_apart(description, properties)
    hints: dict[str, Any] = {}
    parameters, lines = [], []
    for python_name, key in names.items():
        hints[python_name], whole = type_hint(properties[key])
        lines.append(f"    {python_name}: {_argument_text(key, properties[key], described.get(key, ''), whole)}")
        default = inspect.Parameter.empty if key in required else _default(properties[key])
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(python_name, kind, default=default, annotation=hints[python_name]))
    signature = inspect.Signature(parameters, return_annotation=str)

    def function(**arguments: Any) -> Any:
        signature.bind(**arguments)
        return call({names[python_name]: value for python_name, value in arguments.items()})

    function.__name__ = function.__qualname__ = name
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {**hints, "return": str}
    rest = {key: _resolve(value, schema) for key, value in schema.items() if key not in _ROOT | _NOTES}
    sections = [text or name, *([f"The arguments follow the JSON schema {_json(rest)}."] if rest else [])]
    sections += ["\n".join(["Args:", *lines])] if lines else []
    function.__doc__ = "\n\n".join([*sections, f"Returns:\n    {returns or 'The result.'}"])
    return function


def python_names(names: Any, what: str) -> dict[str, str]:
    """Python names, and for each the name that it stands for.

    Raises:
        ValueError: where two become the same; `what` says whose they are.
    """
    found: dict[str, str] = {}
    for name in names:
        python_name = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not python_name or python_name[0].isdigit():
            python_name = f"_{python_name}"
        if keyword.iskeyword(python_name):
            python_name += "_"
        if python_name in found:
            raise ValueError(f"{what} {found[python_name]!r} and {name!r} both become {python_name} as a Python name.")
        found[python_name] = name
    return found


def type_hint(schema: Any) -> tuple[Any, bool]:
    """The type hint of a schema without references, and whether it says all of it."""
    if not isinstance(schema, Mapping):
        return Any, schema is True
    keys = set(schema) - _NOTES
    if "enum" in keys or "const" in keys:
        values = schema.get("enum", [schema.get("const")])
        if values and all(isinstance(value, (str, int, float, bool, type(None))) for value in values):
            return Literal[tuple(values)], keys <= {"enum", "const", "type"}
        return Any, False
    if keys & {"anyOf", "oneOf"}:
        options = schema.get("anyOf", schema.get("oneOf"))
        return _union(options, keys == {"anyOf"})
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union([{**schema, "type": one} for one in kind], True)
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        hint, whole = type_hint(schema["items"])
        return list[hint], whole and keys == {"type", "items"}  # type: ignore[valid-type]
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        hint, whole = type_hint(schema["additionalProperties"])
        return dict[str, hint], whole and keys == {"type", "additionalProperties"}  # type: ignore[valid-type]
    if kind in _TYPES:
        return _TYPES[kind], keys == {"type"} or (kind == "object" and schema.get("additionalProperties") is True)
    return Any, not keys


def _union(options: list[Any], whole: bool) -> tuple[Any, bool]:
    hints = [type_hint(option) for option in options]
    if not hints:
        return Any, False
    return Union[tuple(hint for hint, _ in hints)], whole and all(complete for _, complete in hints)  # noqa: UP007


def _resolve(schema: Any, root: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Any:
    """The schema with what its references refer to; a reference to something that it is inside of stays."""
    if isinstance(schema, list):
        return [_resolve(item, root, inside) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/") or reference in inside:
        return {key: _resolve(value, root, inside) for key, value in schema.items()}
    target: Any = root
    for part in reference[2:].split("/"):
        target = target.get(part.replace("~1", "/").replace("~0", "~"), True) if isinstance(target, Mapping) else True
    found = _resolve(target, root, (*inside, reference))
    own = {key: _resolve(value, root, inside) for key, value in schema.items() if key != "$ref"}
    return {**found, **own} if isinstance(found, Mapping) else found


def _take_apart(description: str, properties: Mapping[str, Any]) -> tuple[str, dict[str, str], str | None]:
    """What a description says of the tool, of each argument and of the result."""
    description = inspect.cleandoc(description)
    text, arguments, returns = parse_google_format_docstring(description)
    if arguments and arguments.keys() <= properties.keys():
        return _plain(text or ""), arguments, returns and _one_line(returns)
    return _plain(description), {}, None


def _argument_text(name: str, schema: Any, documented: str, whole: bool) -> str:
    schema = schema if isinstance(schema, Mapping) else {}
    texts = (schema.get("description"), documented, schema.get("title"), name)
    text = next(filter(None, (_one_line(candidate or "") for candidate in texts)), "An argument.")
    if schema.get("default") is not None:
        text += f" (default: {_json(schema['default'])})"
    if not whole:
        constraints = {key: value for key, value in schema.items() if key not in _NOTES}
        text += f" (JSON schema: {_json(_without_titles(constraints))})"
    return text


def _default(schema: Any) -> Any:
    """What the signature shows; a call without the argument leaves it to the other side."""
    return schema.get("default") if isinstance(schema, Mapping) else None


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    # A property may be called "title"; then it is a schema and no text.
    return {k: _without_titles(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}


def _json(value: Any) -> str:
    return _plain(json.dumps(value, ensure_ascii=False))


def _one_line(text: str) -> str:
    return _plain(" ".join(text.split()))


def _plain(text: str) -> str:
    for mark, words in _MARKS.items():
        text = text.replace(mark, words)
    return text
