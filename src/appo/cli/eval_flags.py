"""The options of `appo eval --benchmark ..` from its flags.

Left out on purpose: what they mean, and which values make sense (`appo.evaluation.eval_config`).
"""

import difflib
from collections.abc import Sequence
from dataclasses import fields

from appo.cli.recipe import FLAGS, RecipeError, read_dataclasses, split_flags
from appo.evaluation.eval_config import EvalConfig


def read_eval_config(flags: Sequence[str]) -> EvalConfig:
    """Options from flags, `--judge_url URL` or `--judge-url URL`.

    Raises:
        RecipeError: for unknown flags, wrong types and contradictory values, in one sentence.
    """
    names = [f.name for f in fields(EvalConfig)]
    for flag in [flag for number, flag in enumerate(flags) if flag.startswith("--") or number == 0]:
        name = flag.split("=")[0].removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean --{close[0]}?" if close else "see `appo eval --help`."
            raise RecipeError(f"unknown option {flag}; {hint}")
    (config,) = read_dataclasses((EvalConfig,), {}, split_flags(flags)[0], FLAGS)
    return config
