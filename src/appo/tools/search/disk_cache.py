"""Texts by key in one SQLite file, which threads and processes share.

A cache that fails (full disk, lock held too long) is warned about once and then does without: what it serves should
not fail for it. The file must lie on a local disk, as SQLite's write-ahead log does not work over a network.

Left out on purpose: expiry. Remove the file, while nothing uses it, to ask anew.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from appo.data.rows import DataError

logger = logging.getLogger(__name__)

BUSY_SECONDS = 10.0  # how long a writer waits for another


class DiskCache:
    """
    Args:
        path: The file; made, with its directory, if missing.

    Raises:
        DataError: a ValueError, where the file cannot be made, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._warned = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{self.path} cannot be used as a cache: {error}.") from None

    def get(self, key: str) -> str | None:
        """The text stored last under a key, None if there is none."""
        try:
            with self._connection() as connection:
                row = connection.execute("SELECT text FROM results WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._warn(error)
            return None
        return row[0] if row else None

    def put(self, key: str, text: str) -> None:
        """Stores a text, in place of the one before."""
        try:
            with self._connection() as connection, connection:
                connection.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", (key, text))
        except sqlite3.Error as error:
            self._warn(error)

    def _create(self) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with self._connection() as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
                    connection.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, text TEXT NOT NULL)")
                return
            except sqlite3.OperationalError as error:
                # Two processes that switch to the write-ahead log at once: SQLite does not wait here by itself.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A new one for every use, since none may be shared by threads or survive a fork."""
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as connection:
            # Never waits for the disk, which would take 15 ms per write, as closing moves the log into the file. Safe
            # when a process dies; if the whole machine does, the file may have to be removed.
            connection.execute("PRAGMA synchronous=OFF")
            yield connection

    def _warn(self, error: sqlite3.Error) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("The cache %s fails (%s); work goes on without it.", self.path, error)
