"""Search through a server: Search-R1's retrieval server, SearXNG, or Serper.

    search = HTTPSearch("retrieval", "http://localhost:8000", cache="runs/search.sqlite")
    search.search("capital of Ghana")                              # a tool, as those of appo.tools.search.bm25
    HTTPSearch("searxng", "http://localhost:8888")                 # its settings.yml must list json among `formats`
    HTTPSearch("serper", requests_per_second=5)                    # needs SERPER_API_KEY in the environment

A search that fails is tried again within bounds (`client.py`), then it is a `ToolError`. The key is read from
the environment for every request and kept nowhere; no message holds it. A document without a text or a title is left
out of the result, and counted.

Left out on purpose: answer boxes and knowledge panels; batches (one request is one query); asking a server only once
when several threads ask the same at the same time.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from appo.errors import UserError
from appo.tools import ToolError
from appo.tools.search.client import Call, Client
from appo.tools.search.disk_cache import DiskCache
from appo.tools.search.pages import Limits, Page, Search, lenient_page

logger = logging.getLogger(__name__)

SERPER_KEY = "SERPER_API_KEY"
PATIENCE_SECONDS = 25.0  # below a ToolRunner's time-out of 30 seconds, so that the policy reads the reason


@dataclass(frozen=True)
class _Kind:
    """How a kind of server is asked, and where its answer holds the documents. `rows` may fail in any way in which
    code does that meets other data than it expects."""

    path: str
    call: Callable[[str, str, int], Call]
    rows: Callable[[Any], Iterable[Any]]
    url: str | None = None


class HTTPSearch(Search):
    """Search through a server.

    Args:
        kind: `retrieval`, `searxng` or `serper`.
        url: The server, `http://host:port`, perhaps with the path of its search; optional for `serper`.
        limits: How much a result may hold.
        timeout: Seconds without a byte from the server after which a try is over.
        patience: Seconds for a search in all. Keep it below the tools' time-out (`tool_timeout`), so that the policy
            reads what went wrong.
        retries: Tries after the first.
        backoff: Seconds of the first pause between tries, on average; each is twice the one before.
        requests_per_second: Over all threads of this process; None for no limit.
        cache: A file in which results are kept for ever, shared by threads and processes; on a local disk. Empty
            results and failures are not kept.

    Attributes:
        left_out: How many documents were left out of results because they held neither a text nor a title.

    Raises:
        ValueError: for a kind, address, number, key or cache that cannot be used.
    """

    def __init__(
        self,
        kind: str,
        url: str | None = None,
        *,
        limits: Limits = Limits(),
        timeout: float = 10.0,
        patience: float = PATIENCE_SECONDS,
        retries: int = 3,
        backoff: float = 0.5,
        requests_per_second: float | None = None,
        cache: str | Path | None = None,
    ) -> None:
        if kind not in _KINDS:
            raise UserError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}.")
        self.kind, self.limits = kind, limits
        self._kind = _KINDS[kind]
        self.url = _address(url or self._kind.url, self._kind.path)
        if kind == "serper":
            _serper_key()
        self._client = Client(timeout, patience, retries, backoff, requests_per_second)
        self._cache = DiskCache(cache) if cache is not None else None
        self.left_out = 0
        self._lock = threading.Lock()

    def find(self, query: str) -> list[Page]:
        if self._cache is None:
            return self._ask(query)
        key = json.dumps([self.kind, self.url, self.limits.top_k, query])
        known = self._cache.get(key)
        if known is not None:
            return [Page(text, title) for title, text in json.loads(known)]
        pages = self._ask(query)
        # None at all may mean that the engines behind the server were busy.
        if pages:
            self._cache.put(key, json.dumps([[page.title, page.text] for page in pages]))
        return pages

    def _ask(self, query: str) -> list[Page]:
        body = self._client.fetch(self._kind.call(self.url, query, self.limits.top_k))
        try:
            documents = [lenient_page(row) for row in self._kind.rows(json.loads(body))]
            pages = [page for page in documents if page is not None]
            if documents and not pages:
                raise ValueError("none of the documents is one")
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            raise ToolError("the search failed: the server's answer cannot be read") from None
        self._count(len(documents) - len(pages))
        return pages[: self.limits.top_k]

    def _count(self, left_out: int) -> None:
        with self._lock:
            first = left_out and not self.left_out
            self.left_out += left_out
        if first:
            logger.warning("A document from %s holds no text and is left out; more are only counted.", self.url)


def _address(url: str | None, path: str) -> str:
    """The address of a server's search. What is wrong with it is said without showing it."""
    try:
        parts = urlsplit(url or "")
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url or ""):
        raise UserError("url must read http://host:port or https://host/path, without user, password or query.")
    own = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{own or path}"


def _retrieval_call(url: str, query: str, top_k: int) -> Call:
    return Call(url, json.dumps({"queries": [query], "topk": top_k, "return_scores": True}).encode())


def _searxng_call(url: str, query: str, top_k: int) -> Call:
    return Call(f"{url}?{urlencode({'q': query, 'format': 'json'})}")


def _serper_call(url: str, query: str, top_k: int) -> Call:
    return Call(url, json.dumps({"q": query, "num": top_k}).encode(), {"X-API-KEY": _serper_key()})


def _serper_key() -> str:
    key = os.environ.get(SERPER_KEY, "").strip()
    # Others would be shown in the error of whoever sends them.
    if not re.fullmatch(r"[!-~]+", key):
        state = "holds characters that no key has" if key else "is not set"
        raise UserError(f"the environment variable {SERPER_KEY} {state}; Serper needs a key.")
    return key


_KINDS = {
    "retrieval": _Kind("/retrieve", _retrieval_call, lambda answer: answer["result"][0]),
    "searxng": _Kind("/search", _searxng_call, lambda answer: answer["results"]),
    "serper": _Kind("/search", _serper_call, lambda answer: answer["organic"], "https://google.serper.dev"),
}
