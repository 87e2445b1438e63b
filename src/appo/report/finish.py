"""How a training ends, on the command line and in Python: curves, report, and a table of what there is and where.

All is made of records, after the model is saved. It must not lose a finished run: a picture or report that cannot be
written is one sentence, and `appo report RUN` tries again, with all that there is to say.

Left out on purpose: what the report shows (`write.py`), and saving (`trainer.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from appo.errors import UserError
from appo.evaluation.success import Evaluation
from appo.report.curves import Mark, plot_curves
from appo.report.html.run import evaluation_name, evaluation_words
from appo.report.intervals import rollouts_interval
from appo.rollout.metrics import mean
from appo.rollout.record_files import record_files, records_at
from appo.rollout.records import read_records

CURVES, REPORT = "curves.png", "report.html"
COLUMNS = ("step", "rollout", "reward", "tool_calls", "policy_mask", "finish_reason")


class Measured(NamedTuple):
    """An evaluation of a run: its name, after how many updates (None: the last), and what came of it."""

    name: str
    step: float | None
    evaluation: Evaluation


def places(directory: str | Path, recorded: bool = True, drawn: bool = True) -> dict[str, str | None]:
    """Where a run that has ended in `directory` leaves what people look at; None for what there is not.

    Args:
        recorded: Whether it keeps records.
        drawn: Whether pictures are made of them.
    """
    records = records_at(directory) if recorded else None
    drawings = {"curves": CURVES, "report": REPORT}
    shown = {name: str(Path(directory) / file) if records and drawn else None for name, file in drawings.items()}
    return {"records": str(records) if records else None, **shown}


def write_pictures(
    directory: str | Path,
    where: dict[str, str | None],
    measured: Sequence[Measured],
    success_reward: float,
    console: Console,
) -> None:
    """Curves and report of the run in `directory`; those that cannot be written are told and left out.

    Args:
        where: As `places` returns it; on return, None for what is not there.
        measured: Its evaluations.
        success_reward: Least reward that counts as success.
    """
    marks = [Mark(name, step, one.success, one.low, one.high, one.questions) for name, step, one in measured]

    curves, report = where.get("curves"), where.get("report")
    if curves and not _written(lambda: plot_curves(directory, curves, success_reward, marks), curves, console):
        where["curves"] = None
    if report and not _written(lambda: _report_of(Path(directory), console), report, console):
        where["report"] = None
        console.print(f"try `appo report {directory}`, which says more.")


def _report_of(directory: Path, console: Console) -> None:
    from appo.report.html.write import write_report

    write_report(directory, console=console)


def _written(write: Callable[[], Any], path: str, console: Console) -> bool:
    try:
        write()
    except Exception as error:  # whatever it is, the run has finished and its model is saved
        console.print(f"{path} could not be written: {type(error).__name__}: {' '.join(str(error).split())}")
        return False
    return True


def print_ending(measured: Sequence[Measured], where: dict[str, str | None], console: Console) -> None:
    """The table: evaluations, then what lies where."""
    for name, _, evaluation in measured:
        failed = f" ({evaluation.tool_failures:.1f} failed)" if evaluation.tool_failures >= 0.05 else ""
        calls = f"{evaluation.tool_calls:.1f} tool calls{failed}, {evaluation.tokens:.0f} tokens each"
        console.print(f"{name:11} success {evaluation}, {calls}")
    for name, path in where.items():
        if path is not None:
            console.print(f"{name:11} {path}")


def recorded_evaluations(directory: str | Path, success_reward: float) -> list[Measured]:
    """The evaluations in a run's records, by update and data set, as `eval_strategy` makes them."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    with suppress(UserError):  # no records, or broken ones, which the curves tell of
        for file in record_files(directory, "evaluation"):
            name = evaluation_words(evaluation_name(file.stem))
            for record in read_records(file, kind="evaluation", columns=COLUMNS):
                found.setdefault((record["step"], name), []).append(_counts(record, success_reward))
    return [Measured(name, step, _summary(found[step, name])) for step, name in sorted(found)]


def _counts(record: dict[str, Any], success_reward: float) -> dict[str, Any]:
    reward, calls = record["reward"], record["tool_calls"] or ()
    return {
        "new": record["rollout"] == 0,  # a question's first rollout
        "reward": reward,
        "success": None if reward is None else float(reward >= success_reward),
        "calls": len(calls),
        "failures": sum(call["error"] is not None for call in calls),
        "tokens": sum(record["policy_mask"]),
        "truncated": record["finish_reason"] == "length",
    }


def _summary(counts: list[dict[str, Any]]) -> Evaluation:
    questions, success = sum(one["new"] for one in counts), mean(one["success"] for one in counts)
    scored = sum(one["success"] is not None for one in counts)
    wins = sum(one["success"] or 0.0 for one in counts)
    low, high = rollouts_interval(wins, scored, len(counts), questions)
    return Evaluation(
        questions=questions,
        success=success,
        low=low,
        high=high,
        reward=mean(one["reward"] for one in counts),
        tool_calls=mean(one["calls"] for one in counts),
        tool_failures=mean(one["failures"] for one in counts),
        tokens=mean(one["tokens"] for one in counts),
        truncated=mean(one["truncated"] for one in counts),
        unscored=len(counts) - scored,
    )
