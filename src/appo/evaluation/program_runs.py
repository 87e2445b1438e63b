"""Runs the programs that samples hold, each once, and adds `scores.tests` to their records.

    programs.jsonl    a line per sample: whether its tests were passed, how it failed, and a mark of what was run

A program that was run before, with the same tests and in the same way, is not run again.

Left out on purpose: one program (`programs.py`), and reading it from an answer (`answered_code.py`).
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from appo.data.benchmarks import BenchmarkRow
from appo.errors import UserError
from appo.evaluation.answered_code import programs_of
from appo.evaluation.eval_config import EvalConfig
from appo.evaluation.meter import Meter
from appo.evaluation.programs import ProgramRun, ProgramRunner, harness
from appo.files import append_lines, fingerprint, read_lines

FILE = "programs.jsonl"
Rows = Mapping[str, Sequence[BenchmarkRow]]
Records = Mapping[str, Sequence[dict[str, Any]]]


def open_runner(config: EvalConfig, rows: Rows) -> ProgramRunner | None:
    """A runner that has told a right program from a wrong one; None where no benchmark has programs.

    Raises:
        UserError: where programs cannot be isolated, or the sandbox does not work.
    """
    if all(found[0].metric != "tests" for found in rows.values()):
        return None
    runner = ProgramRunner(allow_unisolated=config.allow_unisolated)
    runner.check()
    return runner


def run_programs(directory: Path, runner: ProgramRunner, rows: Rows, records: Records, console: Console) -> list[str]:
    """Runs what is left to run, and closes the runner.

    Args:
        directory: Of the evaluation.
        records: Samples by benchmark; each whose row has tests gets `run` and `scores.tests`, None without a verdict.

    Returns:
        Sentences on programs that could not be run.

    Raises:
        UserError: where none could be run.
    """
    by_id = {(name, row.id): row for name in rows for row in rows[name] if row.metric == "tests"}
    found = [record for name in records for record in records[name] if (name, record["id"]) in by_id]
    work = {_key(record): _program(record, by_id[record["benchmark"], record["id"]]) for record in found}
    marks = {key: fingerprint(harness(*program, mark="")) for key, program in work.items()}
    runs = _known(directory / FILE, marks)
    left = [record for record in found if _key(record) not in runs]
    meter = Meter("tested", "programs", len(left), 0, console)
    with runner, ThreadPoolExecutor(runner.workers) as pool, meter:
        for record, run in zip(left, pool.map(lambda one: runner.run(*work[_key(one)]), left), strict=True):
            runs[_key(record)] = run
            place = {name: record[name] for name in ("benchmark", "id", "sample")}
            append_lines(directory / FILE, [{**place, **asdict(run), "program": marks[_key(record)]}])
            meter.advance()
    for record in found:
        run = runs[_key(record)]
        record["run"] = asdict(run)
        record["scores"]["tests"] = None if run.passed is None else float(run.passed)
    return _notes([runs[_key(record)] for record in found])


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["benchmark"], record["id"], record["sample"]


def _program(record: Mapping[str, Any], row: BenchmarkRow) -> tuple[list[str], str, str]:
    entry_point = row.extra["entry_point"]
    return programs_of(record["extracted"] or "", row.extra["prompt"], entry_point), row.extra["test"], entry_point


def _known(path: Path, marks: Mapping[tuple[Any, ...], str]) -> dict[tuple[Any, ...], ProgramRun]:
    """What is known of these very programs."""
    if not path.exists():
        return {}
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # what a kill left of a last line
    lines = (line for line in read_lines(path) if line["program"] == marks.get(_key(line)))
    return {_key(x): ProgramRun(x["passed"], x["error"], x["text"]) for x in lines if x["passed"] is not None}


def _notes(runs: Sequence[ProgramRun]) -> list[str]:
    problems = [f"{run.error}: {run.text}" for run in runs if run.passed is None]
    if not problems:
        return []
    reasons = "; ".join(dict.fromkeys(problems))
    said = f"{len(problems)} of {len(runs)} programs could not be run ({reasons})"
    if len(problems) == len(runs):
        raise UserError(f"{said}; the samples are kept, and the same command runs them again.")
    return [f"{said}. They are left out, and the same command runs them again."]
