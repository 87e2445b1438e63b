"""A BM25 index on disk: built once, memory-mapped by every process that searches it.

`open_index` builds what is missing in a temporary directory and renames it when it is whole;
a lock makes other processes wait for it instead of building the same.

Left out on purpose: what a word is (`words.py`); deleting the indices of former versions of a corpus
(remove the directory). Building needs the words of the corpus in memory, searching
only its vocabulary.
"""

import json
import logging
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bm25s
import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console

from appo.data.rows import DataError
from appo.report.bar import progress_bar
from appo.tools.search.pages import Page
from appo.tools.search.words import words

logger = logging.getLogger(__name__)
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for all its messages

FORMAT = 2  # of the files; counts up whenever words are found or pages stored in another way
_PAGES_PER_UPDATE = 500  # of the progress bar


class Index:
    """An index that was built, opened for searching. Usable from many threads at once.

    Args:
        directory: Where `build` wrote it.
    """

    def __init__(self, directory: Path) -> None:
        self._bm25 = bm25s.BM25.load(directory, mmap=True, show_progress=False)
        # Not bm25s' own store of documents: its threads share one position in the file.
        self._pages = np.load(directory / "pages.npy", mmap_mode="r")
        self._ends = np.load(directory / "ends.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def best(self, query: str, count: int) -> list[Page]:
        """The pages that share a word with the query, best first, ties in the order of the corpus."""
        scores = self._bm25.get_scores(wanted) if (wanted := words(query, query=True)) else np.zeros(len(self))
        count = min(count, len(self))
        best = np.argpartition(-scores, count - 1)[:count]
        best = best[np.lexsort((best, -scores[best]))]
        return [self._page(int(number)) for number in best if scores[number] > 0]

    def _page(self, number: int) -> Page:
        start = int(self._ends[number - 1]) if number else 0
        title, text = json.loads(self._pages[start : int(self._ends[number])].tobytes())
        return Page(text, title)


def build(pages: Iterable[Page], total: int | None, directory: Path, console: Console) -> None:
    """Writes an index of pages into an empty directory.

    Args:
        pages: At least one of them with a word.
        total: How many pages, if that is known.
        directory: Must exist.
        console: Gets the progress bar.

    Raises:
        DataError: where there is nothing to index.
    """
    vocabulary: dict[str, int] = {}
    documents: list[array[int]] = []
    stored, ends = bytearray(), array("q")
    with progress_bar(console) as progress:
        task = progress.add_task("indexing", total=total, status="reading")
        for page in pages:
            found = words(f"{page.title} {page.text}")
            documents.append(array("i", (vocabulary.setdefault(word, len(vocabulary)) for word in found)))
            stored += json.dumps([page.title, page.text]).encode()
            ends.append(len(stored))
            if len(documents) % _PAGES_PER_UPDATE == 0:
                progress.update(task, completed=len(documents))
        progress.update(task, completed=len(documents), total=len(documents), status="scoring")
        if not vocabulary:
            raise DataError("there is no page with a word to index.")
        np.save(directory / "pages.npy", np.frombuffer(stored, dtype=np.uint8))
        np.save(directory / "ends.npy", np.frombuffer(ends, dtype=np.int64))
        del stored
        index = bm25s.BM25()
        index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
        index.save(directory, show_progress=False)
        progress.update(task, status="done")


def open_index(
    name: str, fingerprint: str, pages: Callable[[], tuple[Iterable[Page], int | None]], root: Path, console: Console
) -> Index:
    """The index of a corpus, built if it is not there. Safe when several processes ask at once.

    Args:
        name: For people who look into `root`.
        fingerprint: Of the corpus in its present state; another one means another index.
        pages: Gives the pages and, if known, their number; only called to build.
        root: The directory of all indices; made if missing.
        console: Gets the progress bar.

    Raises:
        DataError: as `build` does, and what reading `pages` raises.
    """
    directory = root / f"{name}-{fingerprint[:16]}"
    if not directory.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{directory.name}.lock"):
            if not directory.is_dir():
                _build_and_rename(pages, directory, console)
    return Index(directory)


def _build_and_rename(
    pages: Callable[[], tuple[Iterable[Page], int | None]], directory: Path, console: Console
) -> None:
    temporary = directory.with_name(f".{directory.name}.building")
    # What a process left that was killed: whoever holds the lock is the only one to build.
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        found, total = pages()
        build(found, total, temporary, console)
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel takes it from one that dies."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("Waiting for another process that builds %s.", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
