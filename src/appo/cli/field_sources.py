"""Fields of dataclasses as their source text has them: names, types, defaults and helps, without importing anything.

To import TRL takes seconds, and a help should answer at once. So the files are parsed, and what stands in them is
worked out as far as help needs it: constants, joined texts, names of the same file or of one that it imports from.
What cannot be worked out is given as the text that stands there. A test compares all of it with the dataclasses.

    fields_of("trl.trainer.grpo_config", "GRPOConfig")

Left out on purpose: running any of the code. A name that is set under a condition may have each of its values.
"""

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where a name is defined that a package's `__init__` hands on.
HOMES = {("transformers", "TrainingArguments"): "transformers.training_args"}
REQUIRED = object()  # as a default: there is none


class NotFound(LookupError):
    """A module has no source text here, or not what was looked for."""


@dataclass(frozen=True)
class Source:
    """What could not be worked out, as it stands in the file."""

    text: str


@dataclass(frozen=True)
class Either:
    """A value that depends on what is installed: one of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class FieldInfo:
    """
    Args:
        name: The field's.
        type: Its annotation, as written.
        default: A value, `Source`, `Either`, or REQUIRED.
        help: Its text; empty where there is none.
        owner: The class that first has the field.
    """

    name: str
    type: str
    default: Any
    help: str
    owner: str


def fields_of(module: str, name: str, inherited: bool = True) -> list[FieldInfo]:
    """The fields of a dataclass and those that it inherits, in the order in which `dataclasses.fields` has them.

    Args:
        inherited: False: only those that it has itself.

    Raises:
        NotFound: where its source, or that of a class that it is derived from, is not here.
    """
    found: dict[str, FieldInfo] = {}
    classes = list(lineage(module, name)) if inherited else [class_node(module, name)]
    for part, node in reversed(classes):
        scope = Scope(part, node)
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                info = _field(statement, scope, node.name)
                if info is not None:
                    before = found.get(info.name)
                    owner = before.owner if before else info.owner
                    found[info.name] = FieldInfo(info.name, info.type, info.default, info.help, owner)
    return list(found.values())


def own_fields(module: str, name: str) -> set[str]:
    """The names that the class itself annotates."""
    node = class_node(module, name)[1]
    return {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}


def keys_of(module: str, name: str) -> list[tuple[str, str]]:
    """Keys of a dictionary at the top of a module, and the names that are its values."""
    node = assigned(module, name)
    if not isinstance(node, ast.Dict):
        raise NotFound(f"{module}.{name} is no dictionary")
    pairs = zip(node.keys, node.values, strict=True)
    return [(str(k.value), v.id) for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Name)]


def attribute_of(module: str, name: str, attribute: str) -> tuple[str, str]:
    """The module and name of the class that a class, or one that it is derived from, has as an attribute."""
    for part, node in lineage(module, name):
        for statement in node.body:
            value, target = None, None
            if isinstance(statement, ast.Assign):
                value, target = statement.value, statement.targets[0]
            elif isinstance(statement, ast.AnnAssign):
                value, target = statement.value, statement.target
            if isinstance(target, ast.Name) and target.id == attribute and isinstance(value, ast.Name):
                home, found = class_node(part, value.id)
                return home, found.name
    raise NotFound(f"{module}.{name} has no {attribute}")


def lineage(module: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """A class and those that it is derived from, each with its module; one base each."""
    home, node = class_node(module, name)
    yield home, node
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id not in ("Protocol", "object"):
            yield from lineage(home, base.id)


def class_node(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """The class of a name in a module, which may import it, and the module that defines it."""
    for node in parsed(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    place = imported_from(module, name)
    if place is None:
        raise NotFound(f"{module} has no class {name}")
    return class_node(*place)


def imported_from(module: str, name: str) -> tuple[str, str] | None:
    """The module and the name that `from .. import name` brings into a module."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    home = _absolute(module, node)
                    return HOMES.get((home, alias.name), home), alias.name
    return None


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if source_path(module).name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, node.module] if node.module else package)


@functools.cache
def parsed(module: str) -> ast.Module:
    """
    Raises:
        NotFound: where there is no source.
    """
    try:
        return ast.parse(source_path(module).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise NotFound(f"the source of {module} cannot be read ({error})") from None


@functools.cache
def source_path(module: str) -> Path:
    """The file of a module, which is not imported, nor are the packages that it lies in."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is not None and not rest and spec.origin:
        return Path(spec.origin)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    raise NotFound(f"the source of {module} is not here")


def assigned(module: str, name: str) -> ast.expr | None:
    """What a name at the top of a module is set to; None where it is not set there."""
    for node in parsed(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return getattr(node, "value", None)
    return None


def _field(statement: ast.AnnAssign, scope: "Scope", owner: str) -> FieldInfo | None:
    """A field from its annotated line; None for a class variable."""
    assert isinstance(statement.target, ast.Name)
    kind, value = ast.unparse(statement.annotation), statement.value
    if kind.startswith("ClassVar"):
        return None
    default: Any = REQUIRED
    said: Any = ""
    if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        if "default" in given:
            default = scope.value(given["default"])
        elif "default_factory" in given:
            default = scope.made(given["default_factory"])
        if "metadata" in given:
            said = scope.value(given["metadata"])
            said = said.get("help", "") if isinstance(said, dict) else ""
    elif value is not None:
        default = scope.value(value)
    return FieldInfo(statement.target.id, kind, default, said if isinstance(said, str) else said.text, owner)


class Unknown(Exception):
    """An expression that is not worked out."""


class Scope:
    """The names of a class body and its module."""

    def __init__(self, module: str, node: ast.ClassDef | None = None) -> None:
        self.module, self.node = module, node

    def value(self, node: ast.expr) -> Any:
        """What an expression comes to; `Source` where that is not worked out."""
        try:
            return self._work_out(node)
        except (Unknown, NotFound):
            return Source(ast.unparse(node))

    def made(self, node: ast.expr) -> Any:
        """What a default factory makes."""
        if isinstance(node, ast.Name) and node.id in ("list", "dict"):
            return [] if node.id == "list" else {}
        return self.value(node.body) if isinstance(node, ast.Lambda) else Source(ast.unparse(node))

    def _work_out(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._work_out(node.operand)
        if isinstance(node, ast.Tuple | ast.List):
            return [self._work_out(one) for one in node.elts]
        if isinstance(node, ast.Dict):  # its values may be classes, and only its keys be asked for
            keys = [None if key is None else self._work_out(key) for key in node.keys]
            return {key: self.value(one) for key, one in zip(keys, node.values, strict=True)}
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
            left, right = self._work_out(node.left), self._work_out(node.right)
            return left + right if isinstance(node.op, ast.Add) else left * right
        if isinstance(node, ast.JoinedStr):
            return "".join(map(self._text, node.values))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            return self._work_out(node.func.value).join(self._work_out(node.args[0]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "list":
            return list(self._work_out(node.args[0]))
        if isinstance(node, ast.Name):
            return self._named(node.id)
        raise Unknown

    def _text(self, node: ast.expr) -> str:
        inner = node.value if isinstance(node, ast.FormattedValue) else node
        return str(self._work_out(inner))

    def _named(self, name: str) -> Any:
        body = ast.walk(ast.Module(self.node.body, [])) if self.node else iter(())
        values = [
            self._work_out(one.value)
            for one in body
            if isinstance(one, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in one.targets)
        ]
        if values:
            return values[0] if len(values) == 1 else Either(tuple(values))
        if (node := assigned(self.module, name)) is not None:
            return Scope(self.module)._work_out(node)
        if (place := imported_from(self.module, name)) is not None:
            return Scope(place[0])._named(place[1])
        raise Unknown
