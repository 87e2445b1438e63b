"""Requests to a server that may be slow, busy or broken, within a bounded time (httpx).

`Client.fetch` tries again (`retries.py`) when the server cannot be reached, is too slow, breaks off, or answers 408,
429 or 5xx. What finally fails is a `ToolError` that names neither the server's address nor any header or content, as
these may hold a key.

Left out on purpose: redirects, which would carry a key to another server; compressed answers, whose size shows only
when they are unpacked.
"""

import email.utils
import http
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from appo.errors import UserError
from appo.tools.search.retries import MAX_HOLD_SECONDS, Failure, Retries

MAX_BYTES = 10_000_000  # of an answer
BAD_PROXY = "the proxy in the environment variable HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used; write http://host:port."
TOO_SLOW = "the server did not answer in time"
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Call:
    """One request. `body` makes it a POST of JSON. Headers do not show in its representation: they hold the key."""

    url: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Client:
    """Fetches answers; usable from many threads at once, and after a fork.

    Args:
        timeout: Seconds without a byte from the server after which a try is over.
        patience, retries, backoff, requests_per_second, what: Of `Retries`.

    Raises:
        ValueError: for a number that makes no sense, and for a proxy in the environment that cannot be used.
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
        if not timeout > 0:
            raise UserError(f"timeout must be positive, got {timeout}.")
        self.timeout = timeout
        self._retries = Retries(patience, retries, backoff, requests_per_second, what)
        self._connections = {os.getpid(): _open_connections()}

    def fetch(self, call: Call) -> bytes:
        """The body of the server's answer.

        Raises:
            ToolError: where there is none in time.
        """
        return self._retries.call(lambda deadline: self._try(call, deadline))

    def _try(self, call: Call, deadline: float) -> bytes:
        # A forked process must not write into its parent's connections.
        if os.getpid() not in self._connections:
            self._connections = {os.getpid(): _open_connections()}
        kind = {"Content-Type": "application/json"} if call.body is not None else {}
        try:
            with self._connections[os.getpid()].stream(
                "GET" if call.body is None else "POST",
                call.url,
                content=call.body,
                headers={**_HEADERS, **kind, **call.headers},
                timeout=min(self.timeout, max(0.1, deadline - time.monotonic())),
            ) as answer:
                if not answer.is_success:
                    raise status_failure(answer.status_code, answer.headers.get("Retry-After"))
                return _read(answer, deadline)
        except httpx.HTTPError as error:
            raise _transport_failure(error) from None


def _open_connections() -> httpx.Client:
    """A client of httpx without a limit on connections.

    Raises:
        ValueError: for a proxy in the environment that cannot be used; it is not shown, as it may hold a password.
    """
    try:
        return httpx.Client(limits=httpx.Limits(max_connections=None, max_keepalive_connections=20))
    except (ImportError, ValueError, httpx.InvalidURL):
        raise UserError(BAD_PROXY) from None


def status_failure(status: int, retry_after: str | None) -> Failure:
    """What an answer without success says; not in the server's own words."""
    try:
        phrase = f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    again = status in (408, 429) or status >= 500
    return Failure(f"the server answered {status}{phrase}", again, _seconds(retry_after) if again else 0.0)


def connection_failure(error: BaseException) -> Failure:
    """Why there was no answer, by the kind of the error below all; its words may hold an address."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return Failure(f"the connection failed ({type(cause or error).__name__})", again=True)


def _transport_failure(error: httpx.HTTPError) -> Failure:
    if isinstance(error, httpx.TimeoutException):
        return Failure(TOO_SLOW, again=True)
    if isinstance(error, httpx.RemoteProtocolError):
        return Failure("the server's answer broke off", again=True)
    return connection_failure(error)


def _read(answer: httpx.Response, deadline: float) -> bytes:
    """By pieces: the time-out starts anew with every byte, and a server may send one now and then."""
    body = bytearray()
    for piece in answer.iter_raw():
        body += piece
        if len(body) > MAX_BYTES:
            raise Failure("the server's answer is too long", again=False)
        if time.monotonic() > deadline:
            raise Failure(TOO_SLOW, again=True)
    return bytes(body)


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
