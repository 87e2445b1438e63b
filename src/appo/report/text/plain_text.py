"""Text that a model or a tool wrote, made safe and fit for a terminal.

Left out on purpose: markup; nothing in such a text is read as a style.
"""

import re
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

LABEL = 11  # characters of a label and the space behind it
TOP_WIDTH = 160  # of a terminal; longer lines are hard to read
PIPE_WIDTH = 120  # where there is no terminal
# Control and format characters (a terminal obeys escape sequences and changes of direction), halves of surrogates.
UNSAFE = ("Cc", "Cf", "Cs")


class PlainConsole(Console):
    """A console that leaves a reader who has seen enough (`| head`) to its caller, where rich's own exits with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def open_console() -> Console:
    """A console for standard output: colours in a terminal alone, none where NO_COLOR is set.

    Printing raises BrokenPipeError where nobody reads any more.
    """
    console = PlainConsole(markup=False, highlight=False, emoji=False, soft_wrap=True)
    console.width = min(console.width, TOP_WIDTH) if console.is_terminal else PIPE_WIDTH
    return console


def printable(text: str) -> str:
    r"""The text with its control characters written out (`\x1b`), but for line breaks and tabs."""
    text = text.replace("\r\n", "\n")
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(_written_out(character) for character in text)


def _written_out(character: str) -> str:
    unsafe = character not in "\n\t" and unicodedata.category(character) in UNSAFE
    return ascii(character)[1:-1] if unsafe else character


def one_line(text: str, most: int) -> str:
    """The text on a line of at most `most` characters; what was left out is told by dots."""
    line = re.sub(r"\s+", " ", printable(text)).strip()
    return line if len(line) <= most else line[: most - 2] + ".."


def quoted(text: str, most: int = 24) -> str:
    """A token's text with its white space, in quotes."""
    shown = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    return f"'{shown}'" if len(shown) <= most else f"'{shown[: most - 2]}..'"


def number(value: float | None, digits: int = 4) -> str:
    """At most so many digits; a dash for None, which is never 0."""
    return "-" if value is None else f"{value:.{digits}g}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number and what there are so many of."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def as_text(value: Any) -> str:
    """A text as it is, anything else as Python writes it."""
    return value if isinstance(value, str) else repr(value)


def hanging(label: str, body: Text, console: Console, style: str = "") -> Text:
    """A label and a text whose further lines stand below its first one; in a terminal, long lines are folded."""
    lines = list(body.split("\n", allow_blank=True))
    if console.is_terminal:
        width = max(console.width - LABEL, 20)
        lines = [part for line in lines for part in (line.wrap(console, width, overflow="fold") or [line])]
    shown = Text(f"{label:{LABEL - 1}} ", style=style)
    for place, line in enumerate(lines):
        if place:
            shown.append("\n" + " " * LABEL)
        line.rstrip()
        shown.append_text(line)
    shown.rstrip()
    return shown
