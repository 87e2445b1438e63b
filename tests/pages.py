"""README and the pages of the manual as a reader sees them: their blocks of code, and why one of them is not run.

A block that cannot be run stands behind a comment in its page, `<!-- not run: the reason -->`.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]*?) -->\s*)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: `line` is that of its first line of text, `not_run` the reason of the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.name}, line {self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start("text")) + 1, *found.group("language", "text", "reason"))
        for found in _BLOCK.finditer(text)
    ]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block, without comments, `[what may be added]`, `..` and a last `&`."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(re.sub(r"\[-[^\]]*\]", "", line), comments=True) for line in lines]
    return [[word for word in words if word not in ("&", "..", "...")] for words in found if words]
