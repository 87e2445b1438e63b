"""`appo benchmark --model M --benchmark A,B`: flags to settings, and the table of what came of them (docs/eval.md).

Left out on purpose: sampling, judging and scoring (`appo.evaluation.benchmarks`).
"""

from dataclasses import fields, replace
from typing import Any

import transformers
from rich.console import Console

from appo.cli.fields import FLAGS, head, read_dataclasses, split_flags
from appo.cli.mistakes import RecipeError
from appo.errors import did_you_mean
from appo.evaluation.benchmarks import evaluate_benchmarks
from appo.evaluation.eval_config import EvalConfig
from appo.evaluation.table import print_results
from appo.evaluation.wrong_samples import print_wrong
from appo.models.usage import read_usage

ALIAS = "tool_protocol"  # what the other commands call `protocol`
# How a model is asked. Sampling stays the same for all models, so that their numbers can be compared.
TRAINED = (
    ALIAS, "result_format", "add_tools", "system_prompt", "chat_template_kwargs", "max_completion_length",
    "max_tool_calling_iterations", "max_tool_calls", "max_tool_result_chars", "tool_timeout",
)  # fmt: skip
FOR_ANY_PROMPT = (ALIAS, "add_tools", "chat_template_kwargs")


def benchmark(flags: list[str]) -> None:
    """Evaluates, and prints the table.

    Args:
        flags: As in `EvalConfig`, for example `["--model", "smollm2", "--benchmark", "gsm8k"]`.

    Raises:
        UserError: for whatever is wrong with the flags and what they name, and for a full disk.
    """
    config = read_flags(flags)
    own = trained_with(config.model, config.brings_prompts)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if used := [name for name, value in own.items() if getattr(config, name) == value]:
        console.print(f"as in the model's training (appo.json): {', '.join(used)}; flags win.")
    try:
        results = evaluate_benchmarks(config, console)
    except OSError as error:  # such as a full disk
        raise RecipeError(f"{error}; the same command goes on from the samples that are there.") from None
    print_results(results.benchmarks, console)
    for line in results.notes:
        console.print(line)
    if config.show_wrong:
        print_wrong(results.benchmarks, results.records, config.show_wrong)
    console.print(f"samples and results in {config.directory}")


def read_flags(flags: list[str]) -> EvalConfig:
    """The options; those of `TRAINED` that no flag gives are as in the model's training, where it says so.

    Raises:
        RecipeError: for unknown flags, wrong types and contradictory values, in one sentence.
    """
    names = [f.name for f in fields(EvalConfig)]
    for flag in [flag for number, flag in enumerate(flags) if flag.startswith("--") or number == 0]:
        name = head(flag.split("=")[0].removeprefix("--")).replace("-", "_")
        if not flag.startswith("--") or name not in (*names, ALIAS):
            hint = did_you_mean(name, names, "see `appo benchmark --help`.", "--{}")
            raise RecipeError(f"unknown option {flag}; {hint}")
    given = split_flags(flags)[0]
    if ALIAS in given:
        if "protocol" in given:
            raise RecipeError(f"{FLAGS}: --protocol and --{ALIAS} are the same; give one.")
        given["protocol"] = given.pop(ALIAS)
    (config,) = read_dataclasses((EvalConfig,), {}, given, FLAGS)
    flagged = {*map(head, given)}
    own = trained_with(config.model, config.brings_prompts)
    return replace(config, **{name: value for name, value in own.items() if name not in flagged})


def trained_with(model: str, brings_prompts: bool = False) -> dict[str, Any]:
    """What a model says of its training (`appo.json`) that a benchmark can do alike, by option.

    Args:
        model: A directory, or a name, which says nothing.
        brings_prompts: Whether the benchmark has a prompt of its own, as short for a trained model as for another.

    Raises:
        UserError: for a file that is broken.
    """
    known = read_usage(model).as_json()
    names = FOR_ANY_PROMPT if brings_prompts else TRAINED
    own = {"protocol" if name == ALIAS else name: known[name] for name in names if name in known}
    return own if own.get("protocol") == "tags" else {name: own[name] for name in own if name != "result_format"}
