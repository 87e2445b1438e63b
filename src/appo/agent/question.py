"""A question, as it is given and as it is opened.

Left out on purpose: rendering (`agent.py`), and what a prompt has to be (`appo.rollout.prompts`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from appo.errors import UserError

# A text, messages, or a row as in training, with a `prompt` and whatever an environment's `reset` takes besides.
Question = str | Sequence[dict[str, Any]] | dict[str, Any]


@dataclass
class Asked:
    """A question that was opened.

    Args:
        prompt: A text, or messages.
        environment: Its own, reset; None where there is none.
    """

    prompt: Any
    environment: Any = None


def row_of(question: Any) -> dict[str, Any]:
    """A question as a row.

    Raises:
        UserError: for a message alone, which is no row.
    """
    row = dict(question) if isinstance(question, Mapping) else {"prompt": question}
    if {"role", "content"} <= row.keys() and "prompt" not in row:
        raise UserError('a message alone is no question; ask with its text, or with messages: [{"role": "user", ..}].')
    return {name: encodable(value) if name == "prompt" else value for name, value in row.items()}


def encodable(value: Any) -> Any:
    """Texts, in messages too, with `?` for halves of characters, which no tokenizer takes."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list | tuple):
        return [encodable(one) for one in value]
    return {name: encodable(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def several(questions: Any) -> list[Any]:
    """The questions of a batch.

    Raises:
        UserError: for one alone: the letters of a text, or the columns of a row, are no questions.
    """
    if isinstance(questions, str | Mapping) or not isinstance(questions, Iterable):
        raise UserError(
            f"batch takes a list of questions, got a {type(questions).__name__}; write agent.batch([question]), or "
            "agent(question) for one alone."
        )
    return list(questions)


def check_seed(seed: Any) -> None:
    """
    Raises:
        UserError: for a seed that random numbers cannot be drawn from.
    """
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if seed is not None and not (whole and seed >= 0):
        raise UserError(f"seed must be a whole number from 0 on, got {seed!r}.")
