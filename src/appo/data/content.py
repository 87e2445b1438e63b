"""What a row says, whatever its spaces: which rows are the same question, and which are held out.

    key_of(row, deciding_columns(names, with_environment=False))    # equal for two rows that ask the same
    is_held_out("Where is Accra?", 0.1)                             # by the text alone: stable when rows are added
    without_shared(train, evaluation)                               # training rows that the evaluation does not ask

Two rows are the same question where the prompt, system messages aside, and the set of right answers are the same texts
in the same letter case, which may be what is asked about. Where no column is called as answers are, the prompt alone
decides. Where an environment is reset with the row, every column counts: the same words may begin another episode. But
where fewer than half of one side's rows are distinct, or all are alike, they name no episodes: the environment draws
those itself, and nothing is compared, which is logged.

Left out on purpose: paraphrases, and questions within longer ones (`appo.data.overlap` finds the latter).
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from appo.data.rows import ANSWER_COLUMNS, Row, as_texts
from appo.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

PART = 1000  # rows that are read at once
SHOWN_CHARS = 80


@dataclass(frozen=True)
class Shared:
    """What a training set and an evaluation have in common.

    Args:
        train_rows: Positions of the training rows that are questions of the evaluation.
        questions: How many of the evaluation's questions are among them, of `of`.
        example: The end of one such prompt.
    """

    train_rows: list[int]
    questions: int
    of: int
    example: str

    def __str__(self) -> str:
        are = "is" if self.questions == 1 else "are"
        return (
            f"{self.questions} of {self.of} questions of the evaluation {are} in the training data too, such as "
            f"{self.example!r}"
        )


def normalised(text: str) -> str:
    """A text in small letters, with single spaces."""
    return " ".join(text.casefold().split())


def is_held_out(text: str, share: float) -> bool:
    """Whether a text belongs to the share that is held out; one held out at a share is so at a larger one, too.

    Args:
        share: 0 to 1.
    """
    digest = blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def prompt_text(prompt: Any) -> str:
    """A prompt's words: a text itself, or the contents of its messages, a line each."""
    if isinstance(prompt, str) or prompt is None:
        return prompt or ""
    return "\n".join(_content(message.get("content")) for message in prompt if isinstance(message, Mapping))


def question_text(prompt: Any) -> str:
    """A prompt's words without its system messages, unless it has no others."""
    if isinstance(prompt, list):
        asked = [one for one in prompt if isinstance(one, Mapping) and one.get("role") != "system"]
        return prompt_text(asked or prompt)
    return prompt_text(prompt)


def deciding_columns(names: Iterable[str], with_environment: bool) -> list[str]:
    """The columns that make a row the question that it is (see the module)."""
    names = sorted(names)
    if with_environment:
        return names
    plain = {_plain(name): name for name in names}
    return ["prompt", *[plain[name] for name in ANSWER_COLUMNS if name in plain][:1]]


def key_of(row: Row, columns: Iterable[str]) -> bytes:
    """16 bytes, equal for rows whose columns say the same."""
    content = "\0".join(" ".join(_said(name, row[name]).split()) for name in columns)
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shared(train: Any, evaluation: Any, with_environment: bool = False) -> Shared | None:
    """What two data sets have in common, or None where there is nothing, or where that cannot be told.

    It cannot be told of data that is streamed, of rows that a transform makes, and of an environment that draws its
    episodes itself, as its rows are all alike, or mostly repeat others.

    Args:
        train, evaluation: `datasets.Dataset`; anything else is streamed.
        with_environment: Whether an environment is reset with the rows.
    """
    if not (_is_table(train) and _is_table(evaluation)):
        return None
    names = set(train.column_names) & set(evaluation.column_names)
    if "prompt" not in names and not with_environment:
        return None
    columns = deciding_columns(names, with_environment)
    asked = [key_of(row, columns) for row in _rows(evaluation, columns)]
    keys = [key_of(row, columns) for row in _rows(train, columns)]
    if with_environment and (repeats(keys) or repeats(asked)):
        logger.info("The rows repeat, so the environment draws its episodes itself: data sets are not compared.")
        return None
    both = set(keys) & set(asked)
    rows = [number for number, key in enumerate(keys) if key in both]
    if not rows:
        return None
    (example,) = _rows(train.select(rows[:1]), columns)
    text = prompt_text(example.get("prompt")) or json.dumps(example, default=str)
    return Shared(rows, sum(key in both for key in asked), len(asked), _end(" ".join(text.split())))


def check_apart(train: Any, evaluation: Any, with_environment: bool, allowed: bool = False) -> None:
    """
    Args:
        evaluation: A data set, or a mapping of several; None for none.
        allowed: Whether shared questions are only told of.

    Raises:
        UserError: where questions of an evaluation are trained on.
    """
    if isinstance(evaluation, Mapping):
        for own in evaluation.values():
            check_apart(train, own, with_environment, allowed)
    elif found := shared(train, evaluation, with_environment):
        if allowed:
            logger.warning("eval_dataset: %s, as allow_shared_questions allows.", found)
            return
        given = ", with_environment=True" if with_environment else ""
        raise UserError(
            f"eval_dataset: {found}; take them out: "
            f"train_dataset=appo.data.without_shared(train_dataset, eval_dataset{given}), "
            "or set allow_shared_questions=True."
        )


def without_shared(train: "Dataset", evaluation: "Dataset", with_environment: bool = False) -> "Dataset":
    """The training rows that are no questions of an evaluation; arguments as those of `shared`."""
    found = shared(train, evaluation, with_environment)
    return without_rows(train, found.train_rows) if found else train


def without_rows(data: "Dataset", rows: Iterable[int]) -> "Dataset":
    """A data set without the rows at these positions."""
    gone = set(rows)
    return data.select([number for number in range(len(data)) if number not in gone])


def _is_table(data: Any) -> bool:
    from datasets import Dataset

    return isinstance(data, Dataset) and data.format["type"] != "custom"


def _rows(data: "Dataset", columns: list[str]) -> Iterator[Row]:
    # As Arrow, because pictures would be decoded otherwise.
    table = data.select_columns(columns).with_format("arrow")
    for first in range(0, len(table), PART):
        yield from table[first : first + PART].to_pylist()


def _said(name: str, value: Any) -> str:
    """What a column says: of a prompt its question, of answers their set, of others all."""
    if name == "prompt":
        return question_text(value)
    if _plain(name) in ANSWER_COLUMNS:
        try:
            return json.dumps(sorted({" ".join(text.split()) for text in as_texts(value)}))
        except ValueError:  # neither texts nor numbers
            pass
    return json.dumps(value, sort_keys=True, default=str)


def repeats(keys: list[bytes]) -> bool:
    """Whether rows name no episodes: all of several are alike, or fewer than half are distinct."""
    distinct = len(set(keys))
    return len(keys) > 1 and (distinct == 1 or 2 * distinct < len(keys))


def _content(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return str(content or "")


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_")


def _end(text: str) -> str:
    """The end of a text, where the question stands."""
    return text if len(text) <= SHOWN_CHARS else f"..{text[-SHOWN_CHARS:]}"
