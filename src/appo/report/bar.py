"""Bars of long work, which need neither torch nor transformers.

Left out on purpose: a trainer's progress (`progress.py`).
"""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


def progress_bar(console: Console) -> Progress:
    """A bar with a text field `status`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=console,
    )


class Stages:
    """Pieces of long work, each counted by itself: a bar each in a terminal, a line now and then elsewhere.

    with Stages(console) as stages:
        stages("reading", 3, 10)
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = progress_bar(console)
        self._tasks: dict[str, Any] = {}
        self._last_line = -SECONDS_BETWEEN_LINES

    def __enter__(self) -> "Stages":
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """`done` of `total` parts of the stage `name` are done."""
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total, status="")
        self._bar.update(self._tasks[name], completed=done)
        due = done == total or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        if due and not self.console.is_terminal:
            self._last_line = time.monotonic()
            self.console.print(f"{name} {done}/{total}", highlight=False)
