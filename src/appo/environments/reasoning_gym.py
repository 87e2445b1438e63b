"""Arithmetic and algebra of `reasoning-gym` for a small language model with a Python tool.

The model writes `<python>code</python>`, reads `<result>..</result>`, and ends with `<answer>42</answer>`. Seven
families that one line of Python solves; each answer is checked by the family's own verifier. The difficulty is meant
for SmolLM2-135M after a short cold start: what it has to learn is to call the tool always, to copy numbers exactly,
and to know the function (`math.lcm`, rounding, trying values).

A question's checksum decides whether it serves demonstrations (one in four) or datasets, so demonstrations and
evaluation share no question, whatever their seeds. Two datasets are kept apart by their seeds: a shared question is a
coincidence.

Try it: `python -c "from appo.environments.reasoning_gym import TASK; print(TASK.dataset(3, 0)['prompt'])"`.
Left out on purpose: the package's other families, and its partial credit: reward is 1 for a right answer, else 0.
"""

import itertools
import json
import math
import random
import re
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from datasets import Dataset

from appo.environments.base import Demonstration, Segment, Task
from appo.errors import MissingPackage
from appo.models.smollm2 import make_model
from appo.tools.python import python

try:
    import reasoning_gym
except ModuleNotFoundError:
    raise MissingPackage("The package reasoning-gym is missing: run `pip install 'appo[smollm2]'`.") from None

SYSTEM_PROMPT = (
    "Solve the problem. To run Python, write <python>code</python>; what it prints follows in <result></result>. "
    "End with the result alone in <answer></answer>."
)

# Operands stay short, so that the expression is copied in fewer than 60 tokens (SmolLM2 has one per digit).
FAMILIES: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 2, "max_digits": 4},
    "basic_arithmetic": {
        "min_terms": 2,
        "max_terms": 4,
        "min_digits": 2,
        "max_digits": 3,
        "operators": ("+", "-", "*"),
    },
    "products": {"min_digits": 2, "max_digits": 4},
    "decimal_chain_sum": {
        "min_terms": 2,
        "max_terms": 3,
        "min_digits": 1,
        "max_digits": 3,
        "min_decimal_places": 1,
        "max_decimal_places": 3,
    },
    "gcd": {"min_value": 10, "max_value": 2000},
    "lcm": {"min_value": 10, "max_value": 200},
    "simple_equations": {"min_terms": 2, "max_terms": 3, "max_value": 50},
}

# The demonstrations' flaws, for reinforcement to remove: guessing without a call, and misreading the result. Either
# way the answer has one wrong digit, and the rest of the demonstration is as always.
P_GUESS = 0.1
P_MISREAD = 0.08

_THOUGHTS = (
    "",
    "I will run Python.\n",
    "Let me compute this.\n",
    "I should not guess, so I run it.\n",
    "One line of Python solves this.\n",
    "First I copy the numbers, then I run the code.\n",
)
# The last answer: its opening tag is the last one before its closing tag.
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def dataset(size: int, seed: int) -> Dataset:
    """Rows with `prompt` (messages), `family`, `entry` (the package's own record, as JSON) and `answer`."""
    rows = [
        {"prompt": _prompt(entry), "family": family, "entry": json.dumps(entry), "answer": entry["answer"]}
        for family, entry in itertools.islice(_entries(seed, False), size)
    ]
    return Dataset.from_list(rows)


def demonstrations(size: int, seed: int) -> Iterator[Demonstration]:
    """`size` demonstrations; `P_GUESS` of them call no tool and `P_MISREAD` misread its result."""
    rng = random.Random(f"demonstrations {seed}")
    for family, entry in itertools.islice(_entries(seed, True), size):
        flaw = rng.random()
        thought = rng.choice(_THOUGHTS)
        program, result = solve(family, entry)
        answer = f"<answer>{result if flaw >= P_GUESS + P_MISREAD else _wrong_digit(result, rng)}</answer>"
        if flaw < P_GUESS:
            segments = [Segment(rng.choice(("", "I can do this in my head.\n")) + answer)]
        else:
            call = Segment(f"{thought}<python>\n{program}\n</python>")
            segments = [call, Segment(f"\n<result>\n{result}\n</result>\n", trained=False), Segment(answer)]
        yield Demonstration(_prompt(entry), segments)


def solve(family: str, entry: dict[str, Any]) -> tuple[str, str]:
    """A program for an entry and what it prints. Evaluated here, as thousands of runs in the sandbox take minutes."""
    expression = _expression(family, entry["metadata"])
    head = "import math\n" if expression.startswith("math.") else ""
    return f"{head}print({expression})", str(eval(expression, {"math": math}))


def accuracy_reward(completions: list[Any], family: list[str], entry: list[str], **kwargs: Any) -> list[float]:
    """1.0 where the family's verifier finds the last `<answer>` fully right; 0.0 elsewhere, also where there is none.

    Args:
        completions: Strings, or lists of messages, of which the assistant's last one counts.
        family: The family of each row.
        entry: The JSON of each row's entry.
        kwargs: The other columns, unused.
    """
    return [_score(_text(c), name, json.loads(e)) for c, name, e in zip(completions, family, entry, strict=True)]


def _score(text: str, family: str, entry: dict[str, Any]) -> float:
    answers = _ANSWER.findall(text)
    answer = answers[-1].strip() if answers else ""
    return float(bool(answer) and _verifier(family).score_answer(answer, entry) >= 1.0)


def _text(completion: str | list[dict[str, Any]]) -> str:
    if isinstance(completion, str):
        return completion
    texts = [message.get("content") for message in completion if message.get("role") == "assistant"]
    return (texts[-1] if texts else "") or ""


@cache
def _verifier(family: str) -> Any:
    return reasoning_gym.create_dataset(family, size=1, seed=0, **FAMILIES[family])


def _entries(seed: int, for_demonstrations: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Endless entries of one half of the questions."""
    rng = random.Random(f"reasoning-gym {seed}")
    # An entry's own seed is its dataset's plus its index, so neighbouring seeds would share nearly all entries.
    sources = {
        name: reasoning_gym.create_dataset(name, seed=rng.getrandbits(60), **options)
        for name, options in FAMILIES.items()
    }
    for index in itertools.count():
        family = rng.choice(list(FAMILIES))
        entry = sources[family][index]
        if (zlib.crc32(entry["question"].encode()) % 4 == 0) == for_demonstrations:
            yield family, entry


def _prompt(entry: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": entry["question"]}]


def _expression(family: str, metadata: dict[str, Any]) -> str:
    """Python for an entry's answer."""
    if family in ("gcd", "lcm"):
        return f"math.{family}({', '.join(map(str, metadata['numbers']))})"
    if family == "simple_equations":
        left, right = metadata["equation"].split(" = ")
        name = metadata["variable"]
        return f"next({name} for {name} in range(1, 101) if {left} == {right})"
    if family == "decimal_chain_sum":  # binary floats miss the exact sum by their rounding
        return f"round({metadata['expression']}, 4)"
    return metadata["expression"]


def _wrong_digit(number: str, rng: random.Random) -> str:
    position = rng.choice([i for i, character in enumerate(number) if character.isdigit()])
    digit = rng.choice([d for d in "0123456789" if d != number[position]])
    return number[:position] + digit + number[position + 1 :]


TASK = Task(
    dataset=dataset,
    reward_funcs=[accuracy_reward],
    tools=[python],
    demonstrations=demonstrations,
    make_model=make_model,
)
