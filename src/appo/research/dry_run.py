"""`appo study STUDY --dry-run`: the runs that a study comes to, and every mistake that shows before the first of them.

Each combination of testbed and arm is looked at as `appo train RECIPE --dry-run` looks at a recipe: fields, method and
its options, task, tools, data, prompts, batches, memory. A run begins from a cold start that there is not yet, so the
model that the cold start begins from stands in its place, and of data the first rows are looked at.

    exit code 0: no mistakes; 2: some

Left out on purpose: how long it takes, which depends on the machine; a study's file says what it was reckoned for.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from appo.cli.checks import CHECKS, findings
from appo.cli.checks_run import memory_of, memory_shards
from appo.cli.context import Context, Note, Problem, Unavailable, Unchecked
from appo.cli.run_plan import RunPlan, cold_start_line
from appo.research.design import notes_on
from appo.research.plan import Job, Study, cold_starts, read_study, run_settings, test_runs, validation_runs

# What the arms of a testbed have in common as a rule is loaded once.
SHARED = (
    "task", "given_rows", "questions", "shared", "rows", "made", "outline", "tokenizer", "model", "prompt_lengths",
)  # fmt: skip
ROWS = 8  # of training data, questions and demonstrations, that are made and looked at
Lines = Iterator[tuple[str, str]]


class StudyDryRun:
    """One dry run of a study; `lines` are the plan, `notes`, `unchecked` and `mistakes` what was found."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.lines: list[tuple[str, str]] = []
        self.notes: list[str] = notes_on(study)
        self._found: dict[type, dict[str, list[str]]] = {Problem: {}, Unchecked: {}, Note: {}}
        self._parts: dict[tuple[Any, ...], dict[str, Any]] = {}

    def look(self) -> None:
        """Looks into every cold start and every combination of testbed and arm."""
        study = self.study
        self.lines += runs_of(study)
        first = {job.testbed: job for job in reversed(cold_starts(study))}
        for job in reversed(first.values()):
            config, args, sft_args = run_settings(study, job)
            begins = replace(config, model=_begins_from(study, job))
            context = self._look("sft", begins, args, sft_args, _name(job))
            line = cold_start_line(sft_args, context.processes, config.traces, config.demonstrations)
            self.lines.append((_name(job), line))
        for testbed in study.testbeds:
            begins = _begins_from(study, Job(0, testbed))
            for arm in study.arms:
                rate = study.option("learning_rates", testbed, arm)[0]
                config, args, sft_args = run_settings(study, Job(0, testbed, arm, "test", 0, rate))
                context = self._look("train", replace(config, model=begins), args, sft_args, f"{testbed}, {arm}")
                self.lines += [(f"{testbed}, {arm}", text) for text in _updates(study, testbed, context)]

    def _look(self, command: str, config: Any, args: Any, sft_args: Any, place: str) -> Context:
        config = _first_rows(config, args)
        context = Context(command, config, args, sft_args, planning=True)
        key = (command, repr(config), args.tool_protocol, args.add_tools, repr(args.chat_template_kwargs))
        context.parts.update(self._parts.get(key, {}))
        for finding in findings(context, CHECKS):
            kind = next(kind for kind in self._found if isinstance(finding, kind))
            self._found[kind].setdefault(finding.message, []).append(place)
        self._parts[key] = {name: context.parts[name] for name in SHARED if name in context.parts}
        return context

    def told(self, kind: type) -> list[str]:
        """The findings of a kind, each once, with where it was found."""
        return [f"{_places(places)}: {message}" for message, places in self._found[kind].items()]


def runs_of(study: Study) -> Lines:
    """How many runs there are, and what they generate in sum."""
    phases = {
        "cold starts": cold_starts(study),
        "validation": validation_runs(study),
        "test": test_runs(study, {}),
    }
    for name, jobs in phases.items():
        runs = [job for job in jobs if job.arm and job.testbed]
        if not jobs:
            yield name, "none"
        elif not runs:
            yield name, f"{len(jobs)}"
        else:
            tokens = sum(study.option("generated_tokens", str(job.testbed)) for job in runs)
            asked = sum(
                study.option("questions", str(job.testbed)) * (1 + study.option("evaluations", str(job.testbed)))
                for job in runs
            )
            yield name, f"{len(runs)} runs; {tokens:,} generated tokens, and {asked:,} rollouts of measurements"


def _first_rows(config: Any, args: Any) -> Any:
    """The settings with as few rows as show what is wrong: a question with a long way may take long to make."""
    enough = max(ROWS, RunPlan(args, 1, config.train_size).tasks_per_generation)
    return replace(
        config,
        train_size=min(config.train_size, enough),
        eval_size=min(config.eval_size, ROWS),
        demonstrations=min(config.demonstrations, ROWS),
    )


def _begins_from(study: Study, job: Job) -> str | None:
    """The model that a cold start, or the base below it, begins from."""
    base = Job(0) if job.testbed and study.base is not None else None
    return run_settings(study, base or job)[0].model


def _updates(study: Study, testbed: str, context: Context) -> Iterator[str]:
    """What an update is, and how many the budget holds."""
    plan: RunPlan = context.plan
    limit = context.args.max_completion_length or 0
    most = plan.rollouts_per_update * limit
    budget = study.option("generated_tokens", testbed)
    text = (
        f"{context.args.method}; an update {plan.tasks_per_update} tasks x {plan.rollouts_per_task} rollouts of at "
        f"most {limit:,} tokens; {budget:,} tokens are {math.ceil(budget / most) if most else 0:,} updates or more"
    )
    with suppress(Unavailable):
        shards = memory_shards(context)
        (_, needed), *_ = memory_of(context)
        text += f"; {max(needed.peak(shards, stage) for stage in (0, 2, 3)) / 1e9:.1f} GB"
    yield text


def _name(job: Job) -> str:
    return f"{job.testbed or 'base'}, cold start"


def _places(places: Iterable[str]) -> str:
    first, *others = dict.fromkeys(places)
    return f"{first}{f' and {len(others)} more' if others else ''}"


def dry_run(path: str, overrides: dict[str, Any]) -> int:
    """Prints the plan, what could not be checked and the mistakes.

    Returns:
        0 where there are no mistakes, else 2.

    Raises:
        RecipeError: for a file that is no study, and for settings that contradict each other.
    """
    run = StudyDryRun(read_study(path, overrides))
    run.look()
    mistakes = run.told(Problem)
    width = max(len(name) for name, _ in run.lines)
    lines = [f"plan of appo study {path}", *(f"  {name:{width}}  {text}" for name, text in run.lines)]
    lines += [f"note: {text.rstrip('.')}." for text in [*run.notes, *run.told(Note)]]
    lines += [f"not checked: {text.rstrip('.')}." for text in run.told(Unchecked)]
    lines += [f"mistake: {text}" for text in mistakes]
    lines.append(f"{len(mistakes)} mistake(s)." if mistakes else "No mistakes found.")
    print("\n".join(lines))
    return 2 if mistakes else 0
