"""Runs a study: jobs in parallel processes, each on one core, in the order cold starts, validation, test.

A job that has finished is not done again: runs.jsonl holds a line per run, models/ the cold starts. The report is
written anew after each phase.

    appo study studies/smoke.yaml [--output_dir DIR] [--jobs N] [--test_seeds N] ...

Left out on purpose: several machines. Each can run a study file of its own testbeds.
"""

import json
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from appo.progress import progress_bar
from appo.recipe import RecipeError
from appo.records import read_records
from appo.study.plan import Job, Study, cold_starts, read_study, test_runs, validation_runs
from appo.study.report import choose_learning_rates, markdown, write_report

# The plan decides the results; these do not, and a study may go on with other values.
NOT_SETTINGS = ("output_dir", "jobs", "test_seeds", "validation_seeds", "rivals", "candidates", "arms", "testbeds")


def study(path: str, overrides: dict[str, Any]) -> None:
    """Runs what is left of a study and prints its table.

    Raises:
        RecipeError: for a mistake in the file, and for a job that failed, with the place of its log.
    """
    plan = read_study(path, overrides)
    directory = Path(plan.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    _check_same(plan, directory)
    _drop_torn_line(directory / "runs.jsonl")
    console = Console(markup=False, highlight=False, soft_wrap=True)
    context = multiprocessing.get_context("spawn")
    logs = directory / "logs"
    logs.mkdir(exist_ok=True)
    jobs = plan.jobs or os.cpu_count() or 1
    with (
        ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(str(logs),)) as pool,
        progress_bar(console) as bar,
    ):
        base = [job for job in cold_starts(plan) if job.testbed is None]
        _do_all("cold starts", plan, base, pool, bar, directory)
        _do_all("cold starts", plan, [job for job in cold_starts(plan) if job.testbed], pool, bar, directory)
        _do_all("validation", plan, validation_runs(plan), pool, bar, directory)
        write_report(directory)
        rates = choose_learning_rates(_lines(directory))
        _do_all("test", plan, test_runs(plan, rates), pool, bar, directory)
    console.print(markdown(write_report(directory)), end="")
    console.print(f"\n{directory}: table.md, study.png, summary.json, runs.jsonl")


def _start_worker(logs: str) -> None:
    """One thread a process, and all that libraries print into a file."""
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    log = open(Path(logs) / f"{os.getpid()}.log", "a", buffering=1, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stderr = log
    import torch

    torch.set_num_threads(1)


def _do_all(
    name: str, plan: Study, jobs: list[Job], pool: ProcessPoolExecutor, bar: Progress, directory: Path
) -> None:
    done = {_key(line) for line in _lines(directory)}
    left = [job for job in jobs if job.key not in done]
    task = bar.add_task(name, total=len(jobs), completed=len(jobs) - len(left), status="")
    futures: dict[Future[Any], Job] = {pool.submit(_do, plan, job): job for job in left}
    try:
        while futures:
            finished, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in finished:
                job = futures.pop(future)
                line = future.result()
                if line is not None:
                    with open(directory / "runs.jsonl", "a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                status = str(job) if line is None else f"{job.testbed} {job.arm} {line['points'][-1]['success']:.1%}"
                bar.update(task, advance=1, status=status)
                if not bar.console.is_terminal:
                    bar.console.print(f"{name} {len(jobs) - len(futures)}/{len(jobs)}: {status}")
    except BrokenProcessPool:
        raise RecipeError(
            "a process of the study ended without a word: killed, perhaps for want of memory (start again with "
            f"--jobs 1), or unable to import appo (its message is above); what it printed is in {directory / 'logs'}."
        ) from None
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)  # else all that is left would be done first
        raise
    except Exception as error:
        pool.shutdown(wait=False, cancel_futures=True)
        text = " ".join(str(error).split())
        raise RecipeError(f"{job} failed ({type(error).__name__}: {text}); see {directory / 'logs'}.") from error


def _do(plan: Study, job: Job) -> dict[str, Any] | None:
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    from appo.study.one_run import do  # the parent needs no model libraries

    return do(plan, job)


def _drop_torn_line(path: Path) -> None:
    """Removes what a kill has left of a last line: the next line would go on in it."""
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])


def _lines(directory: Path) -> list[dict[str, Any]]:
    path = directory / "runs.jsonl"
    return list(read_records(path)) if path.exists() else []


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return Job(**{name: line[name] for name in Job.__dataclass_fields__}).key


def _check_same(plan: Study, directory: Path) -> None:
    """Runs of another plan must not be mixed in: arms and testbeds may be added, not changed."""
    path, settings = directory / "study.json", json.loads(json.dumps(asdict(plan)))
    if path.exists() and (directory / "runs.jsonl").exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in settings if name not in NOT_SETTINGS and settings[name] != old.get(name)]
        for name in ("arms", "testbeds"):
            both = set(settings[name]) & set(old.get(name, {}))
            changed += [
                f"{name}.{key}" for key in sorted(both) if _fixed(settings[name][key]) != _fixed(old[name][key])
            ]
        if changed:
            raise RecipeError(
                f"{directory} holds runs with another {changed[0]}; give another --output_dir, or remove it."
            )
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
