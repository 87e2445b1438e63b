"""Progress of many equal pieces of work: a bar in a terminal, a line now and then elsewhere.

Left out on purpose: training, whose progress is `appo.report.progress.RichProgress`.
"""

import time
from typing import Any

from rich.console import Console

from appo.report.bar import SECONDS_BETWEEN_LINES, progress_bar


class Meter:
    """Shows how much is done, how fast it goes and how long it will take.

    Args:
        title, unit: What is being done, and what is counted, for example "samples".
        total, done: How many there are, and how many of them were done before.
        console: Where to.
    """

    def __init__(self, title: str, unit: str, total: int, done: int, console: Console) -> None:
        self.title, self.unit, self.total, self.console = title, unit, total, console
        self.done = self._before = done
        self.tokens = 0
        self._start = self._last_line = time.monotonic()
        self._bar = progress_bar(console) if console.is_terminal else None

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, status="")
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, tokens: int = 0) -> None:
        """One more is done; it took so many tokens."""
        self.done, self.tokens = self.done + 1, self.tokens + tokens
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, status=self.rates(now))
        elif now - self._last_line > SECONDS_BETWEEN_LINES or self.done == self.total:
            self._last_line = now
            left = (self.total - self.done) * (now - self._start) / (self.done - self._before)
            minutes, seconds = divmod(round(left), 60)
            self.console.print(
                f"{self.title} {self.done}/{self.total}  {self.rates(now)}  eta {minutes // 60}:{minutes % 60:02}:"
                f"{seconds:02}"
            )

    def rates(self, now: float) -> str:
        """Pieces per minute since the start, and tokens per second where there are any."""
        seconds = max(now - self._start, 1e-9)
        rate = f"{(self.done - self._before) / seconds * 60:.1f} {self.unit}/min"
        return f"{rate}  {self.tokens / seconds:,.0f} tokens/s" if self.tokens else rate
