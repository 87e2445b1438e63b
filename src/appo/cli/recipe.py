"""A recipe: one YAML file that describes a run, and flags that change it.

Fields at the top level are those of `RunConfig` and `APPOConfig` (thus of TRL's `GRPOConfig`); those below
`cold_start:` are TRL's `SFTConfig`. A flag `--field value` overrides a field, `--cold_start.field value` one of the
cold start, `--field.name value` a name in a field that is a mapping. `extends: other.yaml` (its path as seen from this
file) takes that file's fields: mappings are merged, everything else is replaced. Every mistake is one sentence
(`RecipeError`), found before anything is loaded.

Left out on purpose: files that extend a file which extends another, interpolation, and lists that are merged.
"""

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from trl import SFTConfig

from appo.cli.buildable import check_buildable
from appo.cli.field_values import parse, resolve
from appo.cli.fields import NESTED, Flags, head, named_fields, read_dataclasses, read_field, source_of, split_flags
from appo.cli.mistakes import FieldError, RecipeError, fault_of
from appo.cli.run_config import RunConfig
from appo.config import APPOConfig
from appo.errors import UserError

__all__ = ["NESTED", "RecipeError", "RunConfig", "collect_settings", "make_settings", "read_recipe", "read_yaml"]

EXTENDS = "extends"
Settings = tuple[RunConfig, APPOConfig, SFTConfig]


@dataclass(frozen=True)
class _File:
    """Fields of a recipe, whose unquoted scalars have no type yet, and how errors call their source."""

    values: dict[str, Any]
    name: str


def read_recipe(path: str, overrides: list[str]) -> Settings:
    """Reads a recipe.

    Args:
        path: The YAML file.
        overrides: Flags, for example `["--learning_rate", "1e-4", "--cold_start.max_steps", "10"]`.

    Raises:
        RecipeError: for a missing file, unknown fields, wrong types and contradictory values.
    """
    file = _read_file(path)
    return make_settings(file.values, file.name, overrides)


def make_settings(
    values: dict[str, Any], path: str, overrides: Sequence[str] = (), config: type[APPOConfig] = APPOConfig
) -> Settings:
    """Settings from the fields of a recipe; `path` names their source in errors, `config` is the trainer's class."""
    return _make_settings(values, path, *split_flags(overrides), config)


def _make_settings(
    values: dict[str, Any], path: str, flags: Flags, nested_flags: Flags, config: type[APPOConfig] = APPOConfig
) -> Settings:
    values = dict(values)
    nested = values.pop(NESTED, None)
    if not isinstance(nested, dict):
        nested = resolve(nested) or {}  # nothing but comments below it
    if not isinstance(nested, dict):
        raise FieldError(path, "", f"{NESTED} must be a mapping of SFTConfig fields, got {nested!r}.")
    run, args = read_dataclasses((RunConfig, config), values, flags, path)
    # The cold start shares what both trainers need, unless it says otherwise.
    shared = {name: getattr(args, name) for name in ("seed", "use_cpu", "bf16", "fp16")}
    shared["report_to"] = args.report_to or "none"
    shared.update(
        gradient_checkpointing=args.gradient_checkpointing, output_dir=f"{args.output_dir}/cold_start_training"
    )
    part = f", {NESTED}"
    (sft,) = read_dataclasses((SFTConfig,), {**shared, **nested}, nested_flags, path, part)
    for settings, own, given, place in ((args, values, flags, ""), (sft, nested, nested_flags, part)):
        try:
            check_buildable(settings)
        except UserError as error:
            raise FieldError(source_of(str(error), own, given, path), place, str(error)) from None
    return run, args, sft


def asks_for_dry_run(path: str, overrides: Sequence[str]) -> bool:
    """Whether a recipe or its flags say `dry_run`, whatever else is wrong with them."""
    flags, _ = split_flags(overrides)
    file = _read_file(path)
    return bool(read_field("dry_run", bool | None, file.values, flags, file.name))


def collect_settings(path: str, overrides: Sequence[str] = ()) -> tuple[Settings | None, list[str]]:
    """As `read_recipe`, but goes on after a mistake, without the fields that it names.

    Returns:
        The settings that are left, or None where none can be made; and the mistakes. A later one that names a field
        which had to go says nothing about the recipe, and is left out.

    Raises:
        RecipeError: for a file that is no recipe.
    """
    file, (flags, nested_flags) = _read_file(path), split_flags(overrides)
    values = file.values
    gone: set[str] = set()
    mistakes: list[str] = []
    while True:
        try:
            return _make_settings(values, file.name, flags, nested_flags), mistakes
        except FieldError as error:
            message, part, said = str(error), error.part, error.said
        except (Exception, SystemExit) as fault:
            if isinstance(fault, UserError) or "method" not in {*values, *map(head, flags)}:
                raise
            # In the code of a method of the user's. Its traceback goes first, the rest is looked at without it.
            traceback.print_exception(fault)
            mistakes.append(fault_of("method", fault))
            gone |= {".method", ".method_args"}
            message, part, said = "", "", "method, method_args"
        nested = values.get(NESTED)
        given = nested if part and isinstance(nested, dict) else values
        flagged = nested_flags if part else flags
        named = named_fields(said, {*given, *map(head, flagged)})
        about = set(re.findall(r"\w+", said.partition(";")[0]))
        if not gone & {f"{part}.{word}" for word in about}:
            mistakes.append(message)
        if not named:
            return None, mistakes
        gone |= {f"{part}.{name}" for name in named}
        for name in named:
            given.pop(name, None)
        for flag in [flag for flag in flagged if head(flag) in named]:
            del flagged[flag]


def read_yaml(path: str) -> dict[str, Any]:
    """The fields of a YAML file with the types of YAML 1.2; those of the file that it extends, too."""
    return resolve(_read_file(path).values)


def _read_file(path: str) -> _File:
    own = _parse_file(path, f"there is no recipe {path}; give the path of a YAML file, such as recipes/kinship.yaml.")
    if EXTENDS not in own:
        return _File(own, path)
    given = own.pop(EXTENDS)
    if not isinstance(given, str) or not given:
        raise RecipeError(f"{path}: {EXTENDS} must be the path of one YAML file, got {given!r}.")
    base = str(Path(path).parent / given)
    values = _parse_file(base, f"{path}: {EXTENDS} = {str(given)!r}: there is no file {base}.")
    if EXTENDS in values:
        raise RecipeError(
            f"{path}: {EXTENDS} = {str(given)!r}, which extends {str(values[EXTENDS])!r} itself; extend that one, and "
            "write what the other changes here."
        )
    for name, value in own.items():
        inherited = values.get(name)
        if isinstance(inherited, dict) and isinstance(value, dict):
            value = {**inherited, **value}
        values[name] = value
    return _File(values, f"{path} (which extends {base})")


def _parse_file(path: str, missing: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise RecipeError(missing)
    try:
        values = parse(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not readable YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold fields with values, got {type(values).__name__}.")
    return values
