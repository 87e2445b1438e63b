"""Live progress of training: one bar in a terminal, one line now and then elsewhere.

Left out on purpose: loggers. TensorBoard, trackio and W&B work through `report_to` as in transformers.
"""

import time
from collections import deque
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from appo.report.bar import SECONDS_BETWEEN_LINES, progress_bar

SMOOTHED_OVER = 8  # logs; one mini-batch alone says little
# Of a training.
SHOWN = {
    "success": "success {:.2f}",
    "reward": "reward {:.2f}",
    "entropy": "entropy {:.2f}",
    "tokens/generated": "{:,.0f} tokens",
}


def title_of(method: str) -> str:
    """What a training is called: by the name of its method in capitals, or the name of a class of one's own."""
    module, _, own = method.rpartition(":")
    return own if module else method.upper()


class RichProgress(TrainerCallback):
    """Shows chosen metrics: totals as they are, all others as means of the last logs, and says so.

    Args:
        title: What is being done.
        shown: Names of metrics and how to print them, for example `{"success": "success {:.2f}"}`.
        console: Where to.
    """

    def __init__(self, title: str, shown: dict[str, str], console: Console) -> None:
        self.title, self.shown, self.console = title, shown, console
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=SMOOTHED_OVER) for name in shown}
        self._progress: Progress | None = None
        self._task: Any = None
        self._last_line = 0.0

    @classmethod
    def attach(cls, trainer: Trainer, title: str, shown: dict[str, str], console: Console) -> None:
        """Replaces the trainer's own progress output."""
        trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)  # in a notebook another one
        for kind in (ProgressCallback, PrinterCallback, cls):
            trainer.remove_callback(kind)
        trainer.add_callback(cls(title, shown, console))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.console.is_terminal:
            self._progress = progress_bar(self.console)
            self._task = self._progress.add_task(
                self.title, total=state.max_steps, completed=state.global_step, status=""
            )
            self._progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step, status=self._status())
        elif not control.should_log:  # else the log, which follows, knows more
            self._print_line(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        known = {name: value for name, value in (logs or {}).items() if name in self.shown and value is not None}
        for name, value in known.items():
            self._recent[name].append(float(value))
        if len(known) < len(self.shown) / 2:
            return  # the summary at the end
        if self._progress is None:
            self._print_line(state, state.global_step == state.max_steps)

    def _print_line(self, state: Any, due: bool = False) -> None:
        """A line, if it is time for one."""
        if state.is_world_process_zero and (due or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = time.monotonic()
            line = f"{self.title} {state.global_step}/{state.max_steps}  {self._status()}"
            self.console.print(line.rstrip(), highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step, status=self._status())
            self._progress.stop()
            self._progress = None

    def _status(self) -> str:
        means, totals, most = [], [], 0
        for name, form in self.shown.items():
            values = self._recent[name]
            if values and name.startswith("tokens/"):
                totals.append(form.format(values[-1]))
            elif values:
                means.append(form.format(sum(values) / len(values)))
                most = max(most, len(values))
        note = [f"(mean of {most} logs)"] if most > 1 else []
        return "  ".join([*means, *note, *totals])
