"""Tries that are repeated, within a bounded time, where that may help.

`Retries.call` tries again after exponentially longer pauses with jitter (tenacity). A server's `Retry-After` is
respected by all threads, and so is the limit on requests per second. What finally fails is a `ToolError` of the
failure's own words, which name neither a server's address nor any header or content, as these may hold a key.

Turns and the pauses' length are our own: tenacity draws its jitter from Python's shared random numbers, which would
change what a seeded run samples, and it knows nothing of other threads.

Left out on purpose: limits across processes.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_before_delay

from appo.errors import UserError
from appo.tools.results import ToolError

T = TypeVar("T")

MAX_HOLD_SECONDS = 300.0  # a server that asks for more, perhaps by mistake, is asked again after that


class Failure(Exception):
    """Why a try failed, in words for the policy, and whether another one may help.

    Args:
        reason: The words.
        again: Whether to try again.
        retry_after: Seconds for which nobody should try.
    """

    def __init__(self, reason: str, again: bool, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.retry_after = again, retry_after


class _Turns:
    """Gives threads their turns, one per interval.

    Args:
        interval: Seconds from one turn to the next.
    """

    def __init__(self, interval: float) -> None:
        self._interval, self._next = interval, 0.0
        self._lock = threading.Lock()

    def wait(self, deadline: float) -> None:
        """Waits for a turn; raises Failure at once if it would come after the deadline."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            if turn > deadline:
                raise Failure("the server is busy", again=False)
            self._next = turn + self._interval
        time.sleep(max(0.0, turn - time.monotonic()))

    def hold(self, seconds: float) -> None:
        """No turn begins before that time has passed."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + min(seconds, MAX_HOLD_SECONDS))


class Retries:
    """Usable from many threads at once.

    Args:
        patience: Seconds for all tries, pauses and turns; nothing is begun that would exceed them.
        retries: Tries after the first.
        backoff: Seconds of the first pause, on average; each is twice the one before.
        requests_per_second: Over all threads of this process; None for no limit.
        what: What failed, in an error: "the search".

    Raises:
        ValueError: for a number that makes no sense.
    """

    def __init__(
        self, patience: float, retries: int, backoff: float, requests_per_second: float | None, what: str
    ) -> None:
        for name, value in {"patience": patience, "requests_per_second": requests_per_second}.items():
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}.")
        if retries < 0 or backoff < 0:
            raise UserError(f"retries and backoff must not be negative, got {retries} and {backoff}.")
        self.patience, self.retries, self.backoff, self.what = patience, retries, backoff, what
        self.turns = _Turns(1 / requests_per_second if requests_per_second else 0.0)
        self._random = random.Random()

    def call(self, attempt: Callable[[float], T]) -> T:
        """What `attempt` returns, which gets the deadline (of `time.monotonic`) and raises `Failure` where it fails.

        Raises:
            ToolError: where no try succeeded in time.
        """
        deadline = time.monotonic() + self.patience
        tries = 0

        def one() -> T:
            nonlocal tries
            self.turns.wait(deadline)
            tries += 1
            try:
                return attempt(deadline)
            except Failure as failure:
                self.turns.hold(failure.retry_after)
                raise

        retrying = Retrying(
            sleep=lambda seconds: time.sleep(seconds),
            retry=retry_if_exception(lambda error: isinstance(error, Failure) and error.again),
            wait=self._pause,
            stop=stop_after_attempt(self.retries + 1) | stop_before_delay(self.patience),
            reraise=True,
        )
        try:
            return retrying(one)
        except Failure as failure:
            counted = f" ({tries} tries)" if tries > 1 else ""
            raise ToolError(f"{self.what} failed: {failure}{counted}") from None

    def _pause(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.retry_after if isinstance(failure, Failure) else 0.0
        return max(asked, self.backoff * 2 ** (state.attempt_number - 1) * self._random.uniform(0.5, 1.5))
