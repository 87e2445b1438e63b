"""What each decision of a rollout in words was worth, and whether it was right: the truth about every word.

Decisions are whether to test or to answer (the opening tag), each step of a program, and its end (the closing tag). A
step is right if a right program begins with all that stands so far, and right programs are all those up to three steps
that fit the visible and the hidden examples: every one is looked at (`right_programs`). So `right` is exact for
programs. Testing is right while nothing has passed and a test is left; answering is, once the last test has passed or
none is left.

The worth is that of a policy which takes each step rightly with chance `skill`, tests until a program passes, and then
answers with it. A program of `k` steps to go is so completed with chance c = skill^(k+1), its end included, and with
`n` tests left success is 1 - (1 - p)^(n+1), where p = skill^(L+1) for the L steps of the shortest right program. A
wrong program that passes the visible examples is answered, and so lost.

Left out on purpose: what comes after the first wrong step of a program, which decides nothing (0, right); and blame
for an answer that repeats a wrong program that passed, as nothing that could be seen speaks against it: the program
bears it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from appo.environments.programs.catalogue import Program
from appo.environments.programs.primitives import MAX_STEPS, PRIMITIVES, is_program
from appo.environments.programs.questions import examples_of, fits
from appo.rollout.decisions import Decision

CLOSING = {"<run_tests>": "</run_tests>", "<answer>": "</answer>"}


@dataclass(frozen=True)
class Turn:
    """A test or an answer as it was written.

    Args:
        start: Position of its opening tag.
        is_test: Whether that is `<run_tests>`.
        words: What follows, without the closing tag.
        closed: Whether the closing tag is there.
    """

    start: int
    is_test: bool
    words: tuple[str, ...]
    closed: bool

    @property
    def places(self) -> range:
        """Positions of its decisions: the tags and all between them."""
        return range(self.start, self.start + 1 + len(self.words) + self.closed)


@dataclass(frozen=True)
class State:
    """Tests left, and whether what passed the last test is right; None where nothing has passed."""

    left: int
    passed: bool | None = None

    def value(self, p: float) -> float:
        """Chance of success, where a program is right with chance `p`."""
        return 1 - (1 - p) ** (self.left + 1) if self.passed is None else float(self.passed)


def turns(words: Sequence[str]) -> Iterator[Turn]:
    """The tests and the answers of a completion in words."""
    place = 0
    while place < len(words):
        if words[place] not in CLOSING:
            place += 1
            continue
        start, closing = place, CLOSING[words[place]]
        place += 1
        while place < len(words) and words[place] not in (closing, "<result>", "<answer>"):
            place += 1
        closed = words[place : place + 1] == [closing]
        yield Turn(start, closing == "</run_tests>", tuple(words[start + 1 : place]), closed)


def decision_positions(words: Sequence[str]) -> list[int]:
    """Where decisions stand: at opening tags, steps, and closing tags."""
    return [place for turn in turns(list(words)) for place in turn.places]


def judge(row: dict[str, Any], words: Sequence[str], skill: float, *, tries: int) -> list[Decision]:
    """`Task.judge` of the form in words.

    Args:
        row: The question; its `visible` and `hidden` are read.
        words: The completion's tokens.
        skill: Chance of a right step, in (0, 1].
        tries: Tests that are allowed.
    """
    right = right_programs(row["visible"], row["hidden"])
    p = skill ** (min(map(len, right)) + 1)
    state = State(tries)
    judged: list[Decision] = []
    for turn in turns(list(words)):
        fits_seen = fits_visible(turn.words, row["visible"])
        if turn.is_test and not state.left:  # refused: nothing is tried, and nothing changes
            judged += [Decision(place, 0.0, True) for place in turn.places]
        elif turn.is_test:
            judged += _judge_test(turn, state, right, fits_seen, p, skill)
            state = _after_test(turn, state, right, fits_seen)
        else:
            judged += _judge_answer(turn, state, right, fits_seen, p, skill)
    return judged


def _judge_test(
    turn: Turn, state: State, right: frozenset[Program], fits_seen: bool, p: float, skill: float
) -> Iterator[Decision]:
    low = State(state.left - 1).value(p)
    begun = p + (1 - p) * low
    yield Decision(turn.start, begun - state.value(p), state.passed is not True)

    def level(to_go: int) -> float:
        completed = skill ** (to_go + 1)
        return completed + (1 - completed) * low

    yield from _steps(turn, right, begun, 0.0 if fits_seen else low, level)


def _judge_answer(
    turn: Turn, state: State, right: frozenset[Program], fits_seen: bool, p: float, skill: float
) -> Iterator[Decision]:
    begun = p if state.passed is None else float(state.passed)
    yield Decision(turn.start, begun - state.value(p), state.passed is not None or not state.left)

    def level(to_go: int) -> float:
        return skill ** (to_go + 1) if state.passed is None else float(state.passed)

    excused = state.passed is False and fits_seen
    for one in _steps(turn, right, begun, 0.0, level):
        yield Decision(one.position, one.advantage, one.right or excused)


def _after_test(turn: Turn, state: State, right: frozenset[Program], fits_seen: bool) -> State:
    if not turn.closed or any(word.startswith("<") for word in turn.words):
        return state  # no call, or one that cannot be read
    return State(state.left - 1, turn.words in right if fits_seen else None)


def _steps(
    turn: Turn, right: frozenset[Program], value: float, wrong: float, level: Callable[[int], float]
) -> Iterator[Decision]:
    """The decisions of a program, step by step, and its end.

    Args:
        turn: Where it is written.
        right: The right programs.
        value: The chance of success before the first step.
        wrong: The chance of success if the program is not right.
        level: The chance with so many steps to go and none of them wrong so far.
    """
    on_way = True
    for count, place in enumerate(turn.places[1:], start=1):
        if not on_way:
            yield Decision(place, 0.0, True)
            continue
        if count <= len(turn.words):
            begun = turn.words[:count]
            left = [len(program) - count for program in right if program[:count] == begun]
            on_way, after = bool(left), level(min(left, default=0))
        else:
            on_way, after = turn.words in right, 1.0
        after = after if on_way else wrong
        yield Decision(place, after - value, on_way)
        value = after


def fits_visible(program: Program, visible: str) -> bool:
    """Whether words are a program that passes all visible examples."""
    return is_program(program) and fits(program, examples_of(visible))


@lru_cache(maxsize=4096)
def right_programs(visible: str, hidden: str) -> frozenset[Program]:
    """All programs up to three steps that fit the visible and the hidden examples (columns of a row).

    The last step is only looked for once for each list that the steps before it make of the first input.
    """
    examples = [*examples_of(visible), *examples_of(hidden)]
    xs, output = examples[0]
    level: dict[tuple[int, ...], list[Program]] = {tuple(xs): [()]}
    found: list[Program] = []
    for _ in range(MAX_STEPS):
        deeper: dict[tuple[int, ...], list[Program]] = {}
        for value, prefixes in level.items():
            for name, primitive in PRIMITIVES.items():
                made = primitive.run(list(value))
                extended = [(*prefix, name) for prefix in prefixes]
                if made == output:
                    found += [program for program in extended if fits(program, examples)]
                if not primitive.gives_number:
                    deeper.setdefault(tuple(made), []).extend(extended)
        level = deeper
    return frozenset(found)
