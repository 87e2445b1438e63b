"""What each decision of a rollout in Python was worth: as `judge.py`, with a program as one decision.

Decisions are whether to test or to answer (the name in the opening tag), and the program (its first token). A program
is right if it gives all visible and hidden outputs, which the sandbox says; where a closed tag holds none, its name
bears that too. The policy that the worth is of writes a right program with chance `skill`, tests until one passes, and
then answers with it.

Left out on purpose: where in its tokens a program goes wrong.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from appo.environments.programs.chat import is_right
from appo.environments.programs.judge import State
from appo.rollout.decisions import Decision, text_of_words

_TURN = re.compile(r"<(run_tests|answer)>\s*(.*?)\s*(</run_tests>|</answer>|<result>|$)", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """A test or an answer as it was written: the positions of its one or two decisions, its code, and whether it is
    closed as it was opened."""

    places: list[int]
    is_test: bool
    code: str
    closed: bool


def decision_positions(words: Sequence[str]) -> list[int]:
    """Where decisions stand: at the names of opening tags and the first token of what follows each."""
    return [place for turn in turns(words) for place in turn.places]


def judge(row: dict[str, Any], words: Sequence[str], skill: float, *, tries: int) -> list[Decision]:
    """`Task.judge` of the form in Python.

    Args:
        row: The question; its `visible` and `hidden` are read.
        words: The completion's tokens.
        skill: Chance that a program is right, in (0, 1].
        tries: Tests that are allowed.
    """
    state = State(tries)
    judged: list[Decision] = []
    for turn in turns(words):
        if turn.is_test and not state.left:  # refused: nothing is tried, and nothing changes
            judged += [Decision(place, 0.0, True) for place in turn.places]
            continue
        fits = is_right(turn.code, row["visible"])
        right = fits and is_right(turn.code, row["hidden"])
        if turn.is_test:
            low = State(state.left - 1).value(skill)
            begun, wrong = skill + (1 - skill) * low, 0.0 if fits else low
            good = state.passed is not True
        else:
            begun, wrong = skill if state.passed is None else float(state.passed), 0.0
            good = state.passed is not None or not state.left
        excused = not turn.is_test and state.passed is False and fits
        steps = [(begun - state.value(skill), good), ((1.0 if right else wrong) - begun, right or excused)]
        if turn.closed and not turn.code:
            steps = [(wrong - state.value(skill), False)]
        judged += [Decision(place, *step) for place, step in zip(turn.places, steps, strict=False)]
        if turn.is_test and turn.closed:
            state = State(state.left - 1, right if fits else None)
    return judged


def turns(words: Sequence[str]) -> Iterator[Turn]:
    """The tests and the answers of a completion in Python."""
    text, starts = text_of_words(words, pieces=True)
    for match in _TURN.finditer(text):
        opened, code, closing = match.groups()
        places = [bisect_right(starts, match.start(group)) - 1 for group in ((1, 2) if code else (1,))]
        yield Turn(places, opened == "run_tests", code, closing == f"</{opened}>")
