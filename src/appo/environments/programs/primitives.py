"""The words of the hidden programs: forty steps over lists of small natural numbers, and how a program is run.

    run(["reverse", "double", "sum"], [1, 2, 3])    12
    expression(["reverse", "double", "sum"])        "sum(double(reverse(xs)))"

Every step takes a list. Those that give a number can only be a program's last. A step gives something for every list
of natural numbers (the largest number of an empty list is 0), so that two programs can be compared anywhere.

Left out on purpose: steps with arguments, since one word per step keeps programs short.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

Value = list[int] | int

MAX_STEPS = 3


@dataclass(frozen=True)
class Primitive:
    """A step.

    Args:
        name: Its word.
        run: The function.
        python: The same in Python over `xs`, for lists that are not empty; it may use `accumulate` and `pairwise`.
        gives_number: Whether it ends a program.
    """

    name: str
    run: Callable[[list[int]], Any]
    python: str
    gives_number: bool = False


_ALL = [
    Primitive("reverse", lambda xs: xs[::-1], "xs[::-1]"),
    Primitive("sort", sorted, "sorted(xs)"),
    Primitive("descend", lambda xs: sorted(xs, reverse=True), "sorted(xs, reverse=True)"),
    Primitive("unique", lambda xs: list(dict.fromkeys(xs)), "list(dict.fromkeys(xs))"),
    Primitive("evens", lambda xs: [x for x in xs if x % 2 == 0], "[x for x in xs if x % 2 == 0]"),
    Primitive("odds", lambda xs: [x for x in xs if x % 2 == 1], "[x for x in xs if x % 2 == 1]"),
    Primitive("big", lambda xs: [x for x in xs if x > 4], "[x for x in xs if x > 4]"),
    Primitive("small", lambda xs: [x for x in xs if x < 5], "[x for x in xs if x < 5]"),
    Primitive("double", lambda xs: [2 * x for x in xs], "[2 * x for x in xs]"),
    Primitive("triple", lambda xs: [3 * x for x in xs], "[3 * x for x in xs]"),
    Primitive("halve", lambda xs: [x // 2 for x in xs], "[x // 2 for x in xs]"),
    Primitive("add1", lambda xs: [x + 1 for x in xs], "[x + 1 for x in xs]"),
    Primitive("add2", lambda xs: [x + 2 for x in xs], "[x + 2 for x in xs]"),
    Primitive("add3", lambda xs: [x + 3 for x in xs], "[x + 3 for x in xs]"),
    Primitive("less1", lambda xs: [max(x - 1, 0) for x in xs], "[max(x - 1, 0) for x in xs]"),
    Primitive("cap5", lambda xs: [min(x, 5) for x in xs], "[min(x, 5) for x in xs]"),
    Primitive("mod2", lambda xs: [x % 2 for x in xs], "[x % 2 for x in xs]"),
    Primitive("mod3", lambda xs: [x % 3 for x in xs], "[x % 3 for x in xs]"),
    Primitive("drop1", lambda xs: xs[1:], "xs[1:]"),
    Primitive("drop2", lambda xs: xs[2:], "xs[2:]"),
    Primitive("droplast", lambda xs: xs[:-1], "xs[:-1]"),
    Primitive("take2", lambda xs: xs[:2], "xs[:2]"),
    Primitive("take3", lambda xs: xs[:3], "xs[:3]"),
    Primitive("last2", lambda xs: xs[-2:], "xs[-2:]"),
    Primitive("alternate", lambda xs: xs[::2], "xs[::2]"),
    Primitive("seconds", lambda xs: xs[1::2], "xs[1::2]"),
    Primitive("rotate", lambda xs: xs[1:] + xs[:1], "xs[1:] + xs[:1]"),
    Primitive("repeat", lambda xs: xs * 2, "xs * 2"),
    Primitive("mirror", lambda xs: xs + xs[::-1], "xs + xs[::-1]"),
    Primitive("totals", lambda xs: list(accumulate(xs)), "list(accumulate(xs))"),
    Primitive("gaps", lambda xs: [abs(a - b) for a, b in pairwise(xs)], "[abs(a - b) for a, b in pairwise(xs)]"),
    Primitive("addindex", lambda xs: [i + x for i, x in enumerate(xs)], "[i + x for i, x in enumerate(xs)]"),
    Primitive("sum", sum, "sum(xs)", True),
    Primitive("max", lambda xs: max(xs, default=0), "max(xs)", True),
    Primitive("min", lambda xs: min(xs, default=0), "min(xs)", True),
    Primitive("length", len, "len(xs)", True),
    Primitive("first", lambda xs: xs[0] if xs else 0, "xs[0]", True),
    Primitive("last", lambda xs: xs[-1] if xs else 0, "xs[-1]", True),
    Primitive("spread", lambda xs: max(xs) - min(xs) if xs else 0, "max(xs) - min(xs)", True),
    Primitive("kinds", lambda xs: len(set(xs)), "len(set(xs))", True),
]
PRIMITIVES = {primitive.name: primitive for primitive in _ALL}
_RUN = {primitive.name: primitive.run for primitive in _ALL}


def is_program(words: Sequence[str]) -> bool:
    """Whether the words are a program: one to three steps, of which only the last may give a number."""
    known = 0 < len(words) <= MAX_STEPS and all(word in PRIMITIVES for word in words)
    return known and not any(PRIMITIVES[word].gives_number for word in words[:-1])


def run(program: Sequence[str], xs: list[int]) -> Value:
    """What a program gives for a list, which is left as it is."""
    value: Any = xs
    for word in program:
        value = _RUN[word](value)
    return value


def trace(program: Sequence[str], xs: list[int]) -> list[Any]:
    """The list and what each step made of it."""
    values: list[Any] = [xs]
    for word in program:
        values.append(PRIMITIVES[word].run(values[-1]))
    return values


def expression(program: Sequence[str]) -> str:
    """A program as one Python expression over `xs`: steps are functions, one inside of the other."""
    text = "xs"
    for word in program:
        text = f"{word}({text})"
    return text


def python_names() -> dict[str, str]:
    """The source of each step's function, for names that Python does not have already."""
    return {name: f"lambda xs: {one.python}" for name, one in PRIMITIVES.items() if name != one.python.split("(")[0]}
