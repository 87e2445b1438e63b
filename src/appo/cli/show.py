"""`appo show RUN`: a run's rollouts, to be read in a terminal.

    appo show runs/kinship                                      the last update's tasks, a line each
    appo show runs/kinship --step 3                             the third update's; --step all: every update's
    appo show runs/kinship --task 16.0.48                       its rollouts: texts, calls, errors, rewards, branches
    appo show runs/kinship --task 16.0.48 --rollout 2           one of them, with its weightiest tokens
    appo show runs/kinship --task 16.0.48 --rollout 2 --tokens  the numbers of every token
    appo show runs/kinship --failed                             the rollouts without success
    appo show runs/kinship --worst 5 --step all                 the five lowest rewards of the run
    appo show runs/kinship --kind evaluation --failed           failures of the last evaluation

RUN is a run's `output_dir`, its folder `records`, or one of the files there. A rollout is called by its task and its
number there; branches are told below the rollout that they left. Of equal rewards, `--worst` takes those first whose
task went best otherwise. Colours are for terminals, and NO_COLOR=1 switches them off.

Left out on purpose: a page for a browser, and torch: this answers at once.
"""

import argparse
import heapq
import io
import shlex
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from appo.errors import UserError
from appo.report.text.plain_text import open_console
from appo.report.text.recorded_tasks import (
    Record,
    RecordedTask,
    files_of,
    files_of_task,
    last_step,
    mean_reward,
    recorded_tasks,
)
from appo.report.text.task_table import COLUMNS, TaskTable
from appo.report.text.token_table import show_tokens
from appo.report.text.transcript import Transcript
from appo.rollout.record_columns import FIXED
from appo.rollout.record_files import LINES
from appo.rollout.records import read_meta, read_vocabulary

LIMIT = 50  # tasks of a table, or rollouts in full, that are shown unasked
SUCCESS = 1.0  # the least reward that is one, where a run does not say
MORE = "more follow: --limit 0 shows all"


def show(flags: list[str]) -> int:
    """Prints what was asked for; returns the exit code.

    Raises:
        UserError: where there are no records, or nothing of that name among them.
    """
    options = _options(flags)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a model
    settings = read_meta(options.run).get("settings") or {}
    console = open_console()
    if options.task is None and not options.failed and options.worst is None:
        _table(options, settings, console)
    else:
        _rollouts(options, settings, console)
    return 0


def _options(flags: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("appo show", description=__doc__, formatter_class=_AsWritten)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--step", type=_step, help="an update, or all; default: the last one")
    parser.add_argument("--task", metavar="ID", help="one task, of the last update that has it")
    parser.add_argument("--rollout", type=int, metavar="N", help="with --task: one of its rollouts")
    parser.add_argument("--tokens", action="store_true", help="with --rollout: the numbers of every token")
    parser.add_argument("--failed", action="store_true", help="rollouts whose reward is below success_reward")
    parser.add_argument("--worst", type=int, metavar="N", help="the N rollouts of the lowest rewards")
    parser.add_argument("--kind", choices=["train", "evaluation"], default="train", help="default: train")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help=f"tasks or rollouts; 0: all; default: {LIMIT}"
    )
    options = parser.parse_args(flags)
    if options.rollout is not None and options.task is None:
        parser.error("--rollout is the number of a rollout within a task; add --task ID.")
    if options.rollout is not None and (options.failed or options.worst is not None):
        parser.error("--rollout names one rollout; leave out --failed and --worst.")
    if options.tokens and options.rollout is None:
        parser.error("--tokens shows one rollout's; add --task ID and --rollout N.")
    if options.limit < 0 or (options.worst is not None and options.worst < 1):
        parser.error("--worst must be at least 1, and --limit at least 0.")
    return options


class _AsWritten(argparse.RawDescriptionHelpFormatter):
    """Help with the module's own line breaks."""


def _step(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an update's number or all, got {text!r}.")
    return text if text == "all" else int(text)


def _places(options: argparse.Namespace) -> tuple[list[Path], int | None]:
    """The files to look at, and the update in them; None for all that they hold."""
    if options.task is not None and options.step is None:
        return files_of_task(options.run, options.kind, options.task), None
    files = files_of(options.run, options.kind, options.step)
    if options.step is None and files[-1].name == LINES:
        return files, last_step(files)
    return files, None if options.step == "all" else options.step


# ---- tasks, a line each ----


def _table(options: argparse.Namespace, settings: dict[str, Any], console: Console) -> None:
    files, step = _places(options)
    table = TaskTable(console, settings.get("success_reward", SUCCESS))
    tasks = recorded_tasks(files, COLUMNS, step)
    first = None
    for task in islice(tasks, options.limit or None):
        first = first or task
        table.add(task)
    left_out = next(tasks, None) is not None
    table.end("shown" if left_out else "")
    if left_out:
        console.print(MORE)
    if first is None:
        console.print(f"{options.run} holds no rollouts there.")
        return
    place = "" if first.step is None else f" --step {first.step}"
    rows = [
        (f"{place} --task {first.id}", "a task's texts, calls, rewards and branches"),
        (f"{place} --task {first.id} --rollout 0", "one rollout, and the numbers of its weightiest tokens"),
        (" --failed", "those without success; --step all: of the whole run"),
        (" --worst 5", "the lowest rewards"),
    ]
    width = max(len(flags) for flags, _ in rows)
    console.print()
    for flags, what in rows:
        console.print(f"{_command(options)}{flags:{width}}  # {what}")


def _command(options: argparse.Namespace) -> str:
    return f"appo show {shlex.quote(options.run)}" + (" --kind evaluation" if options.kind == "evaluation" else "")


# ---- rollouts in full ----


def _rollouts(options: argparse.Namespace, settings: dict[str, Any], console: Console) -> None:
    files, step = _places(options)
    # Without a rollout's tokens, most of what is per token can stay unread.
    columns = [*FIXED, "advantages"] if options.rollout is None else None
    tasks = recorded_tasks(files, columns, step)
    if options.task is not None:
        tasks = (task for task in tasks if task.id == options.task)
    tags = settings.get("tool_protocol", "tags") == "tags"
    transcript = Transcript(console, read_vocabulary(options.run), tags)
    chosen = _chosen(tasks, options, settings.get("success_reward", SUCCESS))
    if options.worst is not None:
        chosen = iter(heapq.nsmallest(options.worst, chosen, key=_goodness))
    last: RecordedTask | None = None
    for task, record in chosen if options.worst is not None else islice(chosen, options.limit or None):
        if task is not last:
            transcript.task(task)
        last = task
        transcript.rollout(task, record)
        if options.rollout is not None:
            show_tokens(task, record, transcript, every=options.tokens)
    if next(chosen, None) is not None:
        console.print(MORE)
    if last is None:
        _tell_of_nothing(options, console)
    if last is not None and options.task is not None and options.rollout is None:
        rollout = last.records[0].get("rollout", 0)
        console.print(f"{_command(options)} --task {last.id} --rollout {rollout}  # the numbers of its tokens")


def _chosen(
    tasks: Iterable[RecordedTask], options: argparse.Namespace, success: float
) -> Iterator[tuple[RecordedTask, Record]]:
    for task in tasks:
        if options.rollout is not None:
            record = task.rollout(options.rollout)
            if record is None:
                raise UserError(
                    f"rollout = {options.rollout}: task {task.id} of {task.source} has none of this number, but 0 to "
                    f"{len(task.records) - 1}."
                )
            yield task, record
            continue
        for record in task.initial:
            reward: Any = record.get("reward")  # None: no function scored it, which is no failure
            if reward is None and (options.failed or options.worst is not None):
                continue
            if not (options.failed and reward >= success):
                yield task, record


def _goodness(chosen: tuple[RecordedTask, Record]) -> tuple[float, float]:
    """What is lower is worse: the reward, then how badly the task's other rollouts did."""
    task, record = chosen
    mean = mean_reward(task.records)
    assert mean is not None
    return record["reward"], -mean


def _tell_of_nothing(options: argparse.Namespace, console: Console) -> None:
    if options.failed or options.worst is not None:
        console.print(
            f"{options.run} has no rollout {'without success' if options.failed else 'with a reward'} there."
        )
    else:
        raise UserError(f"task = {options.task!r}: {options.run} holds none of this name at step {options.step}.")
