"""The command line: `appo sft | train | eval RECIPE [--field value ...]`, `appo benchmark`, `appo study STUDY`.

Only the standard library is imported here, so that help and mistakes answer at once; the work is in `train.py` and
`benchmark.py`.
"""

import difflib
import os
import sys
from collections.abc import Callable

from appo.cli.current_folder import find_modules_here

USAGE = """\
appo: reinforcement learning for tool-using language-model agents

  appo train RECIPE [--field value ...]   cold start, then APPO; success before and after
  appo train RECIPE --dry-run             the plan and every mistake, without loading weights
  appo sft   RECIPE [--field value ...]   the cold start only
  appo eval  RECIPE [--field value ...]   success of the trained model (or of --model DIR) on fresh questions
  appo benchmark --model M --benchmark A,B [--option value ...]
                                          the paper's benchmarks, by any model; see docs/eval.md
  appo chat MODEL   [--option value ...]  asks a trained model; its tools run (docs/use.md)
  appo serve MODEL  [--option value ...]  a trained model behind OpenAI's API, on loopback (docs/serve.md)
  appo records RUN  [--jsonl] [--step N]  what a run has written down: a summary, or a line of JSON per rollout
  appo report RUN [RUN2] [--out FILE]     one HTML file of a run, or of two side by side, that opens anywhere
  appo show RUN     [--task ID] [--failed]
                                          a run's rollouts in the terminal: texts, calls, rewards, numbers of tokens
  appo study STUDY  [--field value ...]   many runs of several methods, compared; see studies/ and docs/study.md
  appo doctor [--server URL]              versions, devices, engines, and what would fail here
  appo COMMAND --help                     what it takes: the fields of a recipe, the options of methods
  appo COMMAND --help-all                 and every field of TRL and transformers

RECIPE is a YAML file, such as recipes/kinship.yaml; every field can be changed by a flag, those of the cold start as
--cold_start.field, names in a field that is a mapping as --field.name. An interrupted run goes on from its last
checkpoint when started again.
"""

COMMANDS = ("sft", "train", "eval", "benchmark", "chat", "serve", "records", "report", "show", "study", "doctor")
HELP = {"-h", "--help", "--help-all"}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, or 2 after a mistake in the recipe or the flags."""
    try:
        code = _main(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has seen enough; nothing may be written at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(arguments: list[str]) -> int:
    find_modules_here()
    command, rest = arguments[:1], arguments[1:]
    if command == ["--version"]:
        from appo import __version__

        print(__version__)
        return 0
    if not command or command[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command[0] not in COMMANDS:
        close = difflib.get_close_matches(command[0], COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else f"use {', '.join(COMMANDS[:-1])} or {COMMANDS[-1]}."
        print(f"appo: unknown command {command[0]}; {hint}", file=sys.stderr)
        return 2
    if command[0] == "study":
        from appo.research.__main__ import main as study

        return study(rest)
    if command[0] == "doctor":
        from appo.doctor.report import main as doctor

        return doctor(rest)
    if command[0] in ("records", "report", "show"):
        return _read(command[0], rest)
    if command[0] == "benchmark":
        return _benchmark(rest)
    if command[0] in ("chat", "serve"):
        return _ask(command[0], rest)
    if command[0] == "eval" and any(flag.split("=")[0] == "--benchmark" for flag in rest):
        flags = " ".join(rest if rest[0].startswith("--") else rest[1:])
        print(f"appo: benchmarks have a command of their own: appo benchmark {flags}", file=sys.stderr)
        return 2
    if asked := HELP.intersection(rest):
        from appo.cli.help import of_recipes

        print(USAGE + "\n" + of_recipes(everything="--help-all" in asked))
        return 0
    if not rest or rest[0].startswith("-"):
        print(
            f"appo: {command[0]} needs a recipe, for example: appo {command[0]} recipes/kinship.yaml", file=sys.stderr
        )
        return 2
    return _run(command[0], rest[0], rest[1:])


def _read(command: str, arguments: list[str]) -> int:
    """What reads records alone, without torch, so that it answers at once."""
    from importlib import import_module

    from appo.errors import UserError

    try:
        return int(getattr(import_module(f"appo.cli.{command}"), command)(arguments))
    except UserError as error:
        print(f"appo: {error}", file=sys.stderr)
        return 2


def _benchmark(flags: list[str]) -> int:
    if not flags or HELP.intersection(flags):
        from appo.cli.help import of_benchmarks

        print("Options of `appo benchmark --model M --benchmark A,B` (docs/eval.md):\n" + of_benchmarks())
        return 0 if flags else 2

    def work() -> None:
        from appo.cli.benchmark import benchmark

        benchmark(flags)

    return answer(work, "the same command goes on from the samples that are there.")


def _ask(command: str, arguments: list[str]) -> int:
    """What puts a trained model to use."""
    from importlib import import_module

    if not arguments or arguments[0] in ("-h", "--help"):
        from appo.cli.help import of_use

        print(of_use(command))
        return 0 if arguments else 2

    def work() -> int:
        return int(getattr(import_module(f"appo.cli.{command}"), command)(arguments))

    return answer(work, "ask again." if command == "chat" else "start it again.")


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
    import gc
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
    finally:
        # An environment may stop its sandbox in a thread of its own, which at the interpreter's end runs no more.
        gc.collect()
