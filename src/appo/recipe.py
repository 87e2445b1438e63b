"""A recipe: one YAML file that describes a run, and flags that change it.

Fields at the top level are those of `RunConfig` and `APPOConfig` (thus of TRL's `GRPOConfig`); those below
`cold_start:` are TRL's `SFTConfig`. A flag `--field value` overrides a field, `--cold_start.field value` one of the
cold start. Every mistake is one sentence (`RecipeError`), found before anything is loaded.

Left out on purpose: includes, interpolation, and any other way in which one file changes another.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import yaml
from transformers import HfArgumentParser
from trl import SFTConfig

from appo.config import PRESETS, APPOConfig
from appo.errors import UserError

NESTED = "cold_start"
FLAGS = "the flags"  # as the source of a mistake, where it is not the file
# Paths and output do not decide what a run does.
NOT_SETTINGS = (
    "output_dir", "logging_dir", "run_name", "report_to", "disable_tqdm", "logging_steps", "save_steps",
    "save_strategy", "save_total_limit", "hub_token", "project", "trackio_space_id",
)  # fmt: skip


class RecipeError(UserError):
    """A mistake in a recipe or a flag, in one sentence."""


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Mistakes that show only once a library reads the values: one sentence, as for all others."""
    try:
        yield
    except jinja2.TemplateError as error:
        raise RecipeError(f"the chat template refuses messages: {' '.join(str(error).split())}.") from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RecipeError(" ".join(str(error).split()) or type(error).__name__) from None


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
    preset: str | None = field(
        default=None, metadata={"help": "Fields of `APPOConfig.preset`, for example plus; those given here precede."}
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
        default=None, metadata={"help": "Least reward of a rollout in `traces` that are records.jsonl of a run."}
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
                raise ValueError(f"{name} must not be below {bound}, got {value}.")
        for name in ("task_args", "lora"):
            setattr(self, name, read_mapping(name, getattr(self, name)))
        if self.traces_min_reward is not None and not self.traces:
            raise ValueError(f"traces_min_reward = {self.traces_min_reward:g} is given without traces; name files.")


def read_mapping(name: str, value: Any) -> dict[str, Any] | None:
    """A field that is a mapping; flags give it as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} must be a mapping, in a flag as JSON ({error.msg}), got {value!r}.") from None
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, got {value!r}.")
    return value


class FlagParser(HfArgumentParser):
    """Raises RecipeError where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        # argparse says "argument --max_steps/--max-steps: ..."; the field's name is enough.
        raise RecipeError(re.sub(r"^argument --(\w+)(/--[\w-]+)*", r"\1", message))


Settings = tuple[RunConfig, APPOConfig, SFTConfig]


def read_recipe(path: str, overrides: list[str]) -> Settings:
    """Reads a recipe.

    Args:
        path: The YAML file.
        overrides: Flags, for example `["--learning_rate", "1e-4", "--cold_start.max_steps", "10"]`.

    Raises:
        RecipeError: for a missing file, unknown fields, wrong types and contradictory values.
    """
    return make_settings(read_yaml(path), path, overrides)


def make_settings(
    values: dict[str, Any], path: str, overrides: Sequence[str] = (), config: type[APPOConfig] = APPOConfig
) -> Settings:
    """Settings from the fields of a recipe; `path` names their source in errors, `config` is the trainer's class."""
    values = dict(values)
    nested = values.pop(NESTED, None) or {}
    if not isinstance(nested, dict):
        raise RecipeError(f"{path}: {NESTED} must be a mapping of SFTConfig fields, got {nested!r}.")
    main_flags, nested_flags = _split_flags(list(overrides))
    # First of all: without its fields, the others may contradict the defaults.
    preset = FlagParser((RunConfig,), allow_abbrev=False).parse_known_args(_to_flags(values) + main_flags)[0].preset
    if preset and preset not in PRESETS:
        raise RecipeError(f"{path}: preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    run, args = _parse((RunConfig, config), _to_flags({**PRESETS.get(preset, {}), **values}), main_flags, path)
    # The cold start shares what both trainers need, unless it says otherwise.
    shared = {name: getattr(args, name) for name in ("seed", "use_cpu", "bf16", "fp16")}
    shared["report_to"] = args.report_to or "none"
    shared.update(
        gradient_checkpointing=args.gradient_checkpointing, output_dir=f"{args.output_dir}/cold_start_training"
    )
    (sft,) = _parse((SFTConfig,), _to_flags({**shared, **nested}), nested_flags, path, f", {NESTED}")
    return run, args, sft


def asks_for_dry_run(path: str, overrides: Sequence[str]) -> bool:
    """Whether a recipe or its flags say `dry_run`, whatever else is wrong with them."""
    asked = bool(read_yaml(path).get("dry_run"))
    for flag, following in zip(overrides, [*overrides[1:], ""], strict=False):
        if flag.startswith("--") and _flag_name(flag) == "dry_run":
            value = flag.partition("=")[2] or ("" if following.startswith("--") else following)
            asked = value.lower() not in ("false", "no", "0", "f", "n")
    return asked


def collect_settings(path: str, overrides: Sequence[str] = ()) -> tuple[Settings | None, list[str]]:
    """As `read_recipe`, but goes on after a mistake, without the fields that it names.

    Returns:
        The settings that are left, or None where none can be made; and the mistakes. A later one that names a field
        which had to go says nothing about the recipe, and is left out.

    Raises:
        RecipeError: for a file that is no recipe.
    """
    values, flags = read_yaml(path), list(overrides)
    gone: set[str] = set()
    mistakes: list[str] = []
    while True:
        try:
            return make_settings(values, path, flags), mistakes
        except RecipeError as error:
            message = str(error)
        of_nested = tuple(f"{source}, {NESTED}: " for source in (path, FLAGS))
        part = NESTED if message.startswith(of_nested) else None
        nested = values.get(NESTED)
        given = nested if part and isinstance(nested, dict) else values
        of_main, of_part = _split_flags(flags)
        flagged = {_flag_name(flag) for flag in (of_part if part else of_main) if flag.startswith("--")}
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
            flags = _without(flags, f"{NESTED}.{name}" if part else name)


def _named_fields(message: str, given: set[str]) -> set[str]:
    """The fields that a mistake is about, of those given."""
    if unknown := re.match(r"unknown field (\w+)", message):
        return {unknown[1]} & given
    words = set(re.findall(r"\w+", message))
    # A name that is a common word counts only where the sentence begins with it, or names nothing else.
    first = message.split(maxsplit=1)[0].strip(":'`")
    found = {name for name in given & words if "_" in name or name == first}
    return found or given & words - {"task", "model", "project"}


def _flag_name(flag: str) -> str:
    return flag.removeprefix("--").split("=")[0].replace("-", "_")


def _without(flags: list[str], name: str) -> list[str]:
    """The flags without one of them and its values."""
    kept, dropping = [], False
    for flag in flags:
        if flag.startswith("--"):
            dropping = _flag_name(flag) == name
        if not dropping:
            kept.append(flag)
    return kept


def read_yaml(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise RecipeError(f"there is no recipe {path}; give the path of a YAML file, such as recipes/kinship.yaml.")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not readable YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold fields with values, got {type(values).__name__}.")
    return values


def _to_flags(values: dict[str, Any]) -> list[str]:
    """YAML values as flags, so that the types of both are checked in one place."""
    flags = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        else:
            # YAML reads 2024-01-31 as a date.
            text = json.dumps(value, default=str) if isinstance(value, (dict, bool)) else str(value)
            flags.append(f"--{name}={text}")
    return flags


def _split_flags(flags: list[str]) -> tuple[list[str], list[str]]:
    """Flags of the run and flags of the cold start; a value follows its flag."""
    parts: tuple[list[str], list[str]] = ([], [])
    part = 0
    for flag in flags:
        if flag.startswith("--"):
            part = int(flag.startswith(f"--{NESTED}."))
            flag = flag.replace(f"--{NESTED}.", "--", 1)
        parts[part].append(flag)
    return parts


def _parse(kinds: tuple[type, ...], of_file: list[str], flags: list[str], path: str, part: str = "") -> Any:
    parser = FlagParser(kinds, allow_abbrev=False)
    try:
        _, unknown = parser.parse_known_args(of_file + flags)
        if not unknown:
            return parser.parse_args_into_dataclasses(of_file + flags, look_for_args_file=False)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{path}{part}: {' '.join(str(error).split())}") from None
    source = path if unknown[0] in of_file else FLAGS
    raise RecipeError(f"{source}{part}: {_unknown(unknown[0], kinds)}")


def _unknown(flag: str, kinds: tuple[type, ...]) -> str:
    if not flag.startswith("--"):
        return f"{flag!r} is one value too many; most fields take one, and a flag comes before its value."
    name = flag.split("=")[0].lstrip("-")
    close = difflib.get_close_matches(name, [f.name for kind in kinds for f in fields(kind)], 1)
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
