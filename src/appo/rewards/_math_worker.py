"""What a process does that runs math-verify: it limits itself, then compares.

math-verify bounds its time by SIGALRM, which works in a main thread only and never interrupts a long operation in C
(`9**9**9`). Here the kernel bounds it: ITIMER_PROF counts the request's CPU seconds, so that a busy machine changes no
verdict, and SIGPROF's default action ends the process wherever it is. The pool then starts another. So is its memory.

Left out on purpose: everything but the comparison (`_normalise.py`, `equality.py`), and how processes are started and
asked (`_math_pool.py`).
"""

import logging
import resource
import signal

from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify
from sympy import Expr, Set
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean, BooleanAtom

from appo.rewards._math_compare import apart, equal_numbers, same_relation

MEMORY_BYTES = 2 << 30
# Boxes, units and percent signs are dealt with before; math-verify would take the t of `5t` for a unit.
_NORMALIZATION = LatexNormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_CONFIG = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_NORMALIZATION)]


def compare(prediction: str, truth: str) -> bool:
    """Whether two LaTeX expressions are mathematically the same. Text that math-verify cannot parse equals nothing."""
    # Without the fall-back, which would compare what it could not parse as text.
    found = [
        parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None) for text in (truth, prediction)
    ]
    if not all(found):
        return False
    # Sets as such: an intersection that is not carried out equals nothing.
    gold, answer = (
        expressions[0].doit() if isinstance(expressions[0], Set) else expressions[0] for expressions in found
    )
    if isinstance(gold, Relational) and isinstance(answer, Relational) and _of_expressions(gold, answer):
        return same_relation(gold, answer)
    if isinstance(gold, Boolean) != isinstance(answer, Boolean) or isinstance(gold, BooleanAtom):
        return False  # a relation and a value; what sympy found true or false
    verdict = equal_numbers(gold, answer, (truth, prediction))
    if verdict is None:
        verdict = bool(verify(gold, answer, timeout_seconds=None)) and not apart(gold, answer)
    return verdict


def _of_expressions(*relations: Relational) -> bool:
    """As opposed to relations of sets and tuples."""
    return all(isinstance(side, Expr) for relation in relations for side in relation.args)


def start() -> None:
    """Limits this process for good: its memory, and what it says."""
    logging.disable()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def answer(prediction: str, truth: str, seconds: float) -> bool:
    """`compare` within so many CPU seconds, beyond which this process ends; what fails is different."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return compare(prediction, truth)
    except Exception:
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
