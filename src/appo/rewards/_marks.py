"""Small signs that math-verify drops and a reader does not: primes, transposes, degrees in a sine, and against or.

Two spellings in which they differ are different answers. That may miss a right one, `(AB)^T` for `B^T A^T`, and takes
no wrong one. Left out on purpose: what such signs mean.
"""

import re

_BASE = r"(?:\\[A-Za-z]+ ?|[A-Za-z]|[\d.]+|[)\]}])(?:\s*_\s*(?:\w|\{[^{}]*\}))?"
_PRIMES = re.compile(rf"({_BASE})\s*(['\"]+)")
_TRANSPOSES = re.compile(rf"({_BASE})\s*\^\s*(?:T|\{{\s*T\s*\}})")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\w+)[\s)}]*°")
_CONNECTIVES = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])")


def marked_alike(one: str, other: str) -> bool:
    """Whether the same names and numbers of two normalised formulas have primes, transposes and, within sines and
    their like, degrees."""
    if _marks(one) != _marks(other):
        return False
    trigonometric = all(map(_TRIGONOMETRIC.search, (one, other)))
    return not trigonometric or set(_DEGREES.findall(one)) == set(_DEGREES.findall(other))


def joined_alike(one: str, other: str) -> bool:
    """Whether and stands for and, and or for or, where both texts have such words: `1 and 2` may be `1, 2`."""
    words, right = _connectives(one), _connectives(other)
    return not words or not right or words == right


def _marks(text: str) -> set[tuple[str, str | int]]:
    primes = {(_bare(base), len(marks.replace('"', "''"))) for base, marks in _PRIMES.findall(text)}
    return primes | {(_bare(base), "T") for base in _TRANSPOSES.findall(text)}


def _bare(base: str) -> str:
    return re.sub(r"[\s{}]", "", base) or "}"


def _connectives(text: str) -> list[str]:
    """In their order, and once where one joins several in a row: `1, 2 and 3` may be `1 and 2 and 3`."""
    words: list[str] = _CONNECTIVES.findall(text)
    return [word for index, word in enumerate(words) if words[index - 1 : index] != [word]]
