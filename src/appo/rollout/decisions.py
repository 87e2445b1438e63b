"""Choices of a rollout whose worth is known, for tasks made to study credit; and where in its tokens they stand.

    Decision(position=17, advantage=-0.8, right=False)    the 18th token lost 0.8 of the chance to succeed
    found_in(words, r"<act> (\\w+)")                    matches, each with the word in which its last group begins

Left out on purpose: how a choice is judged, which only its task knows (`Task.judge`).
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from appo.errors import UserError


@dataclass(frozen=True)
class Decision:
    """A choice and what it was worth.

    Args:
        position: Of the token that makes the choice, counted from 0 in the completion.
        advantage: Q - V: the chance of success after the choice minus that before it, both under a policy that decides
            well with the chance `skill` that the judge was given; -1 to 1.
        right: Whether it is right as its task says. In planning that is a move of a shortest way to the goal, and with
            moves to spare another may be as good; elsewhere no other choice would have kept a better chance.
    """

    position: int
    advantage: float
    right: bool


Judge = Callable[[dict[str, Any], list[str], float], list[Decision]]


def decisions_of(judge: Judge, row: dict[str, Any], words: list[str], skill: float) -> list[Decision]:
    """What a task's judge says of a completion.

    Args:
        judge: As in `Task`.
        row: The task's row.
        words: The completion's tokens as text.
        skill: With which chance the policy decides well from there on; in (0, 1].

    Raises:
        UserError: for another skill, and where the judge returned anything but decisions within the completion.
    """
    if not 0 < skill <= 1:
        raise UserError(f"skill must lie above 0 and be at most 1, got {skill}: the chance to decide well.")
    found = judge(row, words, skill)
    rule = "the task's judge must return a list of appo.rollout.decisions.Decision, empty where nothing was decided"
    if not isinstance(found, list | tuple):
        raise UserError(f"{rule}, got {found!r}.")
    for number, one in enumerate(found):
        if not isinstance(one, Decision):
            raise UserError(f"{rule}, but number {number} is {one!r}.")
        if not 0 <= one.position < len(words):
            raise UserError(f"{rule}, but number {number} is at position {one.position} of {len(words)} tokens.")
    return list(found)


def text_of_words(words: Sequence[str], pieces: bool = False) -> tuple[str, list[int]]:
    """The text that words make, and where in it each of them begins.

    Args:
        words: Tokens as the tokenizer names them: pieces of a byte-level BPE (`Ġ` is a space, `Ċ` a new line), else
            whole words, which are joined by spaces.
        pieces: That they are pieces, also where none of them holds a space or a new line that would tell.
    """
    if pieces or any("Ġ" in word or "Ċ" in word for word in words):
        words = [word.replace("Ġ", " ").replace("Ċ", "\n") for word in words]
        separator = ""
    else:
        separator = " "
    ends = accumulate(len(word) + len(separator) for word in words)
    return separator.join(words), [0, *ends][: len(words)]


def found_in(words: Sequence[str], pattern: str, pieces: bool = False) -> list[tuple[int, re.Match[str]]]:
    """Matches of a pattern in the text of words, each with the index of the word in which its last group begins.

    Args:
        words, pieces: As `text_of_words` takes them.
        pattern: A regular expression; of several groups the last that took part, without one the match itself counts.
    """
    text, starts = text_of_words(words, pieces)
    matches = list(re.finditer(pattern, text))
    return [(bisect_right(starts, match.start(match.lastindex or 0)) - 1, match) for match in matches]
