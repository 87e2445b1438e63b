"""Traces in trackio: the page "Traces" of its dashboard, or `trackio list traces --project P --run R`.

Left out on purpose: metrics and the run itself, which are transformers' (`report_to: trackio`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from appo.report.trackers.rollout_trace import RolloutTrace


def log_to_trackio(traces: Sequence[RolloutTrace], step: int) -> None:
    """Sends them to the run that transformers has opened; to none where its callback was taken away."""
    import trackio

    if trackio.context_vars.current_run.get() is not None:
        made = [trackio.Trace(one.messages, one.metadata, one.spans) for one in traces]
        trackio.log({"rollouts": made}, step=step)


@contextmanager
def without_a_run(trainer: Any) -> Iterator[None]:
    """Keeps TRL's timers from trackio outside of a training.

    They log there whether or not a run is open, and fail where none is: transformers opens it when a training begins,
    and closes it when it ends, so that every evaluation before or after would end in their error.
    """
    given = trainer.args.report_to
    if not trainer.is_in_train:
        trainer.args.report_to = [name for name in given if name != "trackio"]
    try:
        yield
    finally:
        trainer.args.report_to = given
