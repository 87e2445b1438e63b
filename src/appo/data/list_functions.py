"""`list_functions` of reasoning-gym: four or so examples of a function on lists of numbers, and its value on a fifth.

    rows = list_functions_rows()         # the same 200 questions, everywhere
    last_list("so it is [1,2]")          # "[1, 2]"
    is_right("[1, 2]", rows[0])          # by the package's own verifier

Try it: `python -c "from appo.data.list_functions import *; print(list_functions_rows()[0].question)"`.
Left out on purpose: the verifier's partial credit for a right answer among other words; `last_list` reads the answer.
"""

import random
import re
from functools import cache
from typing import Any

from appo.data.benchmarks import BenchmarkRow
from appo.errors import MissingPackage

NAME = "list_functions"
SIZE, SEED = 200, 0  # fixed, so that figures can be compared
_LIST = re.compile(r"\[\s*(?:-?\d+\s*(?:,\s*-?\d+\s*)*,?\s*)?\]")


def list_functions_rows() -> list[BenchmarkRow]:
    """The questions; `extra["entry"]` is the package's own record. Global random numbers are left as they were.

    Raises:
        MissingPackage: where `reasoning-gym` is not installed.
    """
    rows = []
    state = random.getstate()
    try:
        for number in range(SIZE):
            random.seed(f"{NAME} {SEED} {number}")  # one of the package's families draws from here, not from its seed
            entry = _questions()[number]
            rows.append(
                BenchmarkRow(
                    f"{NAME}-{number}", entry["question"].strip(), [entry["answer"]], "verifier", {"entry": entry}
                )
            )
    finally:
        random.setstate(state)
    return rows


def last_list(text: str) -> str | None:
    """The last list of whole numbers in a text, written as Python writes it; None where there is none.

    One with a number of more digits than Python reads (4,300), which is no answer to any question, is left as it is.
    """
    found = _LIST.findall(text)
    if not found:
        return None
    try:
        return str([int(number) for number in re.findall(r"-?\d+", found[-1])])
    except ValueError:
        return found[-1]


def is_right(answer: str | None, row: BenchmarkRow) -> bool:
    """Whether the package's verifier gives an answer its full score."""
    return answer is not None and _questions().score_answer(answer, row.extra["entry"]) >= 1.0


@cache
def _questions() -> Any:
    try:
        import reasoning_gym
    except ModuleNotFoundError:
        raise MissingPackage("The package reasoning-gym is missing: run `pip install 'appo[smollm2]'`.") from None
    return reasoning_gym.create_dataset(NAME, size=SIZE, seed=SEED)
