"""Where a run's records are: the files of a folder in order, or the `records.jsonl` of an older run.

Left out on purpose: what they hold (`records.py`).
"""

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from appo.errors import UserError
from appo.rollout.record_columns import VERSION_KEY

DIRECTORY = "records"
LINES = "records.jsonl"  # of older runs
META = "meta.json"
UPDATE = re.compile(r"(\d{6,})(?:\.(\d+))?\.parquet")
EVALUATION = re.compile(r"evaluation-([\w-]+)(?:\.(\d+))?\.parquet")
Order = tuple[int, str, int]  # step, or 0 and a name; then the process


def files_of(directory: Path) -> list[tuple[Order, Path]]:
    """The files of records in a folder in order: evaluations by name, then updates, each by process."""
    found: list[tuple[Order, Path]] = []
    for path in directory.glob("*.parquet"):
        if match := UPDATE.fullmatch(path.name):
            found.append(((int(match[1]), "", int(match[2] or 0)), path))
        elif match := EVALUATION.fullmatch(path.name):
            found.append(((0, match[1], int(match[2] or 0)), path))
    return sorted(found)


def records_at(path: str | os.PathLike[str]) -> Path | None:
    """Where the records of a run are: a folder, or a file of an older run; None where there are none.

    Args:
        path: A run's `output_dir`, its `records` folder, one of the files there, or a `records.jsonl`.
    """
    path = Path(path)
    if path.is_dir():
        for place in (path / DIRECTORY, path):
            if files_of(place) or (place / META).is_file():
                return place
        path = path / LINES
    if not path.is_file():
        return None
    try:
        ours = path.suffix == ".parquet" and VERSION_KEY in (pq.read_schema(path).metadata or {})
    except pa.ArrowException:
        ours = True  # broken, which whoever reads it will be told
    return path if ours or path.suffix == ".jsonl" else None


def record_files(path: str | os.PathLike[str], kind: str | None = None, step: int | None = None) -> list[Path]:
    """The files that hold a run's records, in order.

    Args:
        path: As in `records_at`.
        kind: "train" or "evaluation"; None: both.
        step: Those of one update alone.

    Raises:
        UserError: where there are no records.
    """
    place = records_at(path)
    if place is None:
        raise UserError(f"{path} holds no records; give a run's output_dir, its folder records, or one of its files.")
    if place.is_file():
        return [place]
    wanted = {"train": (True,), "evaluation": (False,), None: (True, False)}[kind]
    files = [(number, file) for (number, *_), file in files_of(place) if bool(number) in wanted]
    return [file for number, file in files if step in (None, number)]


def count_records(path: Path) -> int:
    """The records in a file.

    Raises:
        UserError: for a file that is broken.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise broken(path, error) from None


def broken(path: Path, error: Exception) -> UserError:
    """What to tell of a file that cannot be read."""
    return UserError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())}); move it away.")
