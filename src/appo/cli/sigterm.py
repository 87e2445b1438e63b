"""SIGTERM, which clusters send before they take a machine away: training ends with a checkpoint after this update.

Outside of training a command ends at once, as after Ctrl-C. Left out on purpose: a checkpoint in the middle of an
update; a run that is killed there goes on from the one before.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainerCallback

TERMINATED = 128 + signal.SIGTERM  # the exit code of a process that SIGTERM ended, as shells have it


class Terminated(BaseException):
    """SIGTERM came; the message says what is saved, if anything special is."""


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    """Has SIGTERM handled by `handler` inside; Python sets handlers in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def terminated_by_sigterm() -> Iterator[None]:
    """Raises `Terminated` where SIGTERM comes."""

    def end(*_: Any) -> None:
        raise Terminated

    with _handling(end):
        yield


class StopOnSigterm(TrainerCallback):
    """Saves and stops at the end of the update in which the signal came; `asked` says whether it came.

    With several processes all stop after the same update, whichever got the signal.
    """

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens to the signal inside."""
        with _handling(lambda *_: setattr(self, "asked", True)):
            yield

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            self.asked = bool(gather(torch.tensor([self.asked], device=PartialState().device)).any())
        if self.asked:
            control.should_save = args.save_strategy != "no"
            control.should_training_stop = True
