"""A benchmark of one's own: a file of questions and answers, beside the paper's thirteen.

    rows = load_own_benchmark("mine", "tickets.csv", prompt="{ticket_text}", answer="status")

Without `prompt` and `answer` the fields are found by the names that circulate (`appo.data.rows`).

Left out on purpose: the paper's benchmarks, whose files hold more than questions and answers (`benchmarks.py`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from appo.data.benchmarks import BenchmarkRow, final_answer
from appo.data.own_rows import read_own_rows
from appo.data.rows import (
    ALIAS_FIELDS,
    ANSWER_FIELDS,
    ID_FIELDS,
    QUESTION_FIELDS,
    BadRows,
    DataError,
    Row,
    as_texts,
    distinct,
    find_field,
    source_rows,
)


def load_own_benchmark(
    name: str,
    source: str | Path,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    metric: str = "f1",
    limit: int | None = None,
) -> list[BenchmarkRow]:
    """Loads a file of questions; every row is looked at, also those beyond `limit`.

    Args:
        name: What it is called in results.
        source: A .csv, .jsonl, .json or .parquet file, else a name on the hub, whose split `train` is read.
        prompt: A column or a template; None: the first field that is called as questions are.
        answer: A column; None: the first field that is called as answers are.
        metric: How answers are compared: f1, em, math or judge.
        limit: Only the first so many rows.

    Raises:
        UserError: in one sentence, for a file that cannot be read, columns that there are not, and rows without a
            question.
    """
    first = _first_row(name, source)
    field = f"benchmark {name}"
    prompt = prompt if prompt is not None else _named(first, QUESTION_FIELDS, f"{field}: {source}", "prompt")
    answer = answer if answer is not None else _named(first, ANSWER_FIELDS, f"{field}: {source}", "answer")
    found = read_own_rows(source, prompt, answer, field)
    rows = []
    for number, (row, text, answers) in enumerate(zip(found.rows, found.texts, found.answers, strict=True)):
        id_key, alias = find_field(row, ID_FIELDS), find_field(row, ALIAS_FIELDS)
        answers = [final_answer(text) if "####" in text or "\\boxed" in text else text for text in answers]
        accepted = list(dict.fromkeys([*answers, *(as_texts(row[alias]) if alias else [])]))
        extra = {key: value for key, value in row.items() if key != answer}
        rows.append(BenchmarkRow(str(row[id_key]) if id_key else f"{name}-{number}", text, accepted, metric, extra))
    rows = [replace(row, id=own) for row, own in zip(rows, distinct(row.id for row in rows), strict=True)]
    return rows[:limit]


def _first_row(name: str, source: str | Path) -> Row:
    try:
        row = next((row for _, row in source_rows(source, BadRows(str(source)))), None)
    except DataError as error:
        raise type(error)(f"benchmark {name}: {error}") from error
    if row is None:
        raise DataError(f"benchmark {name}: {source} has no rows.")
    return row


def _named(row: Row, names: Any, place: str, flag: str) -> str:
    found = find_field(row, names)
    if found is None:
        raise DataError(f"{place} has no field {', '.join(names)}, but {', '.join(row)}; give --{flag} COLUMN.")
    return found
