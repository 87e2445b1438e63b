"""Whether two answers are mathematically the same, as a careful reader would say.

From cheap to dear: equal after normalisation; both numbers (exact fractions, units, percent); what equations and
inequalities say; both lists, tuples, intervals or sets (member by member, as math-verify takes `(1,2)` for
`\\{1,2\\}`); and at last math-verify, in a worker process with a hard limit. Prose, dates and names such as A17 are
compared as text only: math-verify would read 2020-01-02 as 2017, and A17 as the product 17A.

Left out on purpose: what docs/rewards.md lists as known misses.
Try it: `python -c "from appo.rewards import math_equal; print(math_equal('1/2', '0.5'))"`.
"""

import logging
import re
import time
from collections.abc import Sequence

from appo.rewards import _math_pool
from appo.rewards._lists import split_list
from appo.rewards._marks import joined_alike, marked_alike
from appo.rewards._normalise import bracket_depth, normalise
from appo.rewards._quantities import parse_quantity, parse_unit, same_quantity
from appo.rewards._statements import Statement, read_statement, told_name
from appo.rewards._times import parse_time

logger = logging.getLogger(__name__)

# Longer answers are compared as text. The longest in MATH has some 300 characters.
MAX_CHARS = 2000
_MAX_MEMBERS = 40
_MAX_DEPTH = 4
# Deeper brackets cost math-verify's parser seconds and then fail.
_MAX_BRACKETS = 30

_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|matrix|[pbvBV]matrix|infty|sqrt|mathbb|begin|end"
_WORD = re.compile(rf"(?<![A-Za-z\\])(?!(?:{_FUNCTIONS})(?![A-Za-z]))[A-Za-z]{{3,}}|[^\W\d_a-zA-Z]")
# Two letters beside a space are a word in "in 1889", though variables in x^2 + ab; only `is_math` asks.
_SHORT_WORD = re.compile(r"(?:^|\s)[A-Za-z]{2}\s|\s[A-Za-z]{2}(?:\s|$)")
_DATE = re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{2,4}|\d{1,2}:\d{2}(?::\d{2})?")
_LOOSE_SPACE = re.compile(r"(?<!\d) +| +(?!\d)")
# Letters and digits in one token: an order number, a seat. Numbers with a unit or an exponent are read before.
_NAME = re.compile(r"(?=\d*[A-Za-z])(?=[A-Za-z]*\d)[A-Za-z\d]+")
_LETTER_FIRST = re.compile(r"[A-Za-z]+\d[A-Za-z\d]*")
_TERM = re.compile(r"\d+[a-z]")
_CHOICE = re.compile(r"\(?([A-Za-z])\)?")
_TRAILING_UNIT = re.compile(
    r"(.*?\S)(\s*°[CF]?|\s(?:(?:square|cubic|sq|cu) )?[A-Za-z]+(?:\s*\^\s*\{?\d\}?)?(?:/[A-Za-z]+(?:\s*\^\{?\d\}?)?)?)"
)


class _Undecided(Exception):
    """The limit was reached: the answer counts as different."""


def math_equal(prediction: str | None, truth: str | None, *, timeout: float = 3.0) -> bool:
    """Whether the answers are mathematically equal. Callable from any thread.

    Args:
        prediction: The answer of a model, without its box; anything at all.
        truth: The reference.
        timeout: CPU seconds for one comparison by math-verify, and a fifth of the wall seconds after which a long list
            is given up. Positive.

    Returns:
        False also for a missing or empty answer, for one of more than 2,000 characters that is not literally equal,
        and where the limit was reached.

    Raises:
        ModuleNotFoundError: math-verify is not installed.
        ValueError: the timeout is not positive. Whatever the texts hold, they raise nothing.
    """
    if timeout <= 0:
        raise ValueError(f"timeout must be positive, got {timeout}.")
    if not prediction or not truth:
        return False
    if max(len(prediction), len(truth)) > MAX_CHARS:
        return " ".join(prediction.split()) == " ".join(truth.split())
    try:
        return _Comparison(timeout).equal(normalise(prediction), normalise(truth))
    except _Undecided:
        logger.debug("No verdict within %g seconds on %r and %r.", timeout, prediction, truth)
    except _math_pool.WorkerUnavailable as error:
        logger.error("%s Answers that need it count as different.", error)
    return False


def is_math(text: str) -> bool:
    """Whether a text is an answer for `math_equal` rather than for F1: a number, a list of such or a formula.

    Letters and digits in one token are a name (A17, 12a), and so is 2x, which cannot be told from it (`are_math`).
    """
    if len(text) > MAX_CHARS or is_name(text):
        return False
    normal = normalise(text)
    if parse_quantity(normal) is not None:
        return True
    if all(is_name(part) for part in re.split(r"[,;]", normal)):
        return False
    formula = re.sub(r"\b(?:and|or)\b", ",", normal)
    prose = _is_text(formula) or _SHORT_WORD.search(formula) is not None
    return re.search(r"[\d\\=<>^]", formula) is not None and not prose


def are_math(texts: Sequence[str]) -> bool:
    """Whether all of a data set's answers are mathematics. A term such as 2x is, where another answer is for sure."""
    unclear = [text for text in texts if not is_math(text)]
    return len(unclear) < len(texts) and all(_TERM.fullmatch(normalise(text)) for text in unclear)


def is_name(text: str) -> bool:
    """Whether a text is letters and digits in one token, as in A17, 17A or 2x; 5km and 2e3 are numbers."""
    if len(text) > MAX_CHARS:
        return False
    normal = normalise(text)
    return _names(normal) and (_LETTER_FIRST.fullmatch(normal) is not None or parse_quantity(normal) is None)


def _names(*normals: str) -> bool:
    return all(map(_NAME.fullmatch, normals))


def _is_text(normal: str) -> bool:
    return _DATE.fullmatch(normal) is not None or parse_time(normal) is not None or _WORD.search(normal) is not None


class _Comparison:
    """One call's comparisons, which share its limits. Texts are normalised."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.deadline = time.monotonic() + 5 * timeout

    def equal(self, prediction: str, truth: str, depth: int = 0) -> bool:
        if not prediction or not truth:
            return False
        # A space between digits parts a mixed number, or two numbers.
        if _LOOSE_SPACE.sub("", prediction) == _LOOSE_SPACE.sub("", truth):
            return True
        choice, right_choice = _CHOICE.fullmatch(prediction), _CHOICE.fullmatch(truth)
        if choice and right_choice:
            return choice[1] == right_choice[1]
        time_of_day, right_time = parse_time(prediction), parse_time(truth)
        if time_of_day or right_time:
            return time_of_day == right_time
        if not joined_alike(prediction, truth):
            return False
        if _DATE.fullmatch(prediction) or _DATE.fullmatch(truth):
            return False
        if _LETTER_FIRST.fullmatch(prediction) or _LETTER_FIRST.fullmatch(truth):
            return prediction.casefold() == truth.casefold()
        quantity, right_quantity = parse_quantity(prediction), parse_quantity(truth)
        if quantity and right_quantity:
            return same_quantity(quantity, right_quantity)
        if _names(prediction, truth):
            return prediction.casefold() == truth.casefold()
        if depth < _MAX_DEPTH:
            statement, right_statement = self._statement(prediction, depth), self._statement(truth, depth)
            if statement or right_statement:
                return self._equal_statements(
                    statement or Statement(value=prediction), right_statement or Statement(value=truth), depth
                )
        members, right_members = split_list(prediction), split_list(truth)
        if members and right_members and depth < _MAX_DEPTH:
            return self._equal_lists(*members, *right_members, depth)
        if (members and not members[0]) or (right_members and not right_members[0]):
            return False  # several in a row are not one expression
        return self._equal_expressions(prediction, truth)

    def _statement(self, text: str, depth: int) -> Statement | None:
        return read_statement(text, lambda one, other: self.equal(one, other, depth + 1))

    def _equal_statements(self, left: Statement, right: Statement, depth: int) -> bool:
        """Of two that are about the same, what they say; else whether the one relation is the other."""
        named_alike = left.name == right.name or not (left.name and right.name)
        if left.value is not None and right.value is not None and named_alike:
            return self.equal(left.value, right.value, depth + 1)
        if not left.relation or not right.relation:
            return False
        if len(left.sides) > 2 or len(right.sides) > 2:
            pairs = zip(left.sides, right.sides, strict=False)
            return len(left.sides) == len(right.sides) and all(self.equal(*pair, depth + 1) for pair in pairs)
        return self._equal_expressions(left.relation, right.relation)

    def _equal_lists(self, kind: str, members: list[str], right_kind: str, right: list[str], depth: int) -> bool:
        if len(members) != len(right) or len(members) > _MAX_MEMBERS:
            return False
        kinds = {kind, right_kind}
        names, right_names = ({told_name(member) for member in side} - {""} for side in (members, right))
        # Values of several names, as in a = 1, b = 2, have the names' order where the other side does without.
        in_order = names != right_names and max(len(names), len(right_names)) > 1
        if in_order and "{}" in kinds:
            return False
        if kinds <= {"", "{}"} and not in_order:
            left = list(right)
            for member in members:
                match = next((other for other in left if self.equal(member, other, depth + 1)), None)
                if match is None:
                    return False
                left.remove(match)
            return True
        # A row may stand for a tuple. Of two members, (1,2) and [1,2] are different intervals; of more, one vector.
        if len(kinds) == 2 and "" not in kinds and (kinds != {"()", "[]"} or len(members) == 2):
            return False
        return all(self.equal(one, other, depth + 1) for one, other in zip(members, right, strict=True))

    def _equal_expressions(self, prediction: str, truth: str) -> bool:
        whole = prediction, truth
        (prediction, unit), (truth, right_unit) = _split_unit(prediction), _split_unit(truth)
        if unit and right_unit and unit != right_unit:
            return False
        if _is_text(prediction) or _is_text(truth):
            return prediction.casefold() == truth.casefold()
        if not marked_alike(*whole):
            return False
        if max(map(bracket_depth, (prediction, truth))) > _MAX_BRACKETS:
            return False
        if time.monotonic() > self.deadline:
            raise _Undecided
        # Degrees mean something only beside radians; elsewhere 30° and 30 are the same answer.
        if unit == "°" and "\\pi" in truth:
            prediction = f"({prediction})*\\pi/180"
        elif right_unit == "°" and "\\pi" in prediction:
            truth = f"({truth})*\\pi/180"
        verdict = _math_pool.verify(prediction.replace("°", "^\\circ"), truth.replace("°", "^\\circ"), self.timeout)
        if verdict is None:
            raise _Undecided
        return verdict


def _split_unit(text: str) -> tuple[str, str]:
    match = _TRAILING_UNIT.fullmatch(text)
    if match is None or _is_text(match[1]):  # vitamin C
        return text, ""
    unit = parse_unit(match[2])
    return (match[1], unit) if unit else (text, "")
