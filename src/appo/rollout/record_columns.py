"""Records as Parquet columns, and back: what a record holds, in which types.

Every record has all of the fixed columns below; None where a run does not measure it, which is never 0 or NaN. Besides
them stand columns per token (`logprobs`, `entropies`, `omega`, ..., and `factors`, a struct of some), whose names are
those of the method that wrote the run: lists of float32, null in tool results, which the policy did not write.

Per-token numbers keep 16 of float32's 24 binary digits (an error of at most 2^-16 of the number: five decimal digits,
more than the scores mean), and their bytes are stored by place, so that the last ones cost nothing. float16 would be
no smaller, ends at 65504, where Omega does not, and is unknown to many readers. Everything else is kept to the last
digit. Texts that may hold anything (`row`, `prompt`, the arguments of calls) are JSON.

Left out on purpose: seconds, so that two runs with one seed write the same records; torch, which reading does without.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

VERSION = 2  # of the columns; the JSON lines of before are 1
VERSION_KEY = b"appo_records"  # in the metadata of a file

CALL = pa.struct(
    [
        ("name", pa.string()), ("arguments", pa.string()), ("start", pa.int32()), ("end", pa.int32()),
        ("result", pa.string()), ("error", pa.string()), ("result_start", pa.int32()), ("result_end", pa.int32()),
        ("ran", pa.bool_()),
    ]
)  # fmt: skip
FIXED: dict[str, pa.DataType] = {
    "kind": pa.string(),  # "train" or "evaluation"
    "step": pa.int32(),  # of the optimizer, from 1
    "task": pa.string(),
    "rollout": pa.int32(),  # place in the task's tree
    "parent": pa.int32(),  # the rollout that a branch left; None: an initial rollout
    "branch_position": pa.int32(),  # first position that is the branch's own
    "branch_score": pa.float64(),  # what chose that position, in the parent
    "branch_rank": pa.int32(),  # 1: the best of the parent's tokens
    "alternatives": pa.list_(pa.struct([("token", pa.int32()), ("logprob", pa.float64())])),
    "row": pa.string(),  # JSON: the data set's row, with its answers
    "prompt": pa.string(),  # JSON: a text or messages
    "completion_ids": pa.list_(pa.int32()),
    "policy_mask": pa.list_(pa.int8()),  # 1: written by the policy, 0: a tool's result
    "decisions": pa.list_(pa.int32()),  # positions of the true decisions, where the task knows them
    "finish_reason": pa.string(),
    "reward": pa.float64(),  # None: no function scored it
    "rewards": pa.map_(pa.string(), pa.float64()),  # unweighted parts; NaN: the function did not apply
    "initial_mean": pa.float64(),  # rewards of the task's scored initial rollouts; None: there are none
    "initial_std": pa.float64(),  # of the population, as in Eq. 6
    "branch_mean": pa.float64(),
    "branch_std": pa.float64(),
    "tool_calls": pa.list_(CALL),
}
AS_JSON = ("row", "prompt")
REPEATED = ("kind", "step", "task", "row", "prompt", "finish_reason")  # worth a dictionary, as are token ids
FACTORS = "factors"
_KEPT = np.uint32(0xFFFFFF00)  # sign, exponent and 15 stored binary digits


@dataclass(frozen=True)
class Layout:
    """The columns of one file.

    Args:
        scores: Names of the columns per token.
        factors: Names within `factors`; none where the column is missing.
    """

    scores: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Iterable[dict[str, Any]]) -> "Layout":
        """What the records hold besides the fixed columns, in the order of first sight."""
        scores: dict[str, None] = {}
        factors: dict[str, None] = {}
        for record in records:
            scores |= dict.fromkeys(name for name in record if name not in FIXED and name != FACTORS)
            factors |= dict.fromkeys(record.get(FACTORS) or ())
        return cls(tuple(scores), tuple(factors))

    def schema(self) -> pa.Schema:
        floats = pa.list_(pa.float32())
        columns = [*FIXED.items(), *((name, floats) for name in self.scores)]
        if self.factors:
            columns.append((FACTORS, pa.struct([(name, floats) for name in self.factors])))
        return pa.schema(columns, {VERSION_KEY: str(VERSION).encode()})

    def encodings(self) -> dict[str, list[str]]:
        """Arguments of `pyarrow.parquet.ParquetWriter`."""
        paths = [*self.scores, *(f"{FACTORS}.{name}" for name in self.factors)]
        return {
            "use_dictionary": [*REPEATED, "completion_ids.list.element", "tool_calls.list.element.name"],
            "use_byte_stream_split": [f"{path}.list.element" for path in paths],
        }


def to_table(records: Sequence[dict[str, Any]], layout: Layout) -> pa.Table:
    """The records as a table.

    Args:
        records: Keys as in `FIXED`, those of `layout.scores`, and `factors` by name; a missing one is None. Per-token
            values are float arrays or lists (None: null) as long as the record's `policy_mask`.

    Raises:
        ValueError: for per-token values of another length.
    """
    columns = [_fixed([record.get(name) for record in records], name) for name in FIXED]
    columns += [_scores(records, [record.get(name) for record in records], name) for name in layout.scores]
    if layout.factors:
        found = [record.get(FACTORS) for record in records]
        parts = [
            _scores(records, [one.get(name) if one else None for one in found], f"{FACTORS}.{name}")
            for name in layout.factors
        ]
        missing = pa.array([one is None for one in found])
        columns.append(pa.StructArray.from_arrays(parts, list(layout.factors), mask=missing))
    return pa.Table.from_arrays(columns, schema=layout.schema())


def _fixed(values: list[Any], name: str) -> pa.Array:
    if name in AS_JSON:
        values = [None if value is None else json.dumps(value, default=str) for value in values]
    elif name == "tool_calls":
        values = [None if calls is None else [_call(call) for call in calls] for calls in values]
    elif name == "rewards":
        values = [None if value is None else list(value.items()) for value in values]
    elif name == "alternatives":
        values = [v and [{"token": token, "logprob": logprob} for token, logprob in v] for v in values]
    return pa.array(values, FIXED[name])


def _call(call: dict[str, Any]) -> dict[str, Any]:
    if unknown := call.keys() - {field.name for field in CALL}:
        raise ValueError(f"a tool call has {', '.join(sorted(unknown))}, for which there is no column.")
    return {**call, "arguments": json.dumps(call.get("arguments"), default=str)}


def _scores(records: Sequence[dict[str, Any]], values: list[Any], name: str) -> pa.ListArray:
    """One column per token; null where a record has none, and within it in tool results."""
    numbers, missing, offsets = [], [], [0]
    for record, value in zip(records, values, strict=True):
        count = 0
        if value is not None:
            mask = record["policy_mask"]
            if (count := len(value)) != len(mask):
                raise ValueError(f"{name} has {count} values for {len(mask)} tokens.")
            if not isinstance(value, np.ndarray):
                pairs = zip(value, mask, strict=True)
                missing.append(np.array([number is None or not written for number, written in pairs], bool))
                value = [np.nan if number is None else number for number in value]
            else:
                missing.append(np.asarray(mask) == 0)
            numbers.append(np.asarray(value, dtype=np.float32))
        offsets.append(offsets[-1] + count)
    flat = _shortened(np.concatenate([np.zeros(0, np.float32), *numbers]))
    nulls = np.concatenate([np.zeros(0, bool), *missing])
    items = pa.array(flat, pa.float32(), mask=nulls, from_pandas=False)
    none = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, mask=none)


def _shortened(numbers: np.ndarray) -> np.ndarray:
    """The nearest numbers of 16 binary digits; what would become infinite stays as it is."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = ((bits + np.uint32(0x80)) & _KEPT).view(np.float32)
    return np.where(np.isfinite(rounded) & np.isfinite(numbers), rounded, numbers)


def to_records(table: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any]]:
    """The records of a table of some or all columns, as `to_table` got them, but per-token values are lists."""
    names = table.schema.names
    columns = [_values(table.column(name), name) for name in names]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: pa.Array, name: str) -> list[Any]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if name == FACTORS:
        parts = [_lists(column.field(i)) for i in range(column.type.num_fields)]
        keys = [field.name for field in column.type]
        there = column.is_valid().to_pylist()
        rows = zip(there, zip(*parts, strict=True), strict=True)
        return [dict(zip(keys, values, strict=True)) if valid else None for valid, values in rows]
    if pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type):
        return _lists(column)
    values = column.to_pylist()
    convert = _CONVERT.get(name)
    return values if convert is None else [None if value is None else convert(value) for value in values]


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "row": json.loads,
    "prompt": json.loads,
    "rewards": dict,
    "alternatives": lambda pairs: [[pair["token"], pair["logprob"]] for pair in pairs],
    "tool_calls": lambda calls: [{**call, "arguments": json.loads(call["arguments"])} for call in calls],
}


def _lists(column: pa.ListArray) -> list[list[Any] | None]:
    """As `to_pylist`, which makes an object of each number first and takes twenty times as long."""
    offsets = column.offsets.to_numpy()
    items = column.values.slice(offsets[0], offsets[-1] - offsets[0])  # of a part of a table, its own alone
    places = (offsets - offsets[0]).tolist()
    nulls = np.flatnonzero(items.is_null().to_numpy(zero_copy_only=False)) if items.null_count else ()
    numbers: list[Any] = (items.fill_null(0) if items.null_count else items).to_numpy(zero_copy_only=False).tolist()
    for place in nulls:
        numbers[place] = None
    there = column.is_valid().to_pylist()
    spans = zip(places, places[1:], there, strict=False)
    return [numbers[start:end] if valid else None for start, end, valid in spans]
