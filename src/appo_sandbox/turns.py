"""Who may run a program next: first come, first served.

`threading.Semaphore` and `Condition` let a newcomer pass those who wait, so that under load some calls wait until
their patience is over, while others are served again and again.

Left out on purpose: priorities.
"""

import threading
import time
from collections import deque


class Turns:
    """
    Args:
        count: Turns that are taken at once.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Event] = deque()  # only while none is free
        self._open = False
        self._lock = threading.Lock()

    def take(self, deadline: float) -> bool:
        """Waits for a turn; False where none came until `deadline`, on the clock `time.monotonic`."""
        with self._lock:
            if self._open:
                return True
            if self._free:
                self._free -= 1
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            return turn.wait(max(0.0, deadline - time.monotonic())) or not self._leave(turn)
        except BaseException:  # Ctrl-C
            if not self._leave(turn):
                self.give()
            raise

    def _leave(self, turn: threading.Event) -> bool:
        """Waits no more; False where the turn has come in between."""
        with self._lock:
            if turn.is_set():
                return False
            self._waiting.remove(turn)
            return True

    def give(self) -> None:
        """Hands a turn to whoever has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    def open(self) -> None:
        """Lets everybody pass, from now on."""
        with self._lock:
            self._open = True
            while self._waiting:
                self._waiting.popleft().set()
