"""Rows of a user's own file, with prompts and answers, and what is odd about them.

    rows = read_own_rows("tickets.csv", prompt="{ticket_text}", answer="status")
    rows.texts, rows.answers, rows.rows

What cannot be meant is refused in one sentence: columns that there are not, prompts without text, a prompt that shows
the answer. What may be meant is logged in one: rows without an answer, answers that are all the same, the same prompt
with different answers, answers that read `nan`.

Left out on purpose: messages, tools and rewards (`appo.environments.rows`).
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appo.data.content import normalised, prompt_text
from appo.data.prompt_template import PromptTemplate, check_column
from appo.data.rows import BadRows, DataError, Row, as_texts, source_rows
from appo.errors import Mistakes, UserError

logger = logging.getLogger(__name__)

MISSING = ("nan", "none", "null", "n/a", "na")  # what is written for nothing
_WHOLE = re.compile(r"-?\d+\.0+")


@dataclass(frozen=True)
class OwnRows:
    """The rows of a file that can be used, in its order.

    Args:
        source: The file, for messages.
        rows: What the file holds.
        prompts: A text each, or messages.
        answers: Texts, any of which is right; empty lists where no answer was asked for.
        lists: Whether the file holds lists of answers.
        prompt_columns: Those that the prompt is made of.
    """

    source: str
    rows: list[Row]
    prompts: list[Any]
    answers: list[list[str]]
    lists: bool
    prompt_columns: list[str]

    @property
    def texts(self) -> list[str]:
        """The prompts' words."""
        return list(map(prompt_text, self.prompts))


def read_own_rows(source: str | Path, prompt: str | None, answer: str | None, field: str = "file") -> OwnRows:
    """Reads a file, or a data set of the hub.

    Args:
        source: A .csv, .jsonl, .json or .parquet file, else a name on the hub, whose split `train` is read.
        prompt: A column or a template (`appo.data.prompt_template`); None: every prompt is empty.
        answer: A column; None for none.
        field: Who names the source, for errors.

    Raises:
        UserError: in one sentence, for whatever cannot be meant.
    """
    name = str(source)
    bad = BadRows(name)
    try:
        places = list(source_rows(source, bad))
        bad.raise_if_any()
    except DataError as error:
        raise type(error)(f"{field}: {error}") from error
    if not places:
        raise DataError(f"{field}: {name} has no rows.")
    columns = list(dict.fromkeys(key for _, row in places for key in row))
    template, mistakes = None, Mistakes()
    with mistakes.kept():
        template = None if prompt is None else PromptTemplate(prompt, columns, name)
    if answer is not None:
        with mistakes.kept():
            check_column("answer", answer, columns, name)
    mistakes.raise_if_any()
    if answer is not None and template is not None and answer in template.columns:
        raise UserError(f"prompt = {prompt!r} shows the answer, column {answer!r}; leave it out of the prompt.")
    places = [(place, {column: row.get(column) for column in columns}) for place, row in places]
    found = _convert(name, places, template, answer)
    _tell(found, answer, prompt)
    return found


def _convert(name: str, places: list[tuple[str, Row]], template: PromptTemplate | None, answer: str | None) -> OwnRows:
    bad = BadRows(name)
    rows, prompts, answers, unanswered = [], [], [], []
    for place, row in places:
        try:
            filled = template.fill(row) if template else ""
            if template and not prompt_text(filled).strip():
                raise ValueError("its prompt is empty")
            texts = as_texts(row[answer]) if answer is not None else []
        except ValueError as error:
            bad.add(place, str(error))
            continue
        if answer is not None and not texts:
            unanswered.append(place)
            continue
        rows.append(row)
        prompts.append(filled)
        answers.append(texts)
    bad.raise_if_any()
    if not rows:
        raise DataError(f"{name}: answer = {answer!r} is empty in every row; name the column that holds the answers.")
    if unanswered:
        shown = ", ".join(unanswered[:3]) + (", .." if len(unanswered) > 3 else "")
        logger.warning("%s: left out %d row(s) without an answer: %s.", name, len(unanswered), shown)
    lists = answer is not None and any(isinstance(row[answer], list) for row in rows)
    return OwnRows(name, rows, prompts, _without_points(name, answers), lists, template.columns if template else [])


def _without_points(name: str, answers: list[list[str]]) -> list[list[str]]:
    """Answers as they are; where all read like 3.0, which programs make of whole numbers with gaps, 3."""
    texts = [text for row in answers for text in row]
    if not texts or not all(map(_WHOLE.fullmatch, texts)):
        return answers
    logger.warning("%s: the answers are whole numbers such as %s; they are read without the point.", name, texts[0])
    return [[text.partition(".")[0] for text in row] for row in answers]


def _tell(found: OwnRows, answer: str | None, prompt: str | None) -> None:
    """Logs what may be a mistake, a sentence each."""
    count = len(found.rows)
    if prompt is not None and count > 1 and len(set(map(normalised, found.texts))) == 1:
        logger.warning("%s: prompt = %r is the same in all %d rows; name a column.", found.source, prompt, count)
    if answer is None:
        return
    said = Counter(normalised(text) for row in found.answers for text in row)
    if count > 1 and len(said) == 1:
        logger.warning(
            "%s: answer = %r is %r in all %d rows: a model that always says so is right.",
            found.source, answer, next(iter(said)), count,
        )  # fmt: skip
    for text in MISSING:
        if text in said:
            logger.warning(
                "%s: %d answers read %r, as programs write where there is none; leave such cells empty.",
                found.source, said[text], text,
            )  # fmt: skip
    by_text: dict[str, set[str]] = {}
    for text, row in zip(found.texts, found.answers, strict=True):
        by_text.setdefault(normalised(text), set()).add("\0".join(sorted(map(normalised, row))))
    torn = [text for text, different in by_text.items() if len(different) > 1 and prompt is not None]
    if torn:
        logger.warning(
            "%s: %d prompt(s) have other answers in other rows, such as %r.", found.source, len(torn), torn[0][-80:]
        )
