"""Questions: a hidden program, steps to choose from, the examples that the agent sees, and those that decide.

A row has `offered` (steps; those of the program are among them), `visible` and `hidden` (examples as JSON, an input
and an output each: `[[[3, 1, 2], [2, 1, 3]], ..]`), and `program`, the words that made them. What passes the visible
examples passes the hidden ones: that holds for every program up to two steps (and no deeper than the question's), and
for every arrangement of the offered steps. Only a deeper program of other steps may pass by mistake.

Left out on purpose: how a question is told (`words.py`, `chat.py`).
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

from appo.environments.programs.catalogue import Program, catalogue, draw_input, is_proper, programs
from appo.environments.programs.primitives import MAX_STEPS, PRIMITIVES, is_program, run

Example = tuple[list[int], Any]

VISIBLE = 3
HIDDEN = 10
_DRAWS = 200  # inputs that are tried for a question's examples
_TRIES = 8  # choices of examples, before another program is taken


@dataclass(frozen=True)
class Question:
    """A hidden program, the steps that are offered, and examples: an input and an output (a list or a number) each.

    `depth` is the most steps that a program of this task has.
    """

    program: Program
    offered: tuple[str, ...]
    visible: list[Example]
    hidden: list[Example]
    depth: int

    def row(self) -> dict[str, Any]:
        """Its columns but the prompt."""
        return {
            "program": " ".join(self.program),
            "steps": len(self.program),
            "offered": " ".join(self.offered),
            "visible": json.dumps(self.visible),
            "hidden": json.dumps(self.hidden),
        }

    def arrangements(self, most: int | None = None) -> list[Program]:
        """Programs made of the offered steps, each at most once, that give a number where the hidden one does.

        Args:
            most: How many steps they may have; None for the task's depth.
        """
        ends = PRIMITIVES[self.program[-1]].gives_number
        found = (p for length in range(1, (most or self.depth) + 1) for p in permutations(self.offered, length))
        return [p for p in found if is_program(p) and PRIMITIVES[p[-1]].gives_number == ends]


def questions(rng: random.Random, depth: Sequence[int], offered: int, held_out: bool) -> Iterator[Question]:
    """Endless questions whose programs have least depths of this range (both ends included), each as often.

    Args:
        rng: Where they come from.
        depth: Fewest and most steps of a program.
        offered: How many steps each question offers; those of the program come on top where it has more.
        held_out: Whether programs for evaluation are asked for, or those for training.
    """
    least, most = depth
    while True:
        program = rng.choice(programs(rng.randint(least, most), held_out))
        question = _ask(program, most, offered, rng)
        if question is not None:
            yield question


def _ask(program: Program, depth: int, offered: int, rng: random.Random) -> Question | None:
    """Examples for a program; None where the visible ones would not tell it from others."""
    steps = _offer(program, offered, rng)
    for _ in range(_TRIES):
        inputs: list[list[int]] = []
        for _ in range(_DRAWS):
            xs = draw_input(rng)
            if xs not in inputs and is_proper(program, xs):
                inputs.append(xs)
                if len(inputs) == VISIBLE + HIDDEN:
                    break
        else:
            return None
        examples = [(xs, run(program, xs)) for xs in inputs]
        question = Question(program, steps, examples[:VISIBLE], examples[VISIBLE:], depth)
        if all(fits(other, question.hidden) for other in rivals(question)):
            return question
    return None


def _offer(program: Program, count: int, rng: random.Random) -> tuple[str, ...]:
    """The program's steps and others in any order; where the program gives a number, another step that does."""
    steps = list(dict.fromkeys(program))
    by_kind = {
        kind: [name for name, one in PRIMITIVES.items() if one.gives_number == kind and name not in steps]
        for kind in (True, False)
    }
    kinds = [PRIMITIVES[program[-1]].gives_number] + [False] * count
    for kind in kinds[: max(0, count - len(steps))]:
        steps.append(rng.choice([name for name in by_kind[kind] if name not in steps]))
    rng.shuffle(steps)
    return tuple(steps)


def rivals(question: Question) -> list[Program]:
    """Programs that fit the visible examples: arrangements, and those up to two steps, no deeper than the hidden."""
    known = [*shallow(min(2, len(question.program))), *question.arrangements(MAX_STEPS)]
    return [program for program in known if fits(program, question.visible)]


@cache
def shallow(depth: int) -> list[Program]:
    """All programs up to a depth, one spelling each."""
    return list(catalogue(depth).values())


def fits(program: Sequence[str], examples: Sequence[Example]) -> bool:
    """Whether a program gives the output of every example."""
    return all(run(program, xs) == output for xs, output in examples)


def examples_of(text: str) -> list[Example]:
    """The examples of a row's column, `visible` or `hidden`."""
    return [(xs, output) for xs, output in json.loads(text)]
