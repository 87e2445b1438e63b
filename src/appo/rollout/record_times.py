"""Seconds that tool calls took: a file beside each file of records, `records/times/` under the same name.

They are apart because they are never the same twice: two runs with one seed write the same records. A file holds, in
the order of the records, a list of float32 per rollout, one for each of its calls; a branch's first are its parent's.

Left out on purpose: the records (`records.py`), which do without these.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from appo.files import new_file

DIRECTORY = "times"
KEY = "call_seconds"  # of a record that has not been written yet
SECONDS = pa.list_(pa.float32())


def times_path(records: Path) -> Path:
    """Where the times of a file of records are."""
    return records.parent / DIRECTORY / records.name


def write_times(records: Path, seconds: Sequence[list[float] | None]) -> None:
    """Writes the times that belong to a file of records; none where no rollout has calls.

    Args:
        records: The file of records.
        seconds: Per record, the seconds of each call; None: not known.
    """
    if not any(seconds):
        return
    path = times_path(records)
    path.parent.mkdir(exist_ok=True)
    with new_file(path) as partial:
        pq.write_table(pa.table({"seconds": pa.array(seconds, SECONDS)}), partial, compression="zstd")


def read_times(records: Path, rollouts: int) -> pa.Array | None:
    """The seconds of each rollout's calls, as a list array of `rollouts` rows; None where they are not known.

    A file that is broken, or of another number of rollouts, is as good as none: nothing depends on it.
    """
    path = times_path(records)
    try:
        found = pq.read_table(path, columns=["seconds"]).column("seconds").combine_chunks() if path.is_file() else None
    except (pa.ArrowException, OSError):
        return None
    return found if found is not None and len(found) == rollouts else None
