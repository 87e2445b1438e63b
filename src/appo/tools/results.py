"""What tools give back besides text: a failure that the policy should read, or a text with its kind of failure; and
how what is too long is cut."""

from dataclasses import dataclass


class ToolError(RuntimeError):
    """A failure whose message is, word for word, what the policy should read."""


@dataclass(frozen=True)
class ToolResult:
    """What a tool may return instead of a text, to say whether it worked.

    Args:
        text: What the policy reads; written by the tool in either case.
        error: None, or the kind of failure that is counted, for example "timeout".
    """

    text: str
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def __str__(self) -> str:
        return self.text


def cut_in_the_middle(text: str, kept: int) -> str:
    """`text` with about `kept` characters of its two ends, and a note of how many are missing."""
    half = kept // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters cut]\n{text[len(text) - half :]}"
