"""Rows of the files and tables that data sets come in: reading them, finding their fields, reporting the bad ones.

`read_rows` reads .jsonl, .json (a list, or `{"data": [..]}`), .parquet and .csv; `hub_rows` a table of the Hugging
Face hub; `source_rows` whichever a name means. All give every row with its place (`line 7`), so that whoever makes
something of it can say which one was wrong:

    bad = BadRows("train.jsonl")
    for place, row in read_rows(Path("train.jsonl"), bad):
        try:
            use(row)
        except ValueError as error:
            bad.add(place, str(error))
    bad.raise_if_any()

A CSV's cells are texts, as they stand there, and an empty one is None: whether 007 is a number, nobody can tell.

Left out on purpose: compressed files and streaming; the sets that agents are trained and measured on are small.
"""

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from appo.errors import UserError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
DELIMITERS = ",;\t|"  # of a CSV: the one that divides its header into most columns
SHOWN = 3  # rows named per reason

# Names that circulate, compared without case and with "_" for " "; the first that holds something counts.
QUESTION_FIELDS = ("question", "problem", "prompt", "input", "query")
ANSWER_FIELDS = ("golden_answers", "answers", "answer", "final_answer", "ground_truth", "target", "expected_answer")
# Columns of training data that hold what is right; of several, the first decides.
ANSWER_COLUMNS = tuple(dict.fromkeys(("answer", "answers", *ANSWER_FIELDS, "solution", "label")))
ALIAS_FIELDS = ("answer_aliases", "aliases")
ID_FIELDS = ("id", "_id", "task_id", "unique_id", "idx", "index")
NO, YES = ("false", "no", "n", "0", "0.0"), ("true", "yes", "y", "1", "1.0")  # as text, in small letters


class DataError(UserError):
    """Data that is missing or cannot be read, in one sentence."""


class HubError(DataError):
    """A table of the hub that cannot be had, here and now."""


class BadRows:
    """Collects the rows of a source that cannot be read, for one error.

    Args:
        source: What the error names: a file, or a table of the hub.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._places: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, place: str, reason: str) -> None:
        self._places[reason].append(place)

    def raise_if_any(self) -> None:
        """
        Raises:
            DataError: with the number of bad rows, the reasons, and the first rows of each.
        """
        if not self._places:
            return
        count = sum(map(len, self._places.values()))
        parts = [f"{_some(places)}: {reason}" for reason, places in list(self._places.items())[:SHOWN]]
        if len(self._places) > SHOWN:
            parts.append("and others")
        rows = "1 row" if count == 1 else f"{count} rows"
        raise DataError(f"{self.source}: {rows} cannot be read; {'; '.join(parts)}.")


def _some(places: list[str]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more


def read_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """The rows of a file, each with its place (`line 7`, or `row 7` where lines mean nothing).

    Args:
        path: Ends in .jsonl, .json, .parquet or .csv.
        bad: Gets the rows that are no objects.

    Raises:
        DataError: for another kind of file, and for one that cannot be read as a whole.
    """
    readers = dict(zip(SUFFIXES, (_read_jsonl, _read_json, _read_parquet, _read_csv), strict=True))
    if path.suffix not in readers:
        raise DataError(f"{path} must end in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    try:
        for place, row in readers[path.suffix](path):
            if isinstance(row, dict):
                yield place, row
            else:
                bad.add(place, row if isinstance(row, _Broken) else f"an object is expected, not {_kind(row)}")
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None


class _Broken(str):
    """What is wrong with a line that is no JSON."""


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): JSON may hold U+2028 inside a text.
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # of Python itself, for a number of more than 4,300 digits
                row = _Broken(f"no JSON ({getattr(error, 'msg', error)})")
            yield f"line {number}", row


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(rows, dict):
        rows = rows.get("data")
    if not isinstance(rows, list):
        raise DataError(f'{path} must hold a list of rows, or {{"data": [..]}}.')
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.csv

    delimiter, names = _header(path)
    broken: dict[int, _Broken] = {}

    def skip(row: Any) -> str:
        broken[row.number - 1] = _Broken(f"{row.actual_columns} cell(s), where the header has {row.expected_columns}")
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            path,
            # One block, as a row may not be longer than that.
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, column_names=names, block_size=max(1, path.stat().st_size)
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except pyarrow.ArrowException as error:
        raise OSError(f"{error}; save it as UTF-8") from None
    rows = iter(table.to_pylist()[1:])  # without the header
    for number in range(1, table.num_rows + len(broken)):
        yield f"row {number}", broken[number] if number in broken else next(rows)


def _header(path: Path) -> tuple[str, list[str]]:
    """A CSV's delimiter and the names of its columns; one without a name gets its number."""
    found: dict[str, list[str]] = {}
    for delimiter in DELIMITERS:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            found[delimiter] = next(csv.reader(lines, delimiter=delimiter), [])
    delimiter = max(DELIMITERS, key=lambda one: len(found[one]))
    names = [name.strip() or f"column_{number}" for number, name in enumerate(found[delimiter], 1)]
    if not names:
        raise DataError(f"{path} is empty; its first row must name the columns.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path} has two columns called {twice[0]!r}; rename one.")
    return delimiter, names


def source_rows(source: str | Path, bad: BadRows, split: str = "train") -> Iterator[tuple[str, Row]]:
    """The rows of a file, or of a data set of the hub where the name is no file's, each with its place.

    Args:
        source: A path, or a name on the hub.
        bad: Gets the rows that are no objects.
        split: Of the hub's data set.

    Raises:
        DataError: where there is no such file, or it cannot be read; HubError, its kind, for the hub.
    """
    path, name = Path(source), str(source)
    is_path = path.suffix in SUFFIXES or name.startswith((".", "/", "~")) or name.count("/") > 1
    if path.exists() or is_path or (path.suffix and "/" not in name):
        return read_rows(path, bad)
    return hub_rows(name, [None], split, "download it and give the path of its file")


def hub_rows(hub_id: str, configs: Iterable[str | None], split: str, remedy: str) -> Iterator[tuple[str, Row]]:
    """The rows of a table of the Hugging Face hub, each with its place.

    Args:
        hub_id: For example `openai/gsm8k`.
        configs: Read one after another; `[None]` for the only one.
        split: For example `test`.
        remedy: What to do where the hub does not answer, as the end of a sentence.

    Raises:
        HubError: where the table cannot be had, because the hub is out of reach, or hides it, or lacks it.
    """
    from datasets import load_dataset

    for config in configs:
        try:
            table = load_dataset(hub_id, config, split=split)
        # The hub's client raises errors of its HTTP library, of the operating system, and its own.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise HubError(f"{hub_id} could not be read from the Hugging Face hub ({reason}); {remedy}.") from error
        # As Arrow, because pictures would be decoded otherwise, which needs another package.
        rows = table.with_format("arrow")[:].to_pylist()
        yield from ((f"{config or split} row {number}", row) for number, row in enumerate(rows, 1))


def find_field(row: Row, names: Iterable[str]) -> str | None:
    """The key of the first of `names` that holds something; compared without case, and with `_` for ` `."""
    keys: dict[str, str] = {}
    for key, value in row.items():
        if value is not None and value != "" and value != []:
            keys.setdefault(key.lower().replace(" ", "_"), key)
    return next((keys[name] for name in names if name in keys), None)


def is_unanswerable(row: Row) -> bool:
    """Whether a row says that its question has no answer, as half of MuSiQue-Full's; the answer it holds is another's.

    The field is `answerable`, or SQuAD's `is_impossible`, of the row or of what it keeps under `metadata` or
    `extra_info`, as an object or as JSON; it holds a truth value, as such, as 0 or 1, or as a word.
    """
    parts = [row, *(_object(row.get(name)) for name in ("metadata", "extra_info"))]
    return any(_says(part.get("answerable"), NO) or _says(part.get("is_impossible"), YES) for part in parts)


def _object(value: Any) -> Row:
    """The object that a field holds, perhaps as JSON; an empty one where it holds none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _says(value: Any, words: tuple[str, ...]) -> bool:
    return str(value).strip().lower() in words


def repair_latex(text: str) -> str:
    r"""`\boxed` and `\frac` for what is left of them where `\b` and `\f` were read as escapes."""
    # Other control characters stay: a form feed in "in\x0cfinite" is the rest of a ligature, not of LaTeX.
    return re.sub(r"\x0c(?=rac\s*\{)", r"\\f", re.sub(r"\x08(?=oxed)", r"\\b", text))


def as_texts(value: Any) -> list[str]:
    """Answers as texts: of a text, a number, or a list of them; whole numbers without a point.

    Raises:
        ValueError: for anything else, in words that fit behind a row's place.
    """
    values = value if isinstance(value, list) else [value]
    texts = [_as_text(one) for one in values if one is not None]
    return [text for text in texts if text]


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # not by way of a float, which cannot hold the largest
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"an answer must be a text or a number, not {_kind(value)}")
    return str(int(value)) if value == int(value) else repr(value)


def _kind(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, float)) or value is None else type(value).__name__


def distinct(names: Iterable[str]) -> list[str]:
    """The same names, but one that came before gets `-2`, `-3`, .. behind it."""
    seen: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 1
        while candidate in seen:
            number += 1
            candidate = f"{name}-{number}"
        seen.add(candidate)
        unique.append(candidate)
    return unique
