"""`appo train RECIPE --dry-run` (or `appo sft`): the plan of a run and every mistake that shows without its weights.

What cannot be looked into here (a model on a hub out of reach, GPUs that this machine does not have) is listed as not
checked, and is no mistake. A mistake in a field does not keep the others from being checked.

    exit code 0: no mistakes; 2: some

Left out on purpose: what is checked (`checks.py`).
"""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress

from trl import SFTConfig

from appo.cli.checks import CHECKS, findings
from appo.cli.checks_run import memory_of, memory_shards
from appo.cli.context import Context, Fault, Note, Problem, Unavailable, Unchecked
from appo.cli.loading import runs_programs
from appo.cli.recipe import collect_settings
from appo.cli.run_config import RunConfig
from appo.cli.run_plan import cold_start_line
from appo.config import APPOConfig
from appo.data.rl_sets import overlap_note

Lines = Iterator[tuple[str, str]]


class DryRun:
    """One dry run: `look` looks into everything; `plan`, `notes`, `unchecked` and `mistakes` are what it found.

    Args:
        command: `train` or `sft`.
        config, args, sft_args: The settings, without the fields that are wrong.
        mistakes: Those already found.
    """

    def __init__(
        self, command: str, config: RunConfig, args: APPOConfig, sft_args: SFTConfig, mistakes: list[str]
    ) -> None:
        self.context = Context(command, config, args, sft_args, planning=True)
        self.mistakes = list(mistakes)
        self.unchecked: list[str] = []
        self.notes = ["of the fields that are wrong, the plan has the defaults"] if mistakes else []
        self.plan: list[tuple[str, str]] = []

    def look(self) -> None:
        faults: set[str] = set()
        for finding in findings(self.context, CHECKS):
            if isinstance(finding, Fault):
                what = finding.message.partition(": ")[2]
                if what in faults:
                    continue  # the same place, met again by another check
                faults.add(what)
                traceback.print_exception(finding.error)
            kinds = {Problem: self.mistakes, Fault: self.mistakes, Unchecked: self.unchecked, Note: self.notes}
            kinds[type(finding)].append(finding.message)
        for lines in PLAN:
            with suppress(Unavailable):  # told above
                self.plan += lines(self.context)

    def lines(self, path: str) -> Iterator[str]:
        yield f"plan of appo {self.context.command} {path}"
        yield from (f"  {name:18} {text}" for name, text in self.plan)
        yield from (f"note: {note}." for note in self.notes)
        yield from (f"not checked: {text.rstrip('.')}." for text in dict.fromkeys(self.unchecked))


def _model(context: Context) -> Lines:
    total, trained = context.parameters
    shown = f"{total / 1e9:,.2f} G parameters" if total >= 1e9 else f"{total / 1e6:,.1f} M parameters"
    share = "all trained" if trained == total else f"{trained / 1e6:,.1f} M of an adapter trained"
    held = f"; context of {context.max_context:,} tokens" if context.max_context else ""
    yield "model", f"{context.config.model or 'made by the task'}: {shown}, {share}{held}"


def _tools(context: Context) -> Lines:
    names = [tool.__name__ for tool in context.tools]
    if runs_programs(context.tools):
        allowed = "isolated by bubblewrap, or allowed without"
        isolated = allowed if context.config.allow_unisolated else "isolated by bubblewrap"
        how = "not isolated" if context.not_isolated else isolated
        names = [f"{name} ({how})" if name == "python" else name for name in names]
    agent = context.task.agent
    if agent is not None:
        yield "agent", f"{agent.name}; {agent.timeout:g} s a rollout, {agent.at_once} at once"
    own = "the agent's" if agent is not None and not names else "none"
    yield "tools", f"{', '.join(names) or own}; protocol {context.args.tool_protocol}"


def _evaluation(context: Context) -> Lines:
    if context.command != "train" or context.questions is None:
        return
    shown = f"{len(context.questions):,} questions, before and after"
    try:
        note = overlap_note(context.rows, context.questions)
    except Unavailable:
        note = None
    yield "evaluation", f"{shown}; {note}" if note else shown


def _prompts(context: Context) -> Lines:
    if context.command == "train" and (lengths := context.prompt_lengths):
        yield "prompts", f"{min(lengths)} to {max(lengths)} tokens, of the first {len(lengths):,}"


def _cold_start(context: Context) -> Lines:
    if not context.has_cold_start:
        return
    number: int | None = context.config.demonstrations
    if context.config.traces:
        try:
            number = len(context.traces)
        except Unavailable:
            number = None
    yield "cold start", cold_start_line(context.sft_args, context.processes, context.config.traces, number)


def _run(context: Context) -> Lines:
    plan = context.plan
    if context.command == "train" and plan.tasks >= plan.tasks_per_generation:
        yield from plan.lines()


def _memory(context: Context) -> Lines:
    for name, needed in memory_of(context):
        yield from needed.lines(name, memory_shards(context))


PLAN: list[Callable[[Context], Lines]] = [_model, _tools, _evaluation, _prompts, _cold_start, _run, _memory]


def dry_run(command: str, path: str, overrides: list[str]) -> int:
    """Prints the plan and the mistakes.

    Args:
        command: `train` or `sft`.
        path: The recipe.
        overrides: The flags.

    Returns:
        0 where there are no mistakes, else 2.

    Raises:
        RecipeError: for a file that is no recipe.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else it tells of every try
    settings, mistakes = collect_settings(path, overrides)
    lines = ["not checked: plan, task, data and model, because the settings could not be made."]
    if settings is not None:
        run = DryRun(command, *settings, mistakes)
        run.look()
        mistakes = list(dict.fromkeys(run.mistakes))
        lines = list(run.lines(path))
    lines += [f"mistake: {mistake}" for mistake in mistakes]
    lines.append(f"{len(mistakes)} mistake(s)." if mistakes else "No mistakes found.")
    if settings is None or settings[1].should_log:
        print("\n".join(lines))
    return 2 if mistakes else 0
