"""Records as numpy arrays, some whole trees at a time, so that a run of any size fits into memory.

`read_parts` streams the files of a run: of each part, what is per rollout stays an Arrow table, and what is per token
becomes flat arrays, a rollout behind the other. Older runs (`records.jsonl`) come in the same form.

Left out on purpose: what the numbers mean (`credit.py`, `atlas.py`), and torch, which this does without.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from appo.errors import UserError
from appo.files import read_lines
from appo.rollout.record_columns import CALL, FACTORS, FIXED, Layout, to_table
from appo.rollout.record_files import count_records
from appo.rollout.record_times import KEY, SECONDS, read_times
from appo.rollout.records import record_tables

# Shapes: R rollouts of a part, P tokens of all of them, C calls of all of them.

THOUGHT, CALLED, RESULT, ANSWER = range(4)  # parts of a completion
LINES_AT_ONCE = 256  # of older runs
TREE = ("kind", "step", "task")  # neighbours that agree in these are one tree


@dataclass
class Part:
    """Some whole trees of a run.

    Args:
        table: The fixed columns (`record_columns.FIXED`) and the seconds of calls (`record_times.KEY`), R rows.
        lengths_R: Tokens of each rollout, int64.
        ids_P: Token ids, int32.
        policy_P: True at tokens that the policy wrote.
        tokens: Columns per token, float32 (P,); NaN where there is none.
        factors: What advantages are products of, float32 (P,) by name.
        credited_R: True for rollouts that have advantages.
    """

    table: pa.Table
    lengths_R: np.ndarray
    ids_P: np.ndarray
    policy_P: np.ndarray
    tokens: dict[str, np.ndarray]
    factors: dict[str, np.ndarray]
    credited_R: np.ndarray

    @property
    def starts_R(self) -> np.ndarray:
        """The place of each rollout's first token."""
        return np.cumsum(self.lengths_R) - self.lengths_R

    @property
    def rows_P(self) -> np.ndarray:
        """The rollout of each token."""
        return np.repeat(np.arange(len(self.lengths_R)), self.lengths_R)

    @property
    def loss_P(self) -> np.ndarray:
        """True at tokens that carry loss: the policy's in credited rollouts, as far as the loss mask says so."""
        carries_P = self.policy_P & np.repeat(self.credited_R, self.lengths_R)
        if "loss_mask" in self.factors:
            carries_P &= self.factors["loss_mask"] == 1
        return carries_P

    def select(self, keep_R: np.ndarray) -> "Part":
        """The rollouts that are to be kept (bool), in their order."""
        keep_P = np.repeat(keep_R, self.lengths_R)
        return Part(
            self.table.filter(pa.array(keep_R)),
            self.lengths_R[keep_R],
            self.ids_P[keep_P],
            self.policy_P[keep_P],
            {name: values[keep_P] for name, values in self.tokens.items()},
            {name: values[keep_P] for name, values in self.factors.items()},
            self.credited_R[keep_R],
        )

    def numbers(self, name: str, missing: float = np.nan) -> np.ndarray:
        """A fixed column of numbers, float64 (R,)."""
        column = self.table.column(name).cast(pa.float64())
        return column.fill_null(missing).to_numpy()

    def values(self, name: str) -> list[Any]:
        """A fixed column as Python objects (JSON as text)."""
        return self.table.column(name).to_pylist()


def read_parts(file: Path, kind: str) -> Iterator[Part]:
    """The records of one file in order, whole trees together.

    Args:
        file: As `appo.rollout.records.record_files` gives them.
        kind: "train" or "evaluation"; the others are left out.

    Raises:
        UserError: for a broken file.
    """
    rest: pa.Table | None = None
    for table in _tables_of_lines(file) if file.suffix == ".jsonl" else _timed_tables(file):
        table = table.filter(pc.equal(table.column("kind"), kind))
        if rest is not None and rest.schema != table.schema:
            yield _part(rest)
            rest = None
        table = table if rest is None else pa.concat_tables([rest, table])
        end = _last_tree(table)
        if end:
            yield _part(table.slice(0, end))
        rest = table.slice(end)
    if rest is not None and rest.num_rows:
        yield _part(rest)


def _timed_tables(file: Path) -> Iterator[pa.Table]:
    """The tables of a file with the seconds of their calls."""
    seconds, start = read_times(file, count_records(file)), 0
    for table in record_tables(file):
        end = start + table.num_rows
        column = pa.nulls(table.num_rows, SECONDS) if seconds is None else seconds.slice(start, table.num_rows)
        yield table.append_column(KEY, column)
        start = end


def _tables_of_lines(file: Path) -> Iterator[pa.Table]:
    lines: list[dict[str, Any]] = []
    for record in read_lines(file):
        lines.append(_modern(record, file))
        if len(lines) == LINES_AT_ONCE:
            yield _table_of(file, lines)
            lines = []
    if lines:
        yield _table_of(file, lines)


def _table_of(file: Path, lines: list[dict[str, Any]]) -> pa.Table:
    """The table of some lines.

    Raises:
        UserError: for values that are none of a record's.
    """
    seconds = [record.pop(KEY) for record in lines]
    try:
        return to_table(lines, Layout.of(lines)).append_column(KEY, pa.array(seconds, SECONDS))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"{file} holds a line that is no record of a run ({error}); give a run's own.") from None


def _modern(record: Any, file: Path) -> dict[str, Any]:
    """A line of an older run with the keys of today.

    Raises:
        UserError: for a line that is no record.
    """
    if not isinstance(record, dict) or not isinstance(record.get("completion_ids"), list):
        raise UserError(f"{file} holds a line without completion_ids, which is no record of a run; give a run's own.")
    calls = record.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UserError(f"{file} holds a line whose tool_calls = {calls!r} are no list of calls; give a run's own.")
    mask = record.get("policy_mask", record["completion_ids"])
    if not isinstance(mask, list) or len(mask) != len(record["completion_ids"]):
        raise UserError(f"{file} holds a line whose policy_mask is not as long as completion_ids; give a run's own.")
    known = {field.name for field in CALL}
    length = len(record["completion_ids"])
    found = {"task": "", "kind": "train", "policy_mask": [1] * length, "tool_calls": [], **record}
    found["task"] = str(found["task"])
    seconds = [call.get("seconds") for call in calls]
    found["tool_calls"] = [{k: v for k, v in call.items() if k in known} for call in calls]
    per_token = {n: v for n, v in found.items() if n in FIXED or (isinstance(v, list) and len(v) == length)}
    if isinstance(found.get(FACTORS), dict):
        per_token[FACTORS] = found[FACTORS]
    per_token[KEY] = seconds
    return per_token


def _last_tree(table: pa.Table) -> int:
    """Where the last tree of a table begins, which may go on in the next one."""
    if table.num_rows == 0:
        return 0
    columns = [table.column(name) for name in TREE]
    last = [column[-1].as_py() for column in columns]
    row = table.num_rows - 1
    while row > 0 and [column[row - 1].as_py() for column in columns] == last:
        row -= 1
    return row


def _part(table: pa.Table) -> Part:
    ids = table.column("completion_ids").combine_chunks()
    lengths_R = pc.list_value_length(ids).fill_null(0).to_numpy().astype(np.int64)
    ids_P = ids.flatten().to_numpy()
    policy_P = table.column("policy_mask").combine_chunks().flatten().to_numpy() != 0
    names = [name for name in table.schema.names if name not in FIXED and name not in (FACTORS, KEY)]
    tokens = {name: _floats(table.column(name), lengths_R) for name in names}
    advantages = table.column("advantages") if "advantages" in names else None
    credited_R = np.zeros(len(lengths_R), bool)
    if advantages is not None:
        credited_R = advantages.combine_chunks().is_valid().to_numpy(zero_copy_only=False)
    factors: dict[str, np.ndarray] = {}
    if FACTORS in table.schema.names:
        struct = table.column(FACTORS).combine_chunks()
        for place, field in enumerate(struct.type):
            factors[field.name] = _floats(pc.struct_field(struct, [place]), lengths_R)
    fixed = table.select([name for name in (*FIXED, KEY) if name not in ("completion_ids", "policy_mask")])
    return Part(fixed, lengths_R, ids_P, policy_P, tokens, factors, credited_R)


def _floats(column: pa.ChunkedArray | pa.Array, lengths_R: np.ndarray) -> np.ndarray:
    """A column of lists as float32 (P,); NaN where a rollout or a token has none."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    there_R = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if there_R.all():
        return values
    full_P = np.full(int(lengths_R.sum()), np.nan, np.float32)
    full_P[np.repeat(there_R, lengths_R)] = values
    return full_P


def call_spans(part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rollout, first token and end (within the rollout) of every call: int64 (C,) each."""
    calls = part.table.column("tool_calls").combine_chunks()
    rows_C = np.repeat(np.arange(len(calls)), pc.list_value_length(calls).fill_null(0).to_numpy())
    flat = calls.flatten()
    start_C = pc.struct_field(flat, "start").fill_null(0).to_numpy().astype(np.int64)
    end_C = pc.struct_field(flat, "end").fill_null(0).to_numpy().astype(np.int64)
    return rows_C, start_C, np.maximum(end_C, start_C)


def parts_of(part: Part, texts: dict[int, str], protocol: str | None) -> np.ndarray:
    """What each token is part of: uint8 (P,), `THOUGHT`, `CALLED`, `RESULT` or `ANSWER`.

    An answer begins with `<answer>`; where there is none and calls are a chat template's, behind the last result and
    the last `</think>`.
    """
    starts_R = part.starts_R
    rows_C, start_C, end_C = call_spans(part)
    edges = np.zeros(len(part.ids_P) + 1, np.int32)
    lengths_C = part.lengths_R[rows_C] if len(rows_C) else np.zeros(0, np.int64)
    np.add.at(edges, starts_R[rows_C] + np.clip(start_C, 0, lengths_C), 1)
    np.add.at(edges, starts_R[rows_C] + np.clip(end_C, 0, lengths_C), -1)
    parts_P = np.where(np.cumsum(edges[:-1]) > 0, CALLED, THOUGHT).astype(np.uint8)
    parts_P[~part.policy_P] = RESULT
    last_R = np.zeros(len(starts_R), np.int64)
    busy = np.flatnonzero(parts_P != THOUGHT)
    np.maximum.at(last_R, part.rows_P[busy], busy - starts_R[part.rows_P[busy]] + 1)
    for start, last, length in zip(starts_R, last_R, part.lengths_R, strict=True):
        ids = part.ids_P[start + last : start + length].tolist()
        place = _answer_in([texts.get(token) or "" for token in ids], protocol) if texts else None
        if place is not None:
            parts_P[start + last + place : start + length] = ANSWER
    return parts_P


def _answer_in(words: list[str], protocol: str | None) -> int | None:
    """The first token of the answer among the last ones of a rollout; None: there is none."""
    text = "".join(words)
    at = text.find("<answer>")
    if at < 0:
        if protocol != "chat_template" or not words:
            return None
        end = text.rfind("</think>")
        at = 0 if end < 0 else min(end + len("</think>"), max(len(text) - 1, 0))
    read = 0
    for place, word in enumerate(words):
        read += len(word)
        if read > at:
            return place
    return None
