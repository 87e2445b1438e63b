r"""What equations and inequalities say: `x = 5` and `2 < x < 5` tell the value of x, `x + y = 5` relates x and y.

A value is told of a name only: `x`, `a_n`, `f(x)`, `AB`, `(x,y)`, `A \cap B`. So 8 is not what `2x = 8` says, nor what
`3 + 4 = 8` does; 7 is what `3 + 4 = 7` says. An inequality tells its solutions where its variable stands alone between
constants. Left out on purpose: solving; whoever answers with the unsolved equation of the question has not answered.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from appo.rewards._lists import split_list, split_outside

_LETTER = r"(?:[A-Za-z]|\\[A-Za-z]+ ?)(?:\s*\\?_\s*(?:\w|\{[^{}]*\}))?'*"
_ARGUMENTS = rf"{_LETTER}\s*\(\s*(?:[A-Za-z]|-?\d+)(?:\s*,\s*(?:[A-Za-z]|-?\d+))*\s*\)"
_FUNCTION = rf"[fghFGHPE](?:_\w)?'*(?:\s*\^\s*\{{\s*-1\s*\}})?\s*\([^()]*\)|{_ARGUMENTS}"
_SETS = r"[A-Z](?:\s*\\(?:cap|cup|setminus)\s*[A-Z])+"
_TUPLE = rf"\(\s*{_LETTER}(?:\s*,\s*{_LETTER})+\s*\)"
_NAME = re.compile(
    rf"{_LETTER}|[A-Z]{{2}}|(?:m\s*)?\\angle\s*[A-Z\d]{{1,3}}|\\overline\s*\{{\s*[A-Z]{{2}}\s*\}}|{_FUNCTION}|{_SETS}|{_TUPLE}"
)
_SIGN = r"[<>=]|\\(?:le|ge|ne|in)(?![A-Za-z])"
_BUILDER = re.compile(
    r"\\\{\s*([A-Za-z])(?:\s*\\in\s*\\mathbb\{R\})?\s*(?:\\?\||:|\\mid(?![A-Za-z])|\\vert(?![A-Za-z]))(.*)\\\}"
)
# What may stand in a constant.
_CONSTANTS = re.compile(
    r"\\(?:frac|sqrt|pi|infty|ln|log|sin|cos|tan|cot|arcsin|arccos|arctan|binom|circ)(?![A-Za-z])|"
    r"(?<![A-Za-z])e(?![A-Za-z])"
)

_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne", "=": "="}
# Of a variable, a sign and a bound B.
_ONE_SIDED = {
    "<": "(-\\infty,B)",
    "\\le": "(-\\infty,B]",
    ">": "(B,\\infty)",
    "\\ge": "[B,\\infty)",
    "\\ne": "\\mathbb{R}\\setminus\\{B\\}",
    "=": "\\{B\\}",
}


@dataclass(frozen=True)
class Statement:
    """An equation, an inequality or a membership; or, of a `value` alone, an expression.

    `name` is what `value` is told of, "" for a true statement of constants and for sets; `value` is None where nothing
    is told. `relation` is the text of equations and of inequalities that are not solved, `sides` are an equation's.
    """

    value: str | None = None
    name: str = ""
    relation: str = ""
    sides: tuple[str, ...] = ()


def read_statement(text: str, same: Callable[[str, str], bool]) -> Statement | None:
    """What a normalised text says; None for expressions, words, and several statements in a row.

    Args:
        same: Whether two texts are equal, for chains such as `x = 2 + 3 = 5`.
    """
    if "\\begin" in text or re.search(rf"{_SIGN}|\\mid|\|", text) is None:
        return None
    if (found := solution_set(text)) is not None:
        return Statement(found[1], found[0])
    pieces = split_outside(text, _SIGN)
    sides, signs = pieces[::2], set(pieces[1::2])
    if not signs or not all(sides) or _in_a_row(text):
        return None
    if signs == {"="}:
        return _equation(text, sides, same)
    if signs == {"\\in"} and len(sides) == 2 and is_name(sides[0]):
        return Statement(sides[1], _bare(sides[0]))
    return Statement(relation=text)


def solution_set(text: str) -> tuple[str, str] | None:
    """The variable (none for a set) and the solutions, as a set in LaTeX, of an inequality that is solved.

    One or several, joined by or, or by and: `x < 2 or x > 5` is `(-\\infty,2)\\cup(5,\\infty)`.
    """
    if match := _BUILDER.fullmatch(text):
        inner = solution_set(match[2].strip())
        return ("", inner[1]) if inner is not None and inner[0] == match[1] else None
    pieces = split_outside(text, r"\s(?:and|or)\s")
    parts, words = [_interval(piece) for piece in pieces[::2]], set(pieces[1::2])
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len({name for name, _ in found}) > 1 or len(words) > 1:
        return None
    if all(value.startswith("\\{") for _, value in found):
        return None  # equations
    values = [value for _, value in found]
    return found[0][0], "\\cap".join(f"({value})" for value in values) if "and" in words else "\\cup".join(values)


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def told_name(text: str) -> str:
    """The name on one side of an equation, an inequality or a membership; "" where there is none."""
    sides = split_outside(text, _SIGN)[::2]
    return next((_bare(side) for side in (sides[0], sides[-1]) if len(sides) > 1 and is_name(side)), "")


def _bare(name: str) -> str:
    return name.replace(" ", "")


def _in_a_row(text: str) -> bool:
    """Several statements in a row, `x = 1, y = 2`, and not one with several values, `x = 1, 2`."""
    members = split_list(text)
    return members is not None and members[0] == "" and any(re.search(_SIGN, member) for member in members[1][1:])


def _equation(text: str, sides: list[str], same: Callable[[str, str], bool]) -> Statement:
    chain, name = sides, ""
    if is_name(sides[0]):
        chain, name = sides[1:], _bare(sides[0])
    elif len(sides) == 2 and is_name(sides[1]):
        chain, name = sides[:1], _bare(sides[1])
    told = name != "" or all(map(_is_constant, chain))
    consistent = told and all(same(one, other) for one, other in itertools.pairwise(chain))
    return Statement(chain[-1] if consistent else None, name, text, tuple(sides))


def _interval(text: str) -> tuple[str, str] | None:
    """`x` and its interval of `x < 2`, `2 \\le x < 5`, `x \\ne 2` or `x = 2`, with constant bounds."""
    pieces = split_outside(text, _SIGN)
    sides, signs = pieces[::2], pieces[1::2]
    if len(sides) == 2 and is_name(sides[1]) and not is_name(sides[0]):
        sides, signs = sides[::-1], [_MIRRORED.get(signs[0], "")]
    elif len(sides) == 3 and signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], [_MIRRORED.get(sign, "") for sign in signs[::-1]]
    if len(sides) == 2 and is_name(sides[0]) and signs[0] in _ONE_SIDED:
        bounds = sides[1].split(",") if signs == ["\\ne"] else sides[1:]  # x \ne 2, 3
        return (
            (_bare(sides[0]), _ONE_SIDED[signs[0]].replace("B", sides[1])) if all(map(_is_constant, bounds)) else None
        )
    if len(sides) == 3 and is_name(sides[1]) and _is_constant(sides[0]) and _is_constant(sides[2]):
        if not set(signs) <= {"<", "\\le"}:
            return None
        opening = "(" if signs[0] == "<" or "\\infty" in sides[0] else "["
        closing = ")" if signs[1] == "<" or "\\infty" in sides[2] else "]"
        return _bare(sides[1]), f"{opening}{sides[0]},{sides[2]}{closing}"
    return None


def _is_constant(text: str) -> bool:
    return bool(text) and re.search(r"[A-Za-z,]", _CONSTANTS.sub("", text)) is None
