"""The command line: `appo sft | train | eval RECIPE [--field value ...]`, `appo study STUDY [--field value ...]`.

Only the standard library is imported here, so that help and mistakes answer at once; the work is in `run.py`.
"""

import sys
from collections.abc import Callable

USAGE = """\
appo: reinforcement learning for tool-using language-model agents

  appo train RECIPE [--field value ...]   cold start, then APPO; success before and after
  appo train RECIPE --dry-run             the plan and every mistake, without loading weights
  appo sft   RECIPE [--field value ...]   the cold start only
  appo eval  RECIPE [--field value ...]   success of the trained model (or of --model DIR) on fresh questions
  appo eval  --model M --benchmark A,B    the paper's benchmarks, by any model; see appo eval --help, docs/eval.md
  appo records RUN  [--jsonl] [--step N]  what a run has written down: a summary, or a line of JSON per rollout
  appo study STUDY  [--field value ...]   many runs of several methods, compared; see studies/ and docs/study.md
  appo COMMAND --help                     the fields of a recipe

RECIPE is a YAML file, such as recipes/kinship.yaml; every field can be changed by a flag, those of the cold start as
--cold_start.field. An interrupted run goes on from its last checkpoint when started again.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, or 2 after a mistake in the recipe or the flags."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = arguments[:1], arguments[1:]
    if command == ["--version"]:
        from appo import __version__

        print(__version__)
        return 0
    if not command or command[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command[0] not in ("sft", "train", "eval", "study", "records"):
        print(f"appo: unknown command {command[0]}; use sft, train, eval, study or records.", file=sys.stderr)
        return 2
    if command[0] == "study":
        from appo.research.__main__ import main as study

        return study(rest)
    if command[0] == "records":
        return _records(rest)
    if command[0] == "eval" and rest and rest[0].startswith("--") and rest[0] != "--help":
        return _evaluate_benchmarks(rest)
    if not rest or rest[0] in ("-h", "--help"):
        if rest:
            from appo.cli.recipe import describe_fields

            print(USAGE + "\nFields besides those of TRL's GRPOConfig (cold_start: SFTConfig):\n" + describe_fields())
            if command[0] == "eval":
                from appo.evaluation.eval_config import describe_options

                print("\nOptions of `appo eval --model M --benchmark A,B`:\n" + describe_options())
            return 0
        print(
            f"appo: {command[0]} needs a recipe, for example: appo {command[0]} recipes/kinship.yaml", file=sys.stderr
        )
        return 2
    return _run(command[0], rest[0], rest[1:])


def _records(arguments: list[str]) -> int:
    from appo.cli.records import records
    from appo.errors import UserError

    try:
        return records(arguments)
    except UserError as error:
        print(f"appo: {error}", file=sys.stderr)
        return 2


def _evaluate_benchmarks(flags: list[str]) -> int:
    def work() -> None:
        from appo.cli.eval_flags import read_eval_config
        from appo.cli.recipe import RecipeError
        from appo.evaluation.command import evaluate_benchmarks

        try:
            evaluate_benchmarks(read_eval_config(flags))
        except OSError as error:  # such as a full disk
            raise RecipeError(f"{error}; the same command goes on from the samples that are there.") from None

    return answer(work, "the same command goes on from the samples that are there.")


def _run(command: str, recipe: str, overrides: list[str]) -> int:
    def work() -> int:
        from appo.cli import train as run
        from appo.cli.recipe import asks_for_dry_run, read_recipe

        if command in ("train", "sft") and asks_for_dry_run(recipe, overrides):
            from appo.cli.dry_run import dry_run

            return dry_run(command, recipe, overrides)
        settings = read_recipe(recipe, overrides)
        if command == "eval":
            # A recipe's model is where training starts; a flag names the model to evaluate.
            asked = any(flag.split("=")[0] == "--model" for flag in overrides)
            run.eval(*settings, model=settings[0].model if asked else None)
        elif command == "train":
            run.train(*settings, recipe=recipe)
        else:
            run.sft(*settings)
        return 0

    return answer(work, "next time it goes on from the last checkpoint, if there is one yet.")


def answer(work: Callable[[], int | None], after_interrupt: str) -> int:
    """The exit code of `work`, whose mistakes are told in one sentence."""
    import warnings

    # transformers renames arguments between versions and says so at each use; a recipe cannot serve both.
    warnings.filterwarnings("ignore", category=FutureWarning)
    from appo.cli.sigterm import TERMINATED, Terminated, terminated_by_sigterm
    from appo.errors import UserError
    from appo.files import is_full_disk

    try:
        with terminated_by_sigterm():
            return work() or 0
    except UserError as error:
        print(f"appo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"appo: interrupted; {after_interrupt}", file=sys.stderr)
        return 130
    except Terminated as end:
        print(f"appo: terminated; {str(end) or after_interrupt}", file=sys.stderr)
        return TERMINATED
    except Exception as error:
        if not is_full_disk(error):
            raise
        print(f"appo: the disk is full ({error}); free some space, then {after_interrupt}", file=sys.stderr)
        return 2
