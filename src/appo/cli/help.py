"""What `appo train --help` and its like print: each field with its type, default and help, the run's own first.

Types and defaults are written as in a recipe: `null` is none, `mapping` may be JSON in a flag. Everything is read from
source text (`field_sources.py`), as importing TRL takes seconds. What is TRL's and transformers' comes with
`--help-all`.

Left out on purpose: what values make sense, which the dataclasses say of wrong ones; peft's LoraConfig.
"""

import json
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from appo.cli.field_sources import (
    REQUIRED,
    Either,
    FieldInfo,
    NotFound,
    Source,
    attribute_of,
    fields_of,
    keys_of,
    own_fields,
)

NARROW, WIDE = 40, 120  # columns; longer lines are hard to read
ELSEWHERE = 100  # columns where the output is no terminal
EXTENDS = FieldInfo(
    "extends", "str | None", None, "Another recipe, as seen from this file; its fields hold where this has none.", ""
)
KINDS = {
    "str": "text",
    "None": "null",
    "float": "number",
    "list[str]": "list of text",
    "list[float]": "list of number",
}
COMMON = "learning_rate, num_train_epochs, max_steps, temperature, gradient_accumulation_steps, seed, .."


def of_recipes(everything: bool = False) -> str:
    """Help for the fields of a recipe.

    Args:
        everything: Whether what is inherited from TRL and transformers is told, too.
    """
    config = fields_of_config()
    own = own_fields("appo.config", "APPOConfig")
    sections = [
        section("The run", [EXTENDS, *fields_of("appo.cli.run_config", "RunConfig")]),
        section("What APPOConfig adds to TRL's GRPOConfig, or sets otherwise", [f for f in config if f.name in own]),
        *_methods(),
    ]
    inherited = [f for f in config if f.name not in own]
    if everything:
        sections += _inherited(inherited)
    else:
        count = f"the {len(inherited)} fields" if inherited else "the fields"
        sections.append(
            _filled(
                f"`appo train --help-all` adds {count} of TRL's GRPOConfig and transformers' TrainingArguments "
                f"({COMMON}) and those of the cold start, SFTConfig (--cold_start.learning_rate, ..).",
                "",
            )
        )
    return "\n\n".join(sections)


def of_benchmarks() -> str:
    """Help for the options of `appo benchmark`."""
    return "\n".join(lines(fields_of("appo.evaluation.eval_config", "EvalConfig")))


USES = {
    "chat": ("ChatSettings", "docs/use.md", "What it can call"),
    "serve": ("ServeSettings", "docs/serve.md", "Where"),
}
OF_TOOLS = ("max_tool_calls", "max_tool_calling_iterations", "max_tool_result_chars", "tool_timeout")  # not of serve


def of_use(command: str) -> str:
    """Help for `appo chat` and `appo serve`: its own options, then those of `appo.Agent`."""
    settings, page, title = USES[command]
    model, *own = fields_of(f"appo.cli.{command}", settings, inherited=False)
    shared = fields_of("appo.agent.settings", "AgentSettings")
    if command == "serve":
        shared = [f for f in shared if f.name not in OF_TOOLS]
    return "\n\n".join(
        [
            f"usage: appo {command} MODEL [--option value ...]   ({page})\n\n{_filled('MODEL: ' + model.help, '')}",
            section(title, own),
            section("How it writes; null: as in its training", shared),
        ]
    )


def fields_of_config() -> list[FieldInfo]:
    """Those of `APPOConfig`; its own alone where TRL's source is not here."""
    try:
        return fields_of("appo.config", "APPOConfig")
    except NotFound:
        return fields_of("appo.config", "APPOConfig", inherited=False)


def section(title: str, fields: Iterable[FieldInfo], prefix: str = "--") -> str:
    """A title and the fields below it."""
    return "\n".join([_filled(f"{title}:", ""), *lines(fields, prefix)])


def lines(fields: Iterable[FieldInfo], prefix: str = "--") -> Iterator[str]:
    """Two paragraphs for each field: its name, type and default; its help."""
    for f in fields:
        default = " (required)" if f.default is REQUIRED else f" = {shown(f.default)}"
        name = f.name if f is EXTENDS else f"{prefix}{f.name}"
        yield _filled(f"{name}: {kind(f.type)}{default}", "  ")
        if f.help:
            yield _filled(f.help.replace("%%", "%"), "      ")


def kind(annotation: str) -> str:
    """A type as a recipe has it, from its annotation: `int | null` for `int | None`."""
    found = [_kind(part) for part in re.split(r" \| (?![^\[]*\])", annotation)]
    if "mapping" in found:
        found = [part for part in found if part != "text"]  # as JSON, in a flag
    if "text" in found:
        found = [part for part in found if part[:1].islower()]  # names of an enumeration are texts, too
    return " | ".join(found)


def _kind(part: str) -> str:
    if part.startswith("dict"):
        return "mapping"
    if part.startswith("Literal["):
        values = part.removeprefix("Literal[").removesuffix("]").replace("'", "").split(", ")
        return " or ".join({"True": "true", "False": "false"}.get(value, value) for value in values)
    return KINDS.get(part, part)


def shown(default: Any) -> str:
    """A default as a recipe would write it."""
    if isinstance(default, Source):
        return default.text
    if isinstance(default, Either):
        return " or ".join(map(shown, default.values))
    if isinstance(default, str):
        return default if re.fullmatch(r"[\w./-]+", default) else json.dumps(default)
    return str(default) if isinstance(default, float) else json.dumps(default)


def _methods() -> Iterator[str]:
    base = fields_of("appo.methods.base", "MethodOptions")
    common = {f.name for f in base}
    yield section("Options of every method, as --method_args.NAME or below method_args", base, "")
    for name, cls in keys_of("appo.methods", "METHODS"):
        own = [f for f in fields_of(*attribute_of("appo.methods", cls, "Options")) if f.name not in common]
        if own:
            yield section(f"Options of method {name}", own, "")


def _inherited(fields: list[FieldInfo]) -> Iterator[str]:
    if not fields:
        yield "TRL's source is not here, so its fields cannot be listed: `pip install trl`, or see its documentation."
        return
    of_trl = [f for f in fields if f.owner == "GRPOConfig"]
    yield section("TRL's GRPOConfig", of_trl)
    yield section("transformers' TrainingArguments", [f for f in fields if f.owner != "GRPOConfig"])
    own = own_fields("trl.trainer.sft_config", "SFTConfig")
    cold = [f for f in fields_of("trl.trainer.sft_config", "SFTConfig") if f.name in own]
    yield section("The cold start: TRL's SFTConfig, which has those of TrainingArguments, too", cold, "--cold_start.")


def _filled(text: str, indent: str) -> str:
    width = shutil.get_terminal_size((ELSEWHERE, 24)).columns
    return textwrap.fill(
        " ".join(text.split()),
        max(NARROW, min(width, WIDE)),
        initial_indent=indent,
        subsequent_indent=indent + "  " if indent == "  " else indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
