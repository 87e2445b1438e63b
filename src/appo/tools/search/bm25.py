"""Search for agents without a network: a corpus of your own, or recorded results.

- `LocalSearch`: BM25 over a corpus in a file (.jsonl, .json, .parquet with `title` and `text`) or in a list.
- `CachedSearch`: the answers that the paper's authors recorded, for queries that they hold; else another search.
- `corpus_from_cache`: the pages of those answers, as a corpus for `LocalSearch`.
- `appo.tools.search.http.HTTPSearch`: a retrieval server, SearXNG or Serper.

The method `search` of each is a tool, in a list (`tools=[LocalSearch("wiki.jsonl").search]`) or called by an
environment's own method. Results read `Page 1: title`, then the text, at most ten pages by default and 8192 characters
(`Limits`); what is cut leaves a note. An empty or huge query is a `ToolError`, so the policy reads what is wrong.

    python -m appo.tools.search CORPUS "the query"       # a search_cache.json is a corpus too

Left out on purpose: dense retrieval (run a server for it) and opening a found page.
"""

import hashlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from appo.data.rows import BadRows, DataError, read_rows
from appo.tools import ToolError
from appo.tools.search.bm25_index import FORMAT, open_index
from appo.tools.search.pages import NO_RESULTS, Limits, Page, Search, page_of

__all__ = ["NO_RESULTS", "CachedSearch", "Limits", "LocalSearch", "Page", "Search", "corpus_from_cache"]

_PAGE_START = re.compile(r"(?:^|\n)Page \d+: ")


class LocalSearch(Search):
    """BM25 over a corpus.

    The index is built when it is first asked for, and again after the corpus has changed (path, size or time of a
    file, the content of a list); otherwise it is opened, in milliseconds and shared by all processes.

    Args:
        corpus: A file with one page per row, `text` (or `contents`, `body`, ..) and perhaps `title`; or pages.
        index_dir: Where indices are kept; by default `appo/search` in the user's cache directory.
        limits: How much a result may hold.
        console: Gets the progress bar; by default standard error.

    Raises:
        DataError: a ValueError, in one sentence: for a file that cannot be read, for rows without a text, with their
            lines, and for a corpus without words.
    """

    def __init__(
        self,
        corpus: str | Path | Sequence[Page],
        index_dir: str | Path | None = None,
        *,
        limits: Limits = Limits(),
        console: Console | None = None,
    ) -> None:
        self.limits = limits
        root = Path(index_dir) if index_dir is not None else _cache_directory()
        console = console or Console(stderr=True)
        if isinstance(corpus, (str, Path)):
            path = Path(corpus).resolve()
            mark = _file_fingerprint(path)
            self._index = open_index(path.stem, mark, lambda: (_file_pages(path, mark), None), root, console)
        else:
            mark = _fingerprint(part for page in corpus for part in (page.title, page.text))
            self._index = open_index("pages", mark, lambda: (corpus, len(corpus)), root, console)

    def __len__(self) -> int:
        """How many pages there are."""
        return len(self._index)

    def find(self, query: str) -> list[Page]:
        return self._index.best(query, self.limits.top_k)


class CachedSearch(Search):
    """Recorded results, for the queries that were recorded.

    A query counts as recorded if one differs from it only in case, spacing, and a leading `search query:`, which most
    queries of the released cache have. A recorded query without results is taken as not recorded.

    Args:
        path: A JSON object; its keys are queries, its values texts like `Page 1: ..\\nPage 2: ..`.
        fallback: Answers all other queries; without it they have no result.
        limits: How much a result may hold; the fallback's own say how many pages it finds.

    Raises:
        DataError: where the file cannot be read as a search cache.
    """

    def __init__(self, path: str | Path, fallback: Search | None = None, *, limits: Limits = Limits()) -> None:
        self.limits, self.fallback = limits, fallback
        self._found = {_normalised(query): pages for query, pages in _read_cache(Path(path)) if pages}

    def __len__(self) -> int:
        """How many queries have a recorded result."""
        return len(self._found)

    def find(self, query: str) -> list[Page]:
        pages = self._found.get(_normalised(query))
        if pages is None:
            return self.fallback.find(query) if self.fallback else []
        return pages


def corpus_from_cache(path: str | Path) -> list[Page]:
    """The different pages of a search cache, in its order, without titles.

    The queries do not become titles: words of the question would then find its answer.

    Raises:
        DataError: where the file cannot be read as a search cache.
    """
    different: dict[str, Page] = {}
    for _, pages in _read_cache(Path(path)):
        for page in pages:
            different.setdefault(" ".join(page.text.casefold().split()), page)
    return list(different.values())


def _read_cache(path: Path) -> Iterator[tuple[str, list[Page]]]:
    try:
        cache = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(cache, dict):
        raise DataError(f"{path} must hold one JSON object, with a text of results for each query.")
    for query, result in cache.items():
        if not isinstance(result, str):
            raise DataError(f"{path}: the result of the query {query[:80]!r} is no text.")
        # What precedes the first page is a message, such as that there are none.
        texts = _PAGE_START.split(result)[1:]
        yield query, [Page(text.strip()) for text in texts if text.strip()]


def _normalised(query: str) -> str:
    query = " ".join(unicodedata.normalize("NFKC", query).casefold().split())
    return query.removeprefix("search query:").strip()


def _file_pages(path: Path, mark: str) -> Iterator[Page]:
    bad = BadRows(path.name)
    for place, row in read_rows(path, bad):
        try:
            yield page_of(row)
        except ValueError as error:
            bad.add(place, str(error))
    bad.raise_if_any()
    if _file_fingerprint(path) != mark:
        raise DataError(f"{path} was changed while it was indexed.")


def _file_fingerprint(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        raise DataError(f"there is no file {path}.") from None
    return _fingerprint([str(path), str(state.st_size), str(state.st_mtime_ns)])


def _fingerprint(parts: Iterable[str]) -> str:
    mark = hashlib.sha256(str(FORMAT).encode())
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        mark.update(len(content).to_bytes(8, "big") + content)
    return mark.hexdigest()


def _cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "appo" / "search"


def main(arguments: list[str]) -> None:
    """The command; ends the process with one sentence where something is wrong."""
    if len(arguments) != 2:
        sys.exit('usage: python -m appo.tools.search CORPUS "the query"')
    path = Path(arguments[0])
    try:
        corpus = corpus_from_cache(path) if path.name == "search_cache.json" else path
        print(LocalSearch(corpus).search(arguments[1]))
    except (DataError, ToolError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
