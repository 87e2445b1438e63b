"""Numbers and relations as sympy has them, where math-verify's verdict would be too kind or too strict.

Its tolerances are absolute (1/2^60 would be 1/2^61, and 1e-7 a third of it), and it takes equations apart or solves
them (xy = 0 would be x = 0). Here numbers are compared by their own size, and relations by whether they are multiples
of each other. Two numbers are equal if their difference is 0 exactly or, where roots and the like allow no proof, to
more digits than what is written could hide; what would take too many counts as different.

Left out on purpose: everything else, which is math-verify's part.
"""

import random
import re
from collections.abc import Iterable

import sympy
from sympy import Expr, Float, MatrixBase, N, PolynomialError, Rational, Set, Symbol
from sympy.core.function import AppliedUndef
from sympy.core.relational import Equality, Relational, StrictGreaterThan, StrictLessThan, Unequality

from appo.rewards._quantities import ROUNDED_DIGITS, parse_quantity

Point = dict[Symbol, Rational]
# Of an expression that holds a long decimal, as 1.41421356x; a plain decimal has its last place.
_ROUNDING = Rational(5, 10**7)
_DIGITS = 60  # by which two quotients are told apart at first
_MAX_DIGITS = 100_000  # of the numbers in an exact comparison
_MAX_REAL_DIGITS = 10_000  # the same for roots, logarithms and the like
_NO_VALUE = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)


def equal_numbers(a: object, b: object, texts: tuple[str, str]) -> bool | None:
    """Whether two constants are equal, but for what `texts`, as they were written, round; None for anything else."""
    if not isinstance(a, Expr) or not isinstance(b, Expr) or any("%" in text for text in texts):
        return None
    difference = _difference(_exact(a), _exact(b))
    if difference is None:
        return None
    gap, size = difference
    return bool(gap <= max(_slack(text, size) for text in texts))


def apart(a: object, b: object) -> bool:
    """Whether two expressions or matrices differ by more than rounding for some values of their variables, or sets in
    where they begin and end."""
    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase):
        return a.shape != b.shape or any(apart(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, Set) and isinstance(b, Set):
        ends, right_ends = _ends(a), _ends(b)
        return len(ends) == len(right_ends) and any(apart(*pair) for pair in zip(ends, right_ends, strict=True))
    if not isinstance(a, Expr) or not isinstance(b, Expr):
        return False
    left, right = _exact(a), _exact(b)
    tolerance = _ROUNDING if a.has(Float) or b.has(Float) else 0
    points = _points(left.free_symbols | right.free_symbols, 2)
    found = [_difference(left.subs(point), right.subs(point)) for point in points]
    return any(gap > tolerance * size for gap, size in filter(None, found))


def same_relation(a: Relational, b: Relational) -> bool:
    """Whether two relations are multiples of each other, and so have the same solutions.

    Of equations in one variable, `x = 5` is not the same as an unsolved one, except `x - 5 = 0`.
    """
    (left, kind), (right, right_kind) = _residual(a), _residual(b)
    if kind != right_kind or not left.free_symbols or left.free_symbols != right.free_symbols:
        return False
    solved = len(left.free_symbols) == 1 and any(map(_is_solved, (a, b)))
    if solved and not all(_is_solved(one) or _is_monic(one) for one in (a, b)):
        return False
    ratio = _ratio(left, right)
    if kind in ("=", "!="):
        return ratio is not None or _same_zeros(left, right)
    return ratio is not None and bool(ratio > 0)


def _residual(relation: Relational) -> tuple[Expr, str]:
    """What is compared with 0, and how: by `=`, `!=`, `>` or `>=`."""
    if isinstance(relation, (Equality, Unequality)):
        return _exact(relation.lhs - relation.rhs), "=" if isinstance(relation, Equality) else "!="
    strict = isinstance(relation, (StrictGreaterThan, StrictLessThan))
    return _exact(relation.gts - relation.lts), ">" if strict else ">="


def _is_solved(relation: Relational) -> bool:
    sides = (_exact(relation.lhs), _exact(relation.rhs))
    return any(one.is_Symbol and not other.free_symbols for one, other in (sides, sides[::-1]))


def _is_monic(relation: Relational) -> bool:
    """`x - 5 = 0`: as good as solved."""
    residual, _ = _residual(relation)
    return 0 in (relation.lhs, relation.rhs) and all(residual.diff(x) in (1, -1) for x in residual.free_symbols)


def _ends(a: Set) -> list[Expr]:
    """The ends of a set's intervals and its single points, in order; none where that cannot be said."""
    try:
        ends = list(a.boundary) if isinstance(a.boundary, sympy.FiniteSet) else []
        return sorted(ends) if all(end.is_extended_real for end in ends) else []
    except (NotImplementedError, TypeError):
        return []


def _ratio(a: Expr, b: Expr) -> Expr | None:
    """a/b where it is the same real number at several points; else None."""
    ratios, values = [], []
    for point in _points(a.free_symbols | b.free_symbols, 5):
        exact = a.subs(point), b.subs(point)
        above, below = (N(value, _DIGITS) for value in exact)
        if above.is_finite and below.is_finite and below != 0:
            ratios.append(N(above / below, _DIGITS))
            values.append(exact)
    if len(ratios) < 3 or any(abs(ratio - ratios[0]) > abs(ratios[0]) / 10 ** (_DIGITS - 20) for ratio in ratios):
        return None
    crossed = [_difference(values[0][0] * below, values[0][1] * above) for above, below in values[1:]]
    if any(gap != 0 for gap, _ in filter(None, crossed)):
        return None
    real = sympy.re(ratios[0])
    return real if real != 0 else None


def _same_zeros(a: Expr, b: Expr) -> bool:
    """For fractions: multiples of each other above, and no zero above is one below, as in y = 2/x and xy = 2."""
    (above, below), (right, right_below) = (sympy.fraction(sympy.together(one)) for one in (a, b))
    if not below.free_symbols | right_below.free_symbols or _ratio(above, right) is None:
        return False
    return all(_never_both_zero(*pair) for pair in ((above, below), (right, right_below)))


def _never_both_zero(a: Expr, b: Expr) -> bool:
    if not b.free_symbols:
        return True
    try:
        return bool(sympy.groebner([a, b], *sorted(a.free_symbols | b.free_symbols, key=str)).exprs == [1])
    except PolynomialError:
        return False


def _points(symbols: Iterable[Symbol], count: int) -> list[Point]:
    """The same ones every time, of both signs and far from whatever is special."""
    numbers, names = random.Random(count), sorted(symbols, key=str)
    return [
        {x: Rational(numbers.choice((-1, 1)) * numbers.randint(100, 999), 331) for x in names} for _ in range(count)
    ]


def _exact(expression: Expr) -> Expr:
    """With decimals as the fractions that were written, and f(x) as a symbol."""
    calls = {call: Symbol(str(call)) for call in expression.atoms(AppliedUndef)}
    return expression.xreplace({**{number: Rational(str(number)) for number in expression.atoms(Float)}, **calls})


def _difference(a: Expr, b: Expr) -> tuple[Expr, Expr] | None:
    """|a - b|, infinite if undecided, and the larger of |a| and |b|; None if one of them is no number."""
    if (a.free_symbols | b.free_symbols) or a.has(*_NO_VALUE) or b.has(*_NO_VALUE):
        return None
    difference, left, right = (N(one, 20) for one in (a - b, a, b))
    if not all(value.is_number and value.is_finite for value in (difference, left, right)):
        return None
    if _is_exhausted(difference):
        difference = _long_difference(a, b)
    return N(abs(difference)), max(N(abs(left)), N(abs(right)))


def _long_difference(a: Expr, b: Expr) -> Expr:
    """a - b of two that are equal to a hundred digits: exact for fractions, else to as many digits as may matter."""
    digits = _digits_within(a) + _digits_within(b)
    if digits > _MAX_DIGITS:
        return sympy.oo
    difference = a.doit() - b.doit()
    if difference.is_Rational:
        return difference
    if digits > _MAX_REAL_DIGITS:
        return sympy.oo
    difference = difference.evalf(20, maxn=100 + 4 * digits)
    return sympy.Integer(0) if _is_exhausted(difference) else difference


def _is_exhausted(value: Expr) -> bool:
    """Whether no digit of it counts: sympy adds digits until one does, and gives up beyond a limit."""
    return value.has(Float) and all(part._prec == 1 for part in value.atoms(Float))


def _digits_within(a: Expr) -> int:
    """An upper bound of the digits, before or behind the point, of all numbers that a is made of."""
    logarithms = (sympy.log(abs(N(part, 5)), 10) for part in sympy.preorder_traversal(a) if part.is_number)
    return sum(int(min(abs(logarithm), _MAX_DIGITS)) + 1 for logarithm in logarithms if logarithm.is_finite)


def _slack(text: str, size: Expr) -> Expr:
    """How far a number may be from what is written: half of a long decimal's last place."""
    quantity = parse_quantity(text)
    if quantity is not None:
        place = quantity.last_place if quantity.digits >= ROUNDED_DIGITS else 0
        return Rational(place) / 2
    decimals = (match[0].replace(".", "").lstrip("0") for match in re.finditer(r"\d*\.\d+", text))
    return _ROUNDING * size if any(len(digits) >= ROUNDED_DIGITS for digits in decimals) else sympy.Integer(0)
