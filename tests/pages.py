"""README and the pages of the manual as a reader sees them: their blocks of code, and why one of them is not run.

A block that cannot be run stands behind a comment in its page, `<!-- not run: the reason -->`. One without a language
is a shell's where it begins with a program that the pages use, else something that is printed.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SHELL = ("appo", "make", "pip", "python", "accelerate", "sbatch", "bash", "echo")
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "domains").glob("*.md")),
]
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
    found = []
    for block in _BLOCK.finditer(text):
        line, (language, code, reason) = text.count("\n", 0, block.start("text")) + 1, block.group(2, 3, 1)
        found.append(Block(page, line, language or ("bash" if is_command(code) else "text"), code, reason))
    return found


def is_command(text: str) -> bool:
    """Whether a text begins as a shell's line does."""
    words = re.sub(r"^(\s*[A-Z_]+=\S+)+", "", text).split()
    return bool(words) and words[0].removeprefix(".venv/bin/") in SHELL


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block, without comments, `[what may be added]`, `..` and a last `&`."""
    lines = text.replace("\\\n", " ").splitlines()
    found: list[list[str]] = []
    for line in lines:
        found.append([])
        for word in shlex.split(re.sub(r"\[-[^\]]*\]", "", line), comments=True):
            if word == "|":
                found.append([])
            elif word not in ("&", "..", "..."):
                found[-1].append(word)
    return [words for words in found if words]
