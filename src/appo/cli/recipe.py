"""A recipe: one YAML file that describes a run, and flags that change it.

Fields at the top level are those of `RunConfig` and `APPOConfig` (thus of TRL's `GRPOConfig`); those below
`cold_start:` are TRL's `SFTConfig`. A flag `--field value` overrides a field, `--cold_start.field value` one of the
cold start. Every mistake is one sentence (`RecipeError`), found before anything is loaded.

Left out on purpose: includes, interpolation, and any other way in which one file changes another.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import jinja2
import yaml
from trl import SFTConfig

from appo.cli.buildable import check_buildable
from appo.cli.field_values import parse, read_texts, read_value, resolve
from appo.config import NOT_SETTINGS as NOT_SETTINGS  # part of what a recipe is to others
from appo.config import APPOConfig, check_values, read_mapping
from appo.errors import UserError, is_complaint

NESTED = "cold_start"
FLAGS = "the flags"  # as the source of a mistake, where it is not the file


class RecipeError(UserError):
    """A mistake in a recipe or a flag, in one sentence."""


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """What a library says of the user's values, in one sentence. A fault in a user's code, or in ours, stays one."""
    try:
        yield
    except (jinja2.TemplateError, ValueError, OSError, ImportError) as error:
        if isinstance(error, UserError) or not is_complaint(error):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        template = isinstance(error, jinja2.TemplateError)
        raise RecipeError(f"the chat template refuses messages: {said}." if template else said) from error


@dataclass
class RunConfig:
    """What a run needs besides the trainer's configuration."""

    task: str = field(
        metadata={
            "help": "kinship, reasoning_gym, tool_qa, or a module of yours with a `TASK` (my.task, or my.task:NAME)."
        }
    )
    task_args: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of a `TASK` that is a function returning a task, as a mapping."}
    )
    model: str | None = field(
        default=None,
        metadata={"help": "Model directory or hub name, or smollm2; by default the model that the task makes."},
    )
    train_size: int = field(default=4096, metadata={"help": "Number of training tasks."})
    train_seed: int = field(default=0, metadata={"help": "Seed of the training tasks."})
    eval_size: int = field(default=500, metadata={"help": "Number of fresh questions before and after; 0 for none."})
    eval_seed: int = field(default=1_000_000, metadata={"help": "Seed of the evaluation's questions."})
    demonstrations: int = field(
        default=0, metadata={"help": "Demonstrations of the cold start; 0 for none, or for all of `traces`."}
    )
    traces: list[str] | None = field(
        default=None,
        metadata={"help": "Files or hub names of tool-use traces: the cold start's demonstrations (docs/recipes.md)."},
    )
    traces_min_reward: float | None = field(
        default=None, metadata={"help": "Least reward of a rollout in `traces` that are records of a run."}
    )
    lora: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Fields of peft's LoraConfig, as a mapping; without it all weights are trained."},
    )
    num_processes: int | None = field(
        default=None,
        metadata={"help": "Processes (GPUs) that the batch sizes are made for; another number is refused."},
    )
    allow_unisolated: bool = field(
        default=False, metadata={"help": "Whether the policy's programs may run where they are not isolated."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Whether to train again where a run has finished."})
    dry_run: bool = field(
        default=False, metadata={"help": "Whether to print the plan and every mistake, and do nothing (--dry-run)."}
    )

    def __post_init__(self) -> None:
        least = {"train_size": 1, "eval_size": 0, "demonstrations": 0, "num_processes": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"{name} must not be below {bound}, got {value}.")
        for name in ("task_args", "lora"):
            setattr(self, name, read_mapping(name, getattr(self, name)))
        if self.traces_min_reward is not None and not self.traces:
            raise UserError(f"traces_min_reward = {self.traces_min_reward:g} is given without traces; name files.")


Settings = tuple[RunConfig, APPOConfig, SFTConfig]
Flags = dict[str, list[str]]  # field and texts


def read_recipe(path: str, overrides: list[str]) -> Settings:
    """Reads a recipe.

    Args:
        path: The YAML file.
        overrides: Flags, for example `["--learning_rate", "1e-4", "--cold_start.max_steps", "10"]`.

    Raises:
        RecipeError: for a missing file, unknown fields, wrong types and contradictory values.
    """
    return make_settings(_read_tree(path), path, overrides)


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
        raise RecipeError(f"{path}: {NESTED} must be a mapping of SFTConfig fields, got {nested!r}.")
    run, args = read_dataclasses((RunConfig, config), values, flags, path)
    # The cold start shares what both trainers need, unless it says otherwise.
    shared = {name: getattr(args, name) for name in ("seed", "use_cpu", "bf16", "fp16")}
    shared["report_to"] = args.report_to or "none"
    shared.update(
        gradient_checkpointing=args.gradient_checkpointing, output_dir=f"{args.output_dir}/cold_start_training"
    )
    (sft,) = read_dataclasses((SFTConfig,), {**shared, **nested}, nested_flags, path, f", {NESTED}")
    for settings, part in ((args, ""), (sft, f", {NESTED}")):
        try:
            check_buildable(settings)
        except UserError as error:
            raise RecipeError(f"{path}{part}: {error}") from None
    return run, args, sft


def asks_for_dry_run(path: str, overrides: Sequence[str]) -> bool:
    """Whether a recipe or its flags say `dry_run`, whatever else is wrong with them."""
    flags, _ = split_flags(overrides)
    return bool(_read_one("dry_run", bool | None, _read_tree(path), flags, path))


def collect_settings(path: str, overrides: Sequence[str] = ()) -> tuple[Settings | None, list[str]]:
    """As `read_recipe`, but goes on after a mistake, without the fields that it names.

    Returns:
        The settings that are left, or None where none can be made; and the mistakes. A later one that names a field
        which had to go says nothing about the recipe, and is left out.

    Raises:
        RecipeError: for a file that is no recipe.
    """
    values, (flags, nested_flags) = _read_tree(path), split_flags(overrides)
    gone: set[str] = set()
    mistakes: list[str] = []
    while True:
        try:
            return _make_settings(values, path, flags, nested_flags), mistakes
        except RecipeError as error:
            message = str(error)
        of_nested = tuple(f"{source}, {NESTED}: " for source in (path, FLAGS))
        part = NESTED if message.startswith(of_nested) else None
        nested = values.get(NESTED)
        given = nested if part and isinstance(nested, dict) else values
        flagged = nested_flags if part else flags
        said = message
        for prefix in (*of_nested, f"{path}: ", f"{FLAGS}: "):
            said = said.removeprefix(prefix)
        named = _named_fields(said, {*given, *flagged})
        about = set(re.findall(r"\w+", said.partition(";")[0]))
        if not gone & {f"{part}.{word}" for word in about}:
            mistakes.append(message)
        if not named:
            return None, mistakes
        gone |= {f"{part}.{name}" for name in named}
        for name in named:
            given.pop(name, None)
            flagged.pop(name, None)


def _named_fields(message: str, given: set[str]) -> set[str]:
    """The fields that a mistake is about, of those given."""
    if unknown := re.match(r"unknown field (\w+)", message):
        return {unknown[1]} & given
    words = set(re.findall(r"\w+", message))
    # A name that is a common word counts only where the sentence begins with it, or names nothing else.
    first = message.split(maxsplit=1)[0].strip(":'`")
    found = {name for name in given & words if "_" in name or name == first}
    return found or given & words - {"task", "model", "project"}


def read_yaml(path: str) -> dict[str, Any]:
    """The fields of a YAML file with the types of YAML 1.2."""
    return resolve(_read_tree(path))


def _read_tree(path: str) -> dict[str, Any]:
    """The fields of a YAML file, whose unquoted scalars have no type yet."""
    if not Path(path).is_file():
        raise RecipeError(f"there is no recipe {path}; give the path of a YAML file, such as recipes/kinship.yaml.")
    try:
        values = parse(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not readable YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold fields with values, got {type(values).__name__}.")
    return values


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
            name = name.replace("-", "_")
            texts = [text] if equals else []
            parts[name.startswith(f"{NESTED}.")][name.removeprefix(f"{NESTED}.")] = texts
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
        if unknown := [name for name in given if name not in known]:
            raise RecipeError(f"{source}{part}: {_unknown(unknown[0], list(known))}")
    required = [name for name, (f, _) in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in {**values, **flags}]:
        raise RecipeError(f"{path}{part}: {missing[0]} is missing; give it.")
    read = {
        name: _read_one(name, hint, values, flags, path, part)
        for name, (_, hint) in known.items()
        if name in values or name in flags
    }
    try:
        made = [kind(**{f.name: read[f.name] for f, _ in _fields_of(kind) if f.name in read}) for kind in kinds]
        for settings in made:
            check_values(settings)
        return tuple(made)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RecipeError(f"{path}{part}: {' '.join(str(error).split())}") from None


def _fields_of(kind: Any) -> list[tuple[Field[Any], Any]]:
    """Fields and annotations; a field whose default is None takes it, whatever its annotation."""
    hints = get_type_hints(kind)
    return [(f, hints[f.name] | None if f.default is None else hints[f.name]) for f in fields(kind) if f.init]


def _read_one(name: str, hint: Any, values: Mapping[str, Any], flags: Flags, path: str, part: str = "") -> Any:
    source = FLAGS if name in flags else path
    try:
        return read_texts(name, flags[name], hint) if name in flags else read_value(name, values.get(name), hint)
    except ValueError as error:
        raise RecipeError(f"{source}{part}: {error}") from None


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"unknown field {name}; " + (f"did you mean {close[0]}?" if close else "see `appo train --help`.")


def describe_fields() -> str:
    """Help for the fields that are ours; those of GRPOConfig and SFTConfig are TRL's."""
    inherited = {f.name for f in fields(SFTConfig)}
    lines = []
    for kind in (RunConfig, APPOConfig):
        for f in fields(kind):
            own = kind is RunConfig or f.name in APPOConfig.__annotations__
            if own and (f.name not in inherited or kind is RunConfig):
                lines.append(f"  --{f.name:24} {f.metadata.get('help', '')}")
    return "\n".join(lines)
