"""A recipe: one YAML file that describes a run, and flags that change it.

Fields at the top level are those of `RunConfig` and `APPOConfig` (thus of TRL's `GRPOConfig`); those below
`cold_start:` are TRL's `SFTConfig`. A flag `--field value` overrides a field, `--cold_start.field value` one of the
cold start. Every mistake is one sentence (`RecipeError`), found before anything is loaded.

Left out on purpose: includes, interpolation, and any other way in which one file changes another.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser
from trl import SFTConfig

from appo.config import PRESETS, APPOConfig

NESTED = "cold_start"


class RecipeError(ValueError):
    """A mistake in a recipe or a flag, in one sentence."""


@dataclass
class RunConfig:
    """What a run needs besides the trainer's configuration."""

    task: str = field(
        metadata={
            "help": "kinship, reasoning_gym, or a module of yours that holds a `TASK` (my.task, or my.task:NAME)."
        }
    )
    preset: str | None = field(
        default=None, metadata={"help": "Fields of `APPOConfig.preset`, for example plus; those given here precede."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Model directory or hub name; by default the model that the task makes."}
    )
    train_size: int = field(default=4096, metadata={"help": "Number of training tasks."})
    train_seed: int = field(default=0, metadata={"help": "Seed of the training tasks."})
    eval_size: int = field(default=500, metadata={"help": "Number of fresh questions before and after; 0 for none."})
    eval_seed: int = field(default=1_000_000, metadata={"help": "Seed of the evaluation's questions."})
    demonstrations: int = field(default=0, metadata={"help": "Demonstrations of the cold start; 0 for none."})
    overwrite: bool = field(default=False, metadata={"help": "Whether to train again where a run has finished."})

    def __post_init__(self) -> None:
        for name, least in (("train_size", 1), ("eval_size", 0), ("demonstrations", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must not be below {least}, got {getattr(self, name)}.")


class _Parser(HfArgumentParser):
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
    preset = _Parser((RunConfig,), allow_abbrev=False).parse_known_args(_to_flags(values) + main_flags)[0].preset
    if preset and preset not in PRESETS:
        raise RecipeError(f"{path}: preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    run, args = _parse((RunConfig, config), _to_flags({**PRESETS.get(preset, {}), **values}) + main_flags, path)
    # The cold start shares what both trainers need, unless it says otherwise.
    shared = {name: getattr(args, name) for name in ("seed", "use_cpu", "bf16", "fp16")}
    shared["report_to"] = args.report_to or "none"
    shared.update(gradient_checkpointing=args.gradient_checkpointing, output_dir=f"{args.output_dir}/cold_start")
    (sft,) = _parse((SFTConfig,), _to_flags({**shared, **nested}) + nested_flags, f"{path}, {NESTED}")
    return run, args, sft


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
            text = json.dumps(value) if isinstance(value, (dict, bool)) else str(value)
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


def _parse(kinds: tuple[type, ...], flags: list[str], path: str) -> Any:
    parser = _Parser(kinds, allow_abbrev=False)
    try:
        _, unknown = parser.parse_known_args(flags)
        if unknown:
            raise RecipeError(_unknown(unknown[0], kinds))
        return parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from None


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
