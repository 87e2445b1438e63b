"""Live progress of training: one bar in a terminal, one line now and then elsewhere.

Left out on purpose: loggers. TensorBoard, trackio and W&B work through `report_to` as in transformers.
"""

import time
from collections import deque
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from appo.report.bar import SECONDS_BETWEEN_LINES, progress_bar

SMOOTHED_OVER = 8  # logs; one mini-batch alone says little


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
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
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

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        known = {name: value for name, value in (logs or {}).items() if name in self.shown and value is not None}
        for name, value in known.items():
            self._recent[name].append(float(value))
        if len(known) < len(self.shown) / 2:
            return  # the summary at the end
        due = time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or state.global_step == state.max_steps
        if self._progress is None and state.is_world_process_zero and due:
            self._last_line = time.monotonic()
            self.console.print(
                f"{self.title} {state.global_step}/{state.max_steps}  {self._status()}", highlight=False
            )

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
