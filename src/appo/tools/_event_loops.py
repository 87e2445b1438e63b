"""The event loop in which coroutines of tools run, and others for as long as a coroutine blocks it.

All coroutines share the first loop that answers, so that clients that belong to a loop stay usable from call to call.
A coroutine that blocks (`time.sleep`, `requests`) stops its loop: calls that have not begun there begin in the next
one, which is made where there is none. Calls under way in a blocked loop go on when it does.

Left out on purpose: stopping a coroutine that blocks, which Python cannot do.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)

CHECKS = 10  # of a loop before it counts as blocked, so that a pause of the whole process is no block


class AsyncCall:
    """An awaitable on its way through an event loop.

    Attributes:
        begun: Set when it has begun in a loop.
        settled: Set when it has a `value` or an `error`, or was given up.
        ended: Set when nothing of it runs any more.
    """

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self.begun, self.settled, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Begins in the loop that calls this; without effect if it has begun in another or was given up."""
        with self._lock:
            if self._task is None and not self.settled.is_set():
                self._task = asyncio.get_running_loop().create_task(self._run())
                self._task.add_done_callback(self._end)
                self.begun.set()

    async def _run(self) -> None:
        try:
            self.value = await self._awaitable
        except BaseException as error:  # SystemExit and KeyboardInterrupt would end the loop
            self.error = error

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self._close()
            self.error = asyncio.CancelledError("the tool's task was cancelled")
        self.settled.set()
        self.ended.set()

    def give_up(self) -> None:
        """Cancels it, or keeps it from beginning."""
        with self._lock:
            self.settled.set()
            task = self._task
        if task is None:
            self._close()
            self.ended.set()
        else:
            _post(task.get_loop(), task.cancel)

    def _close(self) -> None:
        if isinstance(self._awaitable, Coroutine):
            self._awaitable.close()  # else Python warns that it was never awaited


class EventLoops:
    """Event loops in daemon threads; the first is made at the first call.

    Args:
        patience: Seconds in which a loop has to begin a call; else it counts as blocked, until it answers.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._loops: list[_Loop] = []
        self._lock = threading.Lock()

    def run(self, call: AsyncCall) -> None:
        """Begins a call and waits until it has settled."""
        while not (call.begun.is_set() or call.settled.is_set()):
            loop = self._first_that_answers()
            loop.post(call.begin)
            if not any(call.begun.wait(self.patience / CHECKS) or call.settled.is_set() for _ in range(CHECKS)):
                loop.blocked.set()
                loop.post(loop.blocked.clear)
        call.settled.wait()

    def _first_that_answers(self) -> "_Loop":
        with self._lock:
            for loop in self._loops:
                if not loop.blocked.is_set():
                    return loop
            self._loops.append(_Loop())
            return self._loops[-1]

    def close(self) -> None:
        """Ends the loops, those that are blocked when they answer."""
        with self._lock:
            for loop in self._loops:
                loop.close()
            self._loops.clear()


class _Loop:
    """An event loop in a thread of its own, which no tool can end."""

    def __init__(self) -> None:
        self.blocked = threading.Event()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True, name="appo-async").start()

    def _run(self) -> None:
        while not self._closed:
            # SystemExit of a task that a tool made ends `run_forever`, but no other task.
            with suppress(BaseException):
                self._loop.run_forever()
        if left := asyncio.all_tasks(self._loop):
            logger.warning(
                "%d coroutines of tools still ran when their event loop was closed; they end there.", len(left)
            )
            self._loop.set_exception_handler(lambda loop, context: None)  # Python would tell of each once more
        self._loop.close()

    def post(self, function: Callable[[], Any]) -> None:
        _post(self._loop, function)

    def close(self) -> None:
        self._closed = True
        self.post(self._loop.stop)


def _post(loop: asyncio.AbstractEventLoop, function: Callable[[], Any]) -> None:
    with suppress(RuntimeError):  # the loop was closed
        loop.call_soon_threadsafe(function)
