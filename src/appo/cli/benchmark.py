"""`appo benchmark --model M --benchmark A,B`: flags to settings, and the table of what came of them (docs/eval.md).

Left out on purpose: sampling, judging and scoring (`appo.evaluation.benchmarks`).
"""

from dataclasses import fields

import transformers
from rich.console import Console

from appo.cli.fields import FLAGS, head, read_dataclasses, split_flags
from appo.cli.mistakes import RecipeError
from appo.errors import did_you_mean
from appo.evaluation.benchmarks import evaluate_benchmarks
from appo.evaluation.eval_config import EvalConfig
from appo.evaluation.table import print_results
from appo.evaluation.wrong_samples import print_wrong


def benchmark(flags: list[str]) -> None:
    """Evaluates, and prints the table.

    Args:
        flags: As in `EvalConfig`, for example `["--model", "smollm2", "--benchmark", "gsm8k"]`.

    Raises:
        UserError: for whatever is wrong with the flags and what they name, and for a full disk.
    """
    config = read_flags(flags)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console(markup=False, highlight=False, soft_wrap=True)
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
    """
    Raises:
        RecipeError: for unknown flags, wrong types and contradictory values, in one sentence.
    """
    names = [f.name for f in fields(EvalConfig)]
    for flag in [flag for number, flag in enumerate(flags) if flag.startswith("--") or number == 0]:
        name = head(flag.split("=")[0].removeprefix("--")).replace("-", "_")
        if not flag.startswith("--") or name not in names:
            hint = did_you_mean(name, names, "see `appo benchmark --help`.", "--{}")
            raise RecipeError(f"unknown option {flag}; {hint}")
    (config,) = read_dataclasses((EvalConfig,), {}, split_flags(flags)[0], FLAGS)
    return config
