"""A run's records on disk: the folder `records/` of its `output_dir`, with everything that each update decided.

    000001.parquet, ..         a row per rollout of an update; of several processes 000001.0.parquet, 000001.1.parquet
    evaluation-NAME.parquet    rollouts of an evaluation, in the same columns (`record_columns.py`)
    times/                     seconds of tool calls, which no two runs share (`record_times.py`)
    vocabulary.parquet         the text of each token id
    meta.json                  versions of the columns and of packages, the run's settings, its tokenizer

Any Parquet reader reads them (`SELECT * FROM 'runs/kinship/records/0*.parquet'` in DuckDB); `read_records` gives them
back as dicts, a small part of an update at a time, and reads the `records.jsonl` of older runs too. A file is written
under another name and renamed, so a kill leaves no half of one. The writer keeps nothing in memory, and each process
writes its own rollouts. While a run is going on, of its last update the files of some processes may still be missing.

Left out on purpose: what a record says (`rollout_records.py`); torch, which reading must not need.
"""

import importlib.metadata as metadata
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import appo
from appo.errors import UserError
from appo.files import PARTIAL, new_file, read_json, read_lines, set_aside, write_json
from appo.rollout.record_columns import VERSION, VERSION_KEY, Layout, to_records, to_table
from appo.rollout.record_files import LINES, META, UPDATE, broken, count_records, files_of, record_files, records_at
from appo.rollout.record_times import KEY, read_times, times_path, write_times
from appo.rollout.vocabulary import vocabulary_table

STEP = re.compile(r"(?=\d{6}|\d+(?:-\d+)?$)(\d+)(?:-(?:.+-)?\d+)?$")  # of an evaluation's name
VOCABULARY = "vocabulary.parquet"
PACKAGES = ("torch", "transformers", "trl")  # whose versions a run keeps
NEEDED = ("kind", "task", "completion_ids", "policy_mask")  # columns without which a file is not ours
TOKENS_PER_GROUP = 200_000  # what is made a table, or read, at once
ROWS_AT_ONCE = 16  # as Python objects


class RecordWriter:
    """Writes the records of a run.

    Args:
        directory: `output_dir/records`; made with the first file.
        settings: What `meta.json` says of the run; JSON, other values by their `str`.
        tokenizer: Of the policy, for the texts of its tokens; None leaves them out.
        process, processes: Which one this is, of how many.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        settings: dict[str, Any] | None = None,
        tokenizer: Any = None,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.directory = Path(directory)
        self._settings, self._encoder = settings or {}, tokenizer
        self._process = process
        self._part = f".{process}" if processes > 1 else ""
        self._evaluations: set[str] = set()  # names of those written since the last start
        self._described = False

    def start(self, step: int, wait: Callable[[], None] = lambda: None) -> int:
        """Prepares the folder for a run that continues after optimizer step `step`.

        Records of later steps are dropped, as these steps will be done again. A new run (step 0) moves updates that
        are there already to `records.1`, `records.2` and so on, except evaluations that this object has written:
        nothing is lost.

        Args:
            step: 0 for a new run.
            wait: Returns when every process has called it; the first one prepares for all.

        Returns:
            How many records of this process are kept.
        """
        if self._process == 0:
            if step == 0:
                self._begin()
            elif self.directory.is_dir():
                for leftover in self.directory.glob("*" + PARTIAL):
                    leftover.unlink()
                for (number, name, _), path in files_of(self.directory):
                    made_after = STEP.match(name)
                    if number > step or (made_after and int(made_after[1]) > step):
                        times_path(path).unlink(missing_ok=True)
                        path.unlink()
            self._describe()
        wait()
        self._evaluations = set()
        own = self.directory.glob(f"*{self._part}.parquet")
        return sum(count_records(path) for path in own if UPDATE.fullmatch(path.name))

    def append(self, step: int, records: Sequence[dict[str, Any]]) -> int:
        """Writes an update's records, and returns how many; an update that is written again replaces the first.

        Args:
            step: The optimizer's, from 1.
            records: As `rollout_records` makes them, or with lists for what is per token. `kind` is added.

        Raises:
            ValueError: as `to_table`.
            OSError: for a full disk, for example; no file is left then.
        """
        return self._write(f"{step:06d}", "train", records)

    def append_evaluation(self, name: str | int, records: Sequence[dict[str, Any]]) -> int:
        """Writes the records of an evaluation, and returns how many; one of the same name is replaced.

        Args:
            name: For example "before", or the step after which it was made, perhaps with a data set's name and a part
                of it behind hyphens ("000020-3", "000020-hard-3"): then it is dropped where a run goes on from an
                earlier step. Letters, digits, `_`, `-`.
            records: As for `append`.
        """
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ValueError(f"an evaluation's name has letters, digits, _ and -, which {name!r} has not.")
        self._evaluations.add(str(name))
        return self._write(f"evaluation-{name}", "evaluation", records)

    def _write(self, name: str, kind: str, records: Sequence[dict[str, Any]]) -> int:
        self._describe()
        path = self.directory / f"{name}{self._part}.parquet"
        records = [{**record, "kind": kind} for record in records]
        seconds = [record.pop(KEY, None) for record in records]
        layout = Layout.of(records)
        options = layout.encodings()
        times_path(path).unlink(missing_ok=True)  # of another writing, which a kill would leave with these records
        with (
            new_file(path) as partial,
            pq.ParquetWriter(partial, layout.schema(), compression="zstd", **options) as file,
        ):
            for part in _groups(records):
                file.write_table(to_table(part, layout))
        write_times(path, seconds)
        return len(records)

    def _begin(self) -> None:
        """Moves what an earlier run has left out of the way."""
        set_aside(self.directory.with_name(LINES))
        if not any(number for (number, *_), _ in files_of(self.directory)):
            return
        aside = set_aside(self.directory)
        assert aside is not None
        self._described = False
        for (_, name, _), path in files_of(aside):
            if name in self._evaluations:
                times = times_path(self.directory / path.name)
                times.parent.mkdir(parents=True, exist_ok=True)
                path.rename(self.directory / path.name)
                if times_path(path).is_file():
                    times_path(path).rename(times)

    def _describe(self) -> None:
        """What readers have to know besides the records; once is enough."""
        if self._described:
            return
        self._described = True
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._process:
            return
        name = getattr(self._encoder, "name_or_path", None)
        about = {
            "version": VERSION, "appo": appo.__version__, "versions": _versions(), "tokenizer": name,
            "settings": self._settings,
        }  # fmt: skip
        write_json(self.directory / META, json.loads(json.dumps(about, default=str)))
        if self._encoder is not None:
            with new_file(self.directory / VOCABULARY) as partial:
                pq.write_table(vocabulary_table(self._encoder), partial, compression="zstd")


def _versions() -> dict[str, str]:
    """Of `PACKAGES`, without those that are not installed; none of them is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # verl's environment has no TRL
            continue
    return found


def _groups(records: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Neighbouring records of at most `TOKENS_PER_GROUP` tokens together, or one that is longer."""
    start = tokens = 0
    for end, record in enumerate(records):
        count = len(record["completion_ids"])
        if end > start and tokens + count > TOKENS_PER_GROUP:
            yield records[start:end]
            start, tokens = end, 0
        tokens += count
    if records[start:]:
        yield records[start:]


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `meta.json` says of a run; empty where it is missing, as in older runs. `path` as in `records_at`."""
    place = records_at(path)
    found = None if place is None else read_json((place if place.is_dir() else place.parent) / META)
    return found if isinstance(found, dict) else {}


def read_vocabulary(path: str | os.PathLike[str]) -> dict[int, str]:
    """The text of each token id; empty where it is missing. `path` as in `records_at`."""
    place = records_at(path)
    file = None if place is None else (place if place.is_dir() else place.parent) / VOCABULARY
    if file is None or not file.is_file():
        return {}
    try:
        columns = pq.read_table(file, columns=["id", "text"]).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise broken(file, error) from None
    return dict(zip(columns["id"], columns["text"], strict=True))


def read_records(
    path: str | os.PathLike[str],
    *,
    kind: str | None = "train",
    step: int | None = None,
    columns: Iterable[str] | None = None,
    texts: bool = False,
    times: bool = False,
) -> Iterator[dict[str, Any]]:
    """A run's records, one dict per rollout, in order of updates, processes and trees.

    Files are opened one after another, and a few rollouts are in memory at a time.

    Args:
        path: As in `records_at`. A single file gives all that it holds.
        kind: "train", "evaluation", or None for both.
        step: The records of one update alone.
        columns: Those that are wanted, which is much quicker than all; of a file, those that it has.
        texts: Whether to add `texts`, the text of each token of the completion (None where it is not known).
        times: Whether to add `seconds` to each of `tool_calls` (None where they are not known).

    Yields:
        The keys of `record_columns.FIXED`, those per token (lists with None in tool results), and `factors`. Older
        runs have fewer. What was not measured is None.

    Raises:
        UserError: where there are no records, and for a file that is broken or of a later version, by its name.
    """
    wanted = None if columns is None else set(columns)
    words = read_vocabulary(path) if texts else {}
    needed = wanted and {*wanted, *["completion_ids"] * texts, *["tool_calls"] * times}
    for file in record_files(path, kind, step):
        records = _read_lines(file, needed) if file.suffix == ".jsonl" else _read_file(file, needed)
        for record in _timed(file, records) if times else records:
            if step is None or record.get("step", step) == step:
                if texts:
                    record["texts"] = [words.get(token) for token in record["completion_ids"]]
                yield record


def _timed(path: Path, records: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records of a file with the seconds of their calls."""
    known = read_times(path, count_records(path)) if path.suffix == ".parquet" else None
    for place, record in enumerate(records):
        seconds = None if known is None else known[place].as_py()
        calls = record["tool_calls"] or []
        for number, call in enumerate(calls):
            call["seconds"] = seconds[number] if seconds and number < len(seconds) else None
        yield record


def _read_lines(path: Path, columns: set[str] | None) -> Iterator[dict[str, Any]]:
    for record in read_lines(path):
        yield record if columns is None else {name: record[name] for name in record if name in columns}


def record_tables(path: Path) -> Iterator[pa.Table]:
    """The records of one Parquet file as tables, at most about `TOKENS_PER_GROUP` tokens at a time.

    Raises:
        UserError: for a file that is broken or of a later version, by its name.
    """
    try:
        with pq.ParquetFile(path) as file:
            _check_version(path, file)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        raise broken(path, error) from None


def _read_file(path: Path, columns: set[str] | None) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            _check_version(path, file)
            names = [name for name in file.schema_arrow.names if columns is None or name in columns]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
                yield from to_records(batch)
    except (pa.ArrowException, OSError) as error:
        raise broken(path, error) from None


def _check_version(path: Path, file: pq.ParquetFile) -> None:
    version = int((file.schema_arrow.metadata or {}).get(VERSION_KEY, VERSION))
    if version > VERSION:
        raise UserError(f"{path} was written by a later appo (records of version {version}); update appo.")
    if missing := [name for name in NEEDED if name not in file.schema_arrow.names]:
        raise UserError(f"{path} is called like records and has no column {missing[0]}; move it away.")
