"""`RecipeError`: a mistake in a recipe or a flag, in one sentence; and what libraries say of values, in one, too."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2

from appo.errors import UserError, is_complaint


class RecipeError(UserError):
    """A mistake in a recipe or a flag, in one sentence."""


class FieldError(RecipeError):
    """A mistake in fields, with the place that gave them.

    Args:
        source: The file, the flags, or both.
        part: `, cold_start` for fields below it, else empty.
        said: The sentence itself.
    """

    def __init__(self, source: str, part: str, said: str) -> None:
        super().__init__(f"{source}{part}: {said}")
        self.part, self.said = part, said


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """What a library says of the user's values, in one sentence. A fault in a user's code, or in ours, stays one."""
    try:
        yield
    except (jinja2.TemplateError, ValueError, OSError, ImportError) as error:
        if isinstance(error, UserError) or not is_complaint(error):
            raise
        raise RecipeError(sentence_of(error)) from error


@contextmanager
def placed_in_task_args(given: Any) -> Iterator[None]:
    """Says of a mistake that begins with the name of an argument of the task where that stands."""
    try:
        yield
    except UserError as error:
        named = re.match(r"(\w+)(:| =)", str(error))
        if isinstance(given, dict) and named and named[1] in given:
            error.args = (f"task_args: {error}",)
        raise


def fault_of(name: str, error: BaseException) -> str:
    """A fault in the user's code in one line, with its place; its traceback is told besides.

    Args:
        name: Of what was looked at.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{name}: {sentence_of(error)} ({type(error).__name__} in {last.filename}, line {last.lineno})"


def sentence_of(error: BaseException) -> str:
    """An exception's text in one line; of a chat template's, that it refuses messages."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"the chat template refuses messages: {said}." if isinstance(error, jinja2.TemplateError) else said
