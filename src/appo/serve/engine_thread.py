"""`EngineThread`: one thread steps an engine; requests of any other thread join and leave between two steps.

An engine belongs to one thread, and many clients ask at once: what each wants is put into a queue, which is read
before each step. A client that goes away leaves, and its sequence is closed. Where a step fails, all that is being
written fails with it and is forgotten, and the thread goes on with what comes next.

    writing = thread.write(Request(0, ids, 64, seed=7))     # the id is the thread's to give
    turn = writing.turn.result()                            # or await asyncio.wrap_future(writing.turn)

A sequence is closed with its turn, as a client may never come back: the next turn is read anew, which engines with a
prefix cache make cheap. Where it is known when a client has ended, as in a training, sequences are kept open instead
(`keep`) and go on where they were (`resume`), until somebody lets go of them.

Left out on purpose: who keeps which (`keys.py`).
"""

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from appo.engines.base import Engine, Request, Turn

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class EngineFailed(RuntimeError):
    """A step of the engine failed, or its thread has ended; the cause is chained."""


class Left(RuntimeError):
    """The client went away before its turn was written."""


@dataclass(eq=False)
class Writing:
    """A turn that is being written; who stops waiting for it leaves, and cancels nothing.

    Args:
        id: The sequence's.
        on_tokens: Called in the engine's thread with the tokens so far, whenever there are more; None for nobody.
        keep: Whether the sequence stays open when its turn has ended.
        turn: What comes of it: the turn, or `ValueError` for a request that the engine refuses, `EngineFailed`,
            `Left`.
    """

    id: int
    on_tokens: Callable[[list[int]], None] | None = None
    keep: bool = False
    turn: Future[Turn] = field(default_factory=Future)
    told: int = 0

    def __post_init__(self) -> None:
        self.turn.set_running_or_notify_cancel()


class EngineThread:
    """
    Args:
        engine: Steps in one thread alone from now on; its weights are loaded.
        own: Whether that is a thread of its own; else it is the one that calls `drive`, as some engines are bound to
            the thread that made them.

    Attributes:
        failures: Steps that failed.
        cause: What the last of them failed of.
    """

    def __init__(self, engine: Engine, own: bool = True) -> None:
        self.engine = engine
        self.failures = 0
        self.cause: Exception | None = None
        self._ids = itertools.count()
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._open: dict[int, Writing] = {}
        self._kept: set[int] = set()  # between two turns
        self._lock = threading.Lock()  # of `_closed`: after it is set nothing is put into the queue
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="appo-engine", daemon=True) if own else None
        if self._thread is not None:
            self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return not self._closed

    def write(
        self, request: Request, on_tokens: Callable[[list[int]], None] | None = None, keep: bool = False
    ) -> Writing:
        """Has a turn written.

        Args:
            request: Its id is replaced.
            on_tokens, keep: See `Writing`.

        Raises:
            EngineFailed: once the thread has ended.
        """
        writing = Writing(next(self._ids), on_tokens, keep)
        self._ask(lambda: self._start(writing, lambda: self.engine.start(replace(request, id=writing.id))))
        return writing

    def resume(
        self, id: int, token_ids: list[int], max_new_tokens: int,
        on_tokens: Callable[[list[int]], None] | None = None,
    ) -> Writing:  # fmt: skip
        """Has the next turn of a kept sequence written, behind `token_ids`; it is kept again.

        Raises:
            EngineFailed: once the thread has ended.
        """
        writing = Writing(id, on_tokens, keep=True)
        self._ask(lambda: self._start(writing, lambda: self.engine.resume(id, token_ids, max_new_tokens)))
        return writing

    def let_go(self, id: int) -> None:
        """Closes a kept sequence that nobody will resume."""
        self._ask(lambda: self._let_go(id), otherwise=None)

    def leave(self, writing: Writing) -> None:
        """Closes a sequence whose turn nobody waits for any more; nothing where it has ended."""
        if not writing.turn.done():
            self._ask(lambda: self._leave(writing), otherwise=None)

    def call(self, work: Callable[[Engine], Result]) -> Future[Result]:
        """Does something with the engine between two steps, such as loading weights."""
        done: Future[Result] = Future()

        def run() -> None:
            try:
                done.set_result(work(self.engine))
            except Exception as error:  # it is the caller's
                done.set_exception(error)

        self._ask(run)
        return done

    def close(self) -> None:
        """Ends the thread; what is being written fails."""
        self._end()
        if self._thread is not None:
            self._thread.join()

    def drive(self, done: Future[Any]) -> None:
        """Steps the engine in the calling thread until `done` is; then, or where it is interrupted, it is closed."""
        done.add_done_callback(lambda _: self._end())
        try:
            self._run()
        except BaseException:
            self._end()
            self._fail(EngineFailed("the engine has been interrupted."))
            raise

    def _end(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._asked.put(lambda: None)  # wakes whoever steps

    def _ask(self, command: Callable[[], None], otherwise: type[Exception] | None = EngineFailed) -> None:
        with self._lock:
            if not self._closed:
                return self._asked.put(command)
        if otherwise is not None:
            raise otherwise("the engine has been closed.")

    # ---- in the engine's thread ----

    def _run(self) -> None:
        try:
            while self._take_asked():
                if self.engine.busy:
                    self._write_on()
            self._fail(EngineFailed("the engine has been closed."))
        except Exception as error:
            self.failures, self.cause = self.failures + 1, error
            logger.exception("the engine cannot go on")
            with self._lock:
                self._closed = True
        while not self._asked.empty():  # whoever asked in the last moment hears of it, too
            self._asked.get()()

    def _take_asked(self) -> bool:
        """Does what was asked for, and waits for that while there is nothing to write; whether to go on."""
        wait = not self.engine.busy
        while not self._closed:
            try:
                command = self._asked.get(block=wait)
            except Empty:
                break
            command()
            wait = wait and not self.engine.busy
        return not self._closed

    def _start(self, writing: Writing, start: Callable[[], None]) -> None:
        try:
            if self._closed:
                raise EngineFailed("the engine has been closed.")
            start()
        except (ValueError, EngineFailed) as error:
            writing.turn.set_exception(error)
        else:
            self._open[writing.id] = writing
            self._kept.discard(writing.id)

    def _let_go(self, id: int) -> None:
        if id in self._kept:
            self._kept.remove(id)
            self.engine.close(id)

    def _leave(self, writing: Writing) -> None:
        if self._open.pop(writing.id, None) is not None:
            self.engine.close(writing.id)
            writing.turn.set_exception(Left("the client went away."))

    def _write_on(self) -> None:
        try:
            turns = self.engine.step()
        except Exception as error:
            self.failures, self.cause = self.failures + 1, error
            logger.exception("a step of the engine failed; %d turns are lost", len(self._open))
            return self._fail(error)
        for turn in turns:
            writing = self._open.pop(turn.id)
            if writing.keep:
                self._kept.add(turn.id)
            else:
                self.engine.close(turn.id)
            writing.turn.set_result(turn)
        for writing in self._open.values():
            if writing.on_tokens is not None:
                written = self.engine.so_far(writing.id)
                if len(written) > writing.told:
                    writing.told = len(written)
                    writing.on_tokens(written)

    def _fail(self, cause: Exception) -> None:
        lost, self._open, self._kept = list(self._open.values()), {}, set()
        for writing in lost:
            error = EngineFailed(f"the engine failed: {type(cause).__name__}: {cause}")
            error.__cause__ = cause
            writing.turn.set_exception(error)
        self.engine.abandon()


def request_of(token_ids: list[int], max_new_tokens: int, seed: int, **options: Any) -> Request:
    """A request without an id, which the thread gives."""
    return Request(-1, token_ids, max_new_tokens, seed, **options)
