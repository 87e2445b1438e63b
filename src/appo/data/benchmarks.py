"""The paper's thirteen benchmarks as rows of one form, from the Hugging Face hub or from your files.

    rows = load_benchmark("gsm8k")                         # from the hub
    rows = load_benchmark("gsm8k", data_dir="benchmarks")  # benchmarks/gsm8k.jsonl, benchmarks/gsm8k/test.jsonl, ..
    rows[0].question, rows[0].answers, rows[0].metric

Sets circulate with different fields for the same things; those of `appo.data.rows` are understood, and besides them
GSM8K's `.. #### 18` and MATH's solution with a `\\boxed{..}`. `docs/data.md` lists names, hub ids and layouts.

`metric` follows the paper (arXiv 2606.12384): F1 for HotpotQA, 2Wiki, MuSiQue and Bamboogle, a judge model for GAIA,
WebWalkerQA, HLE and xbench. The paper also has the five sets of mathematics judged by a model, although their answers
can be compared without one; here their metric is `math` (equality), which is cheaper and the same on every machine,
unless `math_by_judge=True` asks for the paper's.

Questions that a set marks as not answerable (MuSiQue-Full) are left out and counted, as in MuSiQue-Ans.

Left out on purpose: prompts, and computing the metrics. GAIA's files and the pictures of HLE are not fetched or left
out either: what a row says of them is in its `extra`, for you to filter. Nothing is decrypted: xbench asks that its
questions are not spread in plain text.
"""

import difflib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from appo.data.rows import (
    ALIAS_FIELDS,
    ANSWER_FIELDS,
    ID_FIELDS,
    QUESTION_FIELDS,
    SUFFIXES,
    BadRows,
    DataError,
    Row,
    as_texts,
    distinct,
    find_field,
    hub_rows,
    is_unanswerable,
    read_rows,
    repair_latex,
)

logger = logging.getLogger(__name__)

FLASHRAG = "RUC-NLPIR/FlashRAG_datasets"
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


@dataclass(frozen=True)
class Source:
    """Where a benchmark lies on the hub, and how its answers are compared.

    Args:
        metric: `f1`, `judge`, or `math`: equality, or a judge on request.
        gated: Whether the hub gives it only to those who accepted its terms.
    """

    hub_id: str
    split: str
    metric: str
    configs: tuple[str | None, ...] = (None,)
    gated: bool = False


#: Where each benchmark is on the hub, and how it is measured (docs/data.md).
BENCHMARKS = {
    "aime24": Source("HuggingFaceH4/aime_2024", "train", "math"),
    "aime25": Source("math-ai/aime25", "test", "math"),
    "math500": Source("HuggingFaceH4/MATH-500", "test", "math"),
    "gsm8k": Source("openai/gsm8k", "test", "math", ("main",)),
    "math": Source("EleutherAI/hendrycks_math", "test", "math", MATH_SUBJECTS),
    "hotpotqa": Source(FLASHRAG, "dev", "f1", ("hotpotqa",)),
    "2wiki": Source(FLASHRAG, "dev", "f1", ("2wikimultihopqa",)),
    "musique": Source(FLASHRAG, "dev", "f1", ("musique",)),
    "bamboogle": Source(FLASHRAG, "test", "f1", ("bamboogle",)),
    "webwalker": Source("callanwu/WebWalkerQA", "main", "judge"),
    "gaia": Source("gaia-benchmark/GAIA", "validation", "judge", ("2023_all",), gated=True),
    "hle": Source("cais/hle", "test", "judge", gated=True),
    "xbench": Source("xbench/DeepSearch", "train", "judge"),
}


@dataclass(frozen=True)
class BenchmarkRow:
    """A question of a benchmark.

    Args:
        id: The set's own, or `gsm8k-0` by position; distinct within a benchmark.
        answers: At least one; any of them is right.
        metric: `f1`, `math` or `judge`.
        extra: The other fields of the row, and a solution that an answer was taken from.
    """

    id: str
    question: str
    answers: list[str]
    metric: str
    extra: dict[str, Any] = field(default_factory=dict)


def load_benchmark(
    name: str, data_dir: str | Path | None = None, limit: int | None = None, math_by_judge: bool = False
) -> list[BenchmarkRow]:
    """Loads a benchmark; every row is checked, also those beyond `limit`.

    Args:
        name: One of `BENCHMARKS`.
        data_dir: Where its file lies (see `benchmark_file`); by default it comes from the hub.
        limit: Only the first so many rows.
        math_by_judge: Whether answers of mathematics are judged by a model, as in the paper, and not by equality.

    Raises:
        DataError: a ValueError, in one sentence: for an unknown name, a hub out of reach, a missing or empty file,
            and for rows that cannot be read, with their lines.
    """
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(BENCHMARKS)}."
        raise DataError(f"unknown benchmark {name!r}; {hint}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}.")
    source = BENCHMARKS[name]
    if data_dir is None:
        bad = BadRows(f"{source.hub_id} on the Hugging Face hub")
        places = hub_rows(source.hub_id, source.configs, source.split, _remedy(name, source))
    else:
        path = benchmark_file(name, data_dir)
        bad = BadRows(str(path))
        places = read_rows(path, bad)
    rows = _convert(name, places, bad)
    if source.metric == "math" and math_by_judge:
        rows = [replace(row, metric="judge") for row in rows]
    return rows[:limit]


def benchmark_file(name: str, data_dir: str | Path) -> Path:
    """The first that exists of `DIR/NAME.jsonl`, `DIR/NAME/test.jsonl`, then the same with .json and .parquet.

    Raises:
        DataError: where there is none.
    """
    directory = Path(data_dir)
    paths = [
        path for suffix in SUFFIXES for path in (directory / f"{name}{suffix}", directory / name / f"test{suffix}")
    ]
    for path in paths:
        if path.is_file():
            return path
    raise DataError(f"{name} is not in {directory}: there is none of {', '.join(map(str, paths))}.")


def _remedy(name: str, source: Source) -> str:
    own = f"put the questions into DIR/{name}.jsonl and give data_dir=DIR"
    return f"accept its terms there and log in, or {own}" if source.gated else own


def _convert(name: str, places: Iterable[tuple[str, Row]], bad: BadRows) -> list[BenchmarkRow]:
    """Rows of one form, without the unanswerable; raises DataError if there is none, or if any was bad."""
    rows: list[BenchmarkRow] = []
    left_out = 0
    for number, (place, row) in enumerate(places):
        if is_unanswerable(row):
            left_out += 1
            continue
        try:
            rows.append(_convert_row(name, row, number))
        except ValueError as error:
            bad.add(place, str(error))
    bad.raise_if_any()
    if left_out:
        logger.warning("%s: left out %d of %d questions, marked as not answerable.", bad.source, left_out, number + 1)
    if not rows:
        raise DataError(f"{bad.source}: no rows{' that can be answered' if left_out else ''}.")
    return [replace(row, id=own) for row, own in zip(rows, distinct(row.id for row in rows), strict=True)]


def _convert_row(name: str, row: Row, number: int) -> BenchmarkRow:
    """Raises ValueError in words that fit behind the row's place."""
    question_key, id_key = find_field(row, QUESTION_FIELDS), find_field(row, ID_FIELDS)
    question = row[question_key] if question_key else ""
    if not isinstance(question, str):
        raise ValueError(f"its {question_key} is no text")
    if not question.strip():
        raise ValueError(f"no question; its fields are {', '.join(row) or 'none'}")
    if name == "xbench" and _is_encrypted(question):
        raise ValueError(
            "encrypted, as xbench publishes its questions; decrypt them with github.com/xbench-ai/xbench-evals "
            "into a file of your own, and give data_dir"
        )
    answers, keys = _find_answers(row, BENCHMARKS[name].metric == "math")
    own = str(row[id_key]) if id_key else f"{name}-{number}"
    extra = {key: value for key, value in row.items() if key not in {question_key, id_key, *keys}}
    # The circulating file of AIME 2025 has two questions with a mangled \frac. (strip() would take a form feed away.)
    return BenchmarkRow(own, repair_latex(question).strip(), answers, BENCHMARKS[name].metric, extra)


def _is_encrypted(text: str) -> bool:
    """Base64, which no question of more than a word is."""
    text = text.strip()
    return len(text) >= 16 and len(text) % 4 == 0 and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text) is not None


def _find_answers(row: Row, is_math: bool) -> tuple[list[str], list[str]]:
    """The answers, and the fields that they used up."""
    key = find_field(row, (*ANSWER_FIELDS, "solution") if is_math else ANSWER_FIELDS)
    if key is None:
        raise ValueError(f"no answer; its fields are {', '.join(row)}")
    answers, keys = as_texts(row[key]), [key]
    if is_math:
        finals = [final_answer(answer) for answer in answers]
        if key.lower() == "solution" and finals == answers:
            raise ValueError("no answer, and no \\boxed{..} in its solution")
        # A solution says more than its result, so it stays among the other fields.
        keys = keys if finals == answers else []
        answers = finals
    alias = find_field(row, ALIAS_FIELDS)
    if alias:
        answers += as_texts(row[alias])
        keys.append(alias)
    answers = list(dict.fromkeys(answer for answer in answers if answer))
    if not answers:
        raise ValueError("its answer is empty")
    if answers == ["?"]:
        raise ValueError("its answer is hidden (`?`, as in GAIA's test set; take the validation set)")
    return answers, keys


def final_answer(solution: str) -> str:
    """What a solution ends with: GSM8K's `#### 1,234` as `1234`, else its last `\\boxed{..}`; else the text itself."""
    if "####" in solution:
        return re.sub(r"(?<=\d),(?=\d{3})", "", solution.rsplit("####", 1)[1].strip())
    found = list(re.finditer(r"\\(?:boxed|fbox)\s*", solution))
    if not found:
        return solution
    rest = solution[found[-1].end() :]
    if not rest.startswith("{"):
        # TeX without braces takes one token: \boxed 5. Of a command, \boxed\frac12, it takes more than we read.
        return solution if rest.startswith("\\") else rest[:1]
    depth = 0
    for end, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0) if rest[end - 1 : end] != "\\" else 0
        if depth == 0:
            return rest[1:end].strip()
    return solution
