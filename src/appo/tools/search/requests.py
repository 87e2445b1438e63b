"""Requests to a server that may be slow, busy or broken, within a bounded time.

`Client.fetch` tries again, after exponentially longer pauses with jitter, where that may help: when the server cannot
be reached, is too slow, breaks off, or answers 408, 429 or 5xx. A `Retry-After` is respected by all threads, and so is
the limit on requests per second. What finally fails is a `ToolError` that names neither the server's address nor any
header or content, as these may hold a key.

Left out on purpose: redirects, which would carry a key to another server; limits across processes.
"""

import email.utils
import http
import http.client
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from appo.errors import UserError
from appo.tools import ToolError

MAX_BYTES = 10_000_000  # of an answer
MAX_HOLD_SECONDS = 300.0  # a server that asks for more, perhaps by mistake, is asked again after that


@dataclass(frozen=True)
class Call:
    """One request. `body` makes it a POST of JSON. Headers do not show in its representation: they hold the key."""

    url: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Failure(Exception):
    """Why a try failed, in words for the policy, and whether another one may help."""

    def __init__(self, reason: str, again: bool, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.retry_after = again, retry_after


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None  # makes urllib raise the answer as an HTTPError


class _Turns:
    """Gives threads their turns, one per interval.

    Args:
        interval: Seconds from one turn to the next.
    """

    def __init__(self, interval: float) -> None:
        self._interval, self._next = interval, 0.0
        self._lock = threading.Lock()

    def wait(self, deadline: float) -> None:
        """Waits for a turn; raises _Failure at once if it would come after the deadline."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            if turn > deadline:
                raise _Failure("the server is busy", again=False)
            self._next = turn + self._interval
        time.sleep(max(0.0, turn - time.monotonic()))

    def hold(self, seconds: float) -> None:
        """No turn begins before that time has passed."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + min(seconds, MAX_HOLD_SECONDS))


class Client:
    """Fetches answers; usable from many threads at once.

    Args:
        timeout: Seconds without a byte from the server after which a try is over.
        patience: Seconds for all tries, pauses and turns; nothing is begun that would exceed them.
        retries: Tries after the first.
        backoff: Seconds of the first pause, on average; each is twice the one before.
        requests_per_second: Over all threads of this process; None for no limit.
        what: What failed, in an error: "the search".

    Raises:
        ValueError: for a number that makes no sense.
    """

    def __init__(
        self,
        timeout: float,
        patience: float,
        retries: int,
        backoff: float,
        requests_per_second: float | None,
        what: str = "the search",
    ) -> None:
        positive = {"timeout": timeout, "patience": patience, "requests_per_second": requests_per_second}
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}.")
        if retries < 0 or backoff < 0:
            raise UserError(f"retries and backoff must not be negative, got {retries} and {backoff}.")
        self.timeout, self.patience, self.retries, self.backoff = timeout, patience, retries, backoff
        self.what = what
        self._turns = _Turns(1 / requests_per_second if requests_per_second else 0.0)
        self._opener = build_opener(_NoRedirect)
        # Its own, so that a failing server does not change what a seeded run samples.
        self._random = random.Random()

    def fetch(self, call: Call) -> bytes:
        """The body of the server's answer.

        Raises:
            ToolError: where there is none in time.
        """
        deadline = time.monotonic() + self.patience
        tries = 0
        while True:
            try:
                self._turns.wait(deadline)
                tries += 1
                return self._try(call, deadline)
            except _Failure as failure:
                self._turns.hold(failure.retry_after)
                jitter = self._random.uniform(0.5, 1.5)
                pause = max(failure.retry_after, self.backoff * 2 ** (tries - 1) * jitter) if failure.again else 0.0
                if not failure.again or tries > self.retries or time.monotonic() + pause > deadline:
                    counted = f" ({tries} tries)" if tries > 1 else ""
                    raise ToolError(f"{self.what} failed: {failure}{counted}") from None
            time.sleep(pause)

    def _try(self, call: Call, deadline: float) -> bytes:
        kind = {"Content-Type": "application/json"} if call.body is not None else {}
        # A new one each time, as proxies change it.
        request = Request(call.url, call.body, {"Accept": "application/json", **kind, **call.headers})
        try:
            with self._opener.open(
                request, timeout=min(self.timeout, max(0.1, deadline - time.monotonic()))
            ) as answer:
                return _read(answer, deadline)
        except HTTPError as error:
            with error:
                raise _status_failure(error.code, error.headers.get("Retry-After")) from None
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            if isinstance(cause, TimeoutError):
                raise _Failure("the server did not answer in time", again=True) from None
            raise _Failure(f"the connection failed ({type(cause).__name__})", again=True) from None


def _read(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    """By pieces: the socket's time-out starts anew with every byte, and a server may send one now and then."""
    expected, body = answer.length, bytearray()
    while expected is None or len(body) < expected:
        piece = answer.read1(1 << 16)
        if not piece:
            break
        body += piece
        if len(body) > MAX_BYTES:
            raise _Failure("the server's answer is too long", again=False)
        if time.monotonic() > deadline:
            raise TimeoutError
    if expected is not None and len(body) < expected:
        raise _Failure("the server's answer broke off", again=True)
    return bytes(body)


def _status_failure(status: int, retry_after: str | None) -> _Failure:
    # The server's own phrase and content are not shown.
    try:
        phrase = f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    again = status in (408, 429) or status >= 500
    return _Failure(f"the server answered {status}{phrase}", again, _seconds(retry_after) if again else 0.0)


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After, which is a number of seconds or a date; 0 where it is neither."""
    try:
        return max(0.0, float(int(retry_after or "0")))
    except OverflowError:
        return MAX_HOLD_SECONDS
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after or "").timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
