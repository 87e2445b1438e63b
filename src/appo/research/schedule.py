"""Runs a study: jobs in parallel processes, each on one core, in the order cold starts, validation, test.

A job that has finished is not done again: runs.jsonl holds a line per run, models/ the cold starts. The report is
written anew after each phase.

    appo study studies/smoke.yaml [--output_dir DIR] [--jobs N] [--test_seeds N] [--overwrite true] ...

Left out on purpose: several machines. Each can run a study file of its own testbeds.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from appo.report.bar import progress_bar
from appo.research.design import coarse, notes_on
from appo.research.earlier import go_on, lines_of
from appo.research.plan import Job, Study, cold_starts, read_study, run_settings, test_runs, validation_runs
from appo.research.report import choose_learning_rates, markdown, write_report
from appo.research.workers import Workers

SECONDS_BETWEEN_LINES = 60.0  # of progress, where there is no terminal for a bar


def study(path: str, overrides: dict[str, Any]) -> None:
    """Runs what is left of a study and prints its table.

    Raises:
        RecipeError: for a mistake in the file, and for a job that failed, with its reason and the place of its log.
    """
    plan = read_study(path, overrides)
    directory = Path(plan.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    go_on(plan, directory)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for note in notes_on(plan):
        console.print(f"note: {note}")
    workers = Workers(plan.jobs or os.cpu_count() or 1, directory / "logs", fresh=writes_with_vllm(plan))
    with workers, progress_bar(console) as bar:
        base = [job for job in cold_starts(plan) if job.testbed is None]
        _do_all("cold starts", plan, base, workers, bar)
        _do_all("cold starts", plan, [job for job in cold_starts(plan) if job.testbed], workers, bar)
        _do_all("validation", plan, validation_runs(plan), workers, bar)
        write_report(directory)
        rates = choose_learning_rates(lines_of(directory))
        _do_all("test", plan, test_runs(plan, rates), workers, bar)
    console.print(markdown(write_report(directory)), end="")
    console.print(f"\n{directory}: table.md, study.png, summary.json, runs.jsonl")


def writes_with_vllm(plan: Study) -> bool:
    """Whether vLLM writes the rollouts of any arm."""
    jobs = (Job(0, testbed, arm, "test", 0, 1e-6) for testbed in plan.testbeds for arm in plan.arms)
    return any(run_settings(plan, job)[1].use_vllm for job in jobs)


def _do_all(name: str, plan: Study, jobs: list[Job], workers: Workers, bar: Progress) -> None:
    """Does those of the jobs that have no line in runs.jsonl yet, and adds their lines."""
    if not jobs:
        return
    path = Path(plan.output_dir) / "runs.jsonl"
    done = {_key(line) for line in lines_of(path.parent)}
    left = [job for job in jobs if job.key not in done]
    task, finished = bar.add_task(name, total=len(jobs), status=""), len(jobs) - len(left)
    shares: dict[Job, float] = {}  # of the jobs that are being done
    noted: set[tuple[str | None, str | None]] = set()
    printed = time.monotonic()
    bar.update(task, completed=finished)
    for job, share, line in workers.do(plan, left):
        if share is not None:
            shares[job], status = share, f"{len(shares | {job: share})} running"
        else:
            shares.pop(job, None)
            finished, status = finished + 1, str(job)
        if line is not None:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            status = f"{job.testbed} {job.arm} {line['points'][-1]['success']:.1%}"
            note = coarse(line, line["budget"])
            if note and (job.testbed, job.arm) not in noted:
                bar.console.print(f"note: {note}")
            noted.add((job.testbed, job.arm))
        bar.update(task, completed=finished + sum(shares.values()), status=status)
        due = share is None or time.monotonic() - printed > SECONDS_BETWEEN_LINES
        if due and not bar.console.is_terminal:
            printed = time.monotonic()
            running = ", ".join(f"{running} {part:.0%}" for running, part in shares.items())
            bar.console.print(f"{name} {finished}/{len(jobs)}: {status if share is None else running}")


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return Job(**{name: line[name] for name in Job.__dataclass_fields__}).key
