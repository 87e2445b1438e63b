"""A prompt made from the columns of a row: `question`, or `"{city}: what is its {property}?"`.

Braces that are none of a column are written twice, as in Python's `str.format`. A number without a fraction is
written without a point. A column that holds messages may be a prompt, but no part of one.
"""

import difflib
from collections.abc import Iterable
from string import Formatter
from typing import Any

from appo.data.rows import Row, as_texts
from appo.errors import UserError


def check_column(field: str, name: str, columns: Iterable[str], source: str) -> None:
    """
    Args:
        field: Who names the column.
        source: Where the columns are, for the error.

    Raises:
        UserError: for a column that there is not; it names the closest, and all.
    """
    columns = list(columns)
    if name in columns:
        return
    folded = {column.casefold(): column for column in columns}
    close = difflib.get_close_matches(name.casefold(), folded, 1)
    hint = f"did you mean {folded[close[0]]!r}?" if close else "name one of them."
    raise UserError(f"{field} = {name!r} is no column of {source}, which has {', '.join(columns)}; {hint}")


class PromptTemplate:
    """
    Args:
        text: A column's name, or a text with columns in braces.
        columns: Those that there are.
        source: Where they are, for errors.

    Raises:
        UserError: for columns that there are not, and for braces that do not pair.
    """

    def __init__(self, text: str, columns: Iterable[str], source: str) -> None:
        columns = list(columns)
        self._pieces: list[tuple[str, str | None]] = []
        if text in columns or not ("{" in text or "}" in text):
            check_column("prompt", text, columns, source)
            self._pieces = [("", text)]
        else:
            try:
                parsed = list(Formatter().parse(text))
            except ValueError as error:
                raise UserError(f"prompt = {text!r}: {error}; write a brace that is none of a column twice.") from None
            for before, name, specification, conversion in parsed:
                # A column may be called `a:b` or `a!b`, and nothing is formatted here.
                whole = name and name + (f"!{conversion}" if conversion else "")
                whole = whole and whole + (f":{specification}" if specification else "")
                if whole is not None:
                    check_column("prompt", whole, columns, source)
                self._pieces.append((before, whole))
        self.columns = [name for _, name in self._pieces if name is not None]

    def fill(self, row: Row) -> Any:
        """The prompt of a row: a text, or the messages that its column holds.

        Raises:
            ValueError: for a column that is empty or no text, in words that fit behind the row's place.
        """
        if len(self._pieces) == 1 and is_messages(value := row.get(self.columns[0])):
            return value
        return "".join(before + (_text(row, name) if name is not None else "") for before, name in self._pieces)


def is_messages(value: Any) -> bool:
    """Whether a value is a conversation: a list of objects with a role."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "role" in one for one in value)


def _text(row: Row, name: str) -> str:
    try:
        texts = as_texts(row.get(name))
    except ValueError:
        raise ValueError(f"its column {name!r} is no text") from None
    if not texts:
        raise ValueError(f"its column {name!r} is empty")
    return ", ".join(texts)
