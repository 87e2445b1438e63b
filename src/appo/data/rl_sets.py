"""The RL training data as a `datasets.Dataset`, repaired, and its overlap with evaluation questions.

`load_rl_data` reads the released RL sets (verl's layout: prompt, reward_model.ground_truth, data_source, extra_info)
and plain rows with a prompt or question and its answers. In the released files every system prompt holds a backspace
and `oxed` where `\\boxed` was meant, and some questions a form feed and `rac` for `\\frac`: somebody's `\\b` and `\\f`
were read as escapes. Such text is repaired, and the number of repaired prompts logged.

    python -m appo.data TRAIN.parquet [BENCHMARK_DIR]    # what it holds; what it shares with each benchmark in DIR

Left out on purpose: deciding what to do about an overlap (drop rows, or report it), and paraphrases: only the same
text counts, whatever its punctuation, case and spacing.
"""

import json
import logging
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appo.data.benchmarks import BENCHMARKS, benchmark_file, load_benchmark
from appo.data.rows import (
    ANSWER_FIELDS,
    ID_FIELDS,
    QUESTION_FIELDS,
    BadRows,
    DataError,
    Row,
    as_texts,
    distinct,
    find_field,
    is_unanswerable,
    repair_latex,
    source_rows,
)

Prompt = str | list[dict[str, str]]
LEAST_TOKENS = 12  # shorter questions ("Compute 2 + 3.") may be part of others by chance

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def load_rl_data(path_or_hub_name: str | Path) -> "Dataset":
    """Loads RL training data.

    All sets get the same columns, so that those with prompts of one kind can be concatenated: `id`, `source`, `prompt`
    (a text or messages, as in the file), `question` (without instructions, where the file has it so), `answers`
    (texts), `ability` (`math`, `qa`, or empty), `repaired` (whether the prompt was), and `extra`, the rest of the row
    as JSON.

    A row without an answer, or marked as not answerable, cannot be rewarded; it is left out, and logged.

    Args:
        path_or_hub_name: A .parquet, .jsonl, .json or .csv file, else a data set of the hub: its split `train`.

    Raises:
        DataError: a ValueError, in one sentence: for a file or data set that cannot be read, and for rows without a
            prompt, with their lines.
    """
    path, name = Path(path_or_hub_name), str(path_or_hub_name)
    bad = BadRows(name)
    rows: list[Row] = []
    unanswered = []
    for place, row in source_rows(path_or_hub_name, bad):
        try:
            converted = _convert(row, path.stem, len(rows))
        except ValueError as error:
            bad.add(place, str(error))
            continue
        if converted["answers"] and not is_unanswerable(row):
            rows.append(converted)
        else:
            unanswered.append(place)
    bad.raise_if_any()
    if not rows:
        raise DataError(f"{name}: no rows with an answer.")
    _log(name, rows, unanswered)
    return _dataset(rows)


def _log(name: str, rows: list[Row], unanswered: list[str]) -> None:
    repaired = sum(row["repaired"] for row in rows)
    if repaired:
        logger.warning("%s: repaired \\boxed or \\frac in %d of %d prompts.", name, repaired, len(rows))
    if unanswered:
        places = ", ".join(unanswered[:3]) + (", .." if len(unanswered) > 3 else "")
        logger.warning("%s: left out %d row(s) without an answer: %s.", name, len(unanswered), places)


def _dataset(rows: list[Row]) -> "Dataset":
    if any(isinstance(row["prompt"], list) for row in rows):
        # A column has one type.
        for row in rows:
            if isinstance(row["prompt"], str):
                row["prompt"] = [{"role": "user", "content": row["prompt"]}]
    ids = distinct(row["id"] for row in rows)
    from datasets import Dataset

    return Dataset.from_list([{**row, "id": own} for row, own in zip(rows, ids, strict=True)])


def _convert(row: Row, stem: str, number: int) -> Row:
    """Raises ValueError in words that fit behind the row's place."""
    row = dict(row)
    reward, info = _pop_mapping(row, "reward_model"), _pop_mapping(row, "extra_info")
    source = str(row.pop("data_source", None) or row.pop("source", None) or stem)
    prompt, question = _pop_prompt(row, info)
    fixed = _repair(prompt)
    answers = _pop_answers(reward) or _pop_answers(row)
    id_key = find_field(row, ID_FIELDS)
    # verl counts within a split.
    parts = [row.pop(id_key)] if id_key else [source, info.get("split"), info.get("index", number)]
    ability = str(row.pop("ability", None) or "")
    extra = {key: value for key, value in {**row, **reward, **info}.items() if value is not None}
    return {
        "id": "/".join(str(part) for part in parts if part is not None),
        "source": source,
        "prompt": fixed,
        "question": repair_latex(question).strip(),
        "answers": answers,
        "ability": ability,
        "repaired": fixed != prompt,
        "extra": json.dumps(extra, ensure_ascii=False, default=str),
    }


def _pop_mapping(row: Row, name: str) -> Row:
    value = row.pop(name, None) or {}
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is no object")
    return dict(value)


def _pop_prompt(row: Row, info: Row) -> tuple[Prompt, str]:
    """The prompt, and the question in it: the row's own record of it, else what the user says last."""
    key = "prompt" if row.get("prompt") else find_field(row, QUESTION_FIELDS)
    prompt = row.pop(key) if key else None
    if isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt):
        if not all(isinstance(message.get("content"), str) for message in prompt):
            raise ValueError("a message of its prompt has no text as content")
        last = next((message["content"] for message in reversed(prompt) if message.get("role") == "user"), "")
    elif isinstance(prompt, str):
        last = prompt
    else:
        raise ValueError("no prompt; it must be a text or a list of messages")
    if not last.strip():
        raise ValueError("its prompt is empty, or without a message of the user")
    key = find_field(row, ("question",))
    question = info.pop("question", None) or (row.pop(key) if key else None)
    return prompt, (question if isinstance(question, str) and question.strip() else last)


def _pop_answers(row: Row) -> list[str]:
    key = find_field(row, ("ground_truth", *ANSWER_FIELDS))
    if key is None:
        return []
    value = row.pop(key)
    # Search-R1's sets keep them one level deeper.
    return as_texts(value["target"] if isinstance(value, dict) and "target" in value else value)


def _repair(prompt: Prompt) -> Prompt:
    if isinstance(prompt, str):
        return repair_latex(prompt)
    return [{**message, "content": repair_latex(message["content"])} for message in prompt]


def overlap(train_questions: Sequence[str], eval_questions: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs `(i, j)` where `train_questions[i]` holds `eval_questions[j]`.

    Both are compared as tokens without case, quotation marks, commas and LaTeX's dollars and spacing. A training
    question may surround the evaluation's with instructions if that has at least 12 tokens; else they must be equal.
    """
    shorter: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    longer: defaultdict[tuple[str, ...], list[tuple[int, list[str]]]] = defaultdict(list)
    for j, question in enumerate(eval_questions):
        tokens = _tokens(question)
        if len(tokens) < LEAST_TOKENS:
            shorter[tuple(tokens)].append(j)
        else:
            longer[tuple(tokens[:LEAST_TOKENS])].append((j, tokens))
    shorter.pop((), None)
    pairs = []
    for i, question in enumerate(train_questions):
        tokens = _tokens(question)
        found = set(shorter.get(tuple(tokens), ()))
        for start in range(len(tokens) - LEAST_TOKENS + 1):
            for j, wanted in longer.get(tuple(tokens[start : start + LEAST_TOKENS]), ()):
                if tokens[start : start + len(wanted)] == wanted:
                    found.add(j)
        pairs += [(i, j) for j in sorted(found)]
    return pairs


def _tokens(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"\\[,;:! ()\[\]]|\\(left|right|displaystyle)(?![a-z])|[$\"'`‘’“”]", " ", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    # A point between digits is part of a number, every other one ends a sentence.
    text = re.sub(r"[,?!;:]|(?<!\d)\.|\.(?!\d)", " ", text)
    return re.findall(r"\w+|[^\w\s]", text)


def overlap_note(train: "Dataset", evaluation: "Dataset") -> str | None:
    """How many questions of an evaluation are in the training data, or None where either has no column `question`."""
    if not all("question" in rows.column_names for rows in (train, evaluation)):
        return None
    shared = len({j for _, j in overlap(train["question"], evaluation["question"])})
    return f"{shared} of {len(evaluation)} questions are in the training data"


def print_overlap(train_questions: Sequence[str], benchmarks: Mapping[str, Sequence[str]]) -> None:
    """Prints how many questions of each benchmark are among the training questions.

    Args:
        benchmarks: Name and questions.
    """
    for name, questions in benchmarks.items():
        pairs = overlap(train_questions, questions)
        rows, shared = len({i for i, _ in pairs}), len({j for _, j in pairs})
        print(f"{name:10} {shared} of {len(questions)} questions are in {rows} training rows")


def main(arguments: list[str]) -> None:
    """The command; ends the process with one sentence where something is wrong."""
    if len(arguments) not in (1, 2):
        sys.exit("usage: python -m appo.data TRAIN.parquet [BENCHMARK_DIR]")
    logging.basicConfig(format="%(message)s")
    try:
        data = load_rl_data(arguments[0])
        benchmarks = _local_questions(arguments[1]) if len(arguments) == 2 else {}
    except DataError as error:
        sys.exit(str(error))
    print(f"{len(data)} rows, {sum(data['repaired'])} prompts repaired")
    for column in ("source", "ability"):
        print(f"{column}: {', '.join(f'{name or None} {count}' for name, count in Counter(data[column]).items())}")
    print_overlap(data["question"], benchmarks)


def _local_questions(directory: str) -> dict[str, list[str]]:
    """The questions of each benchmark that has a file there."""
    found = {}
    for name in BENCHMARKS:
        try:
            benchmark_file(name, directory)
        except DataError:
            continue
        found[name] = [row.question for row in load_benchmark(name, directory)]
    if not found:
        raise DataError(f"{directory} holds none of the benchmarks {', '.join(BENCHMARKS)}.")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
