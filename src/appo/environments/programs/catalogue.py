"""Every program up to three steps, once for each behaviour, at its least depth; and which of them are held out.

Two spellings of one function (`sort reverse` and `descend`) are one program: they agree on `PROBES`, a fixed set of
lists such as examples have, and only such: `take3` and `repeat take3` differ on shorter ones, which nobody ever sees.
The checksum of that behaviour decides whether the program serves training (with its demonstrations) or evaluation, so
that nothing that an evaluation asks for was ever trained on, in whatever spelling.

    len(programs(2, held_out=False))

Left out on purpose: proofs that two programs are equal; those that differ on none of the probes are taken to be.
"""

import random
import zlib
from collections.abc import Iterator
from functools import cache

from appo.environments.programs.primitives import PRIMITIVES, Value, trace

Program = tuple[str, ...]

MAX_NUMBER = 20  # the largest number of an example, on the way too
MAX_LENGTH = 10  # the longest list of an example
HELD_OUT_IN = 5  # every fifth program is for evaluation


def draw_input(rng: random.Random) -> list[int]:
    """A list to try a program on: 3 to 5 numbers below 10, often with a number twice."""
    xs = [rng.randrange(10) for _ in range(rng.randint(3, 5))]
    if rng.random() < 0.4:
        xs[rng.randrange(len(xs))] = xs[rng.randrange(len(xs))]
    return xs


_rng = random.Random("probes of the programs")
PROBES = [draw_input(_rng) for _ in range(32)]


def is_proper(program: Program, xs: list[int]) -> bool:
    """Whether a list can be an example of a program: no list on the way is empty or long, and no number large."""
    for value in trace(program, xs):
        numbers = value if isinstance(value, list) else [value]
        if not 0 < len(numbers) <= MAX_LENGTH or max(numbers) > MAX_NUMBER:
            return False
    return True


@cache
def catalogue(depth: int) -> dict[tuple[Value, ...], Program]:
    """Behaviours on the probes (lists as tuples) and the first program that shows each, up to a depth.

    Identity is left out: it is no step's behaviour but of pairs such as `reverse reverse`.
    """
    found: dict[tuple[Value, ...], Program] = {}
    identity = tuple(_key(xs) for xs in PROBES)
    for program, values in _spelled(depth):
        behaviour = tuple(_key(value) for value in values)
        if behaviour != identity:
            found.setdefault(behaviour, program)
    return found


def _spelled(depth: int) -> Iterator[tuple[Program, list[Value]]]:
    """Programs and their values on the probes, the shallow ones first."""
    level: list[tuple[Program, list[list[int]]]] = [((), PROBES)]
    for _ in range(depth):
        deeper = []
        for prefix, lists in level:
            for name, primitive in PRIMITIVES.items():
                values = [primitive.run(xs) for xs in lists]
                yield (*prefix, name), values
                if not primitive.gives_number:
                    deeper.append(((*prefix, name), values))
        level = deeper


def _key(value: Value) -> Value:
    return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]


@cache
def programs(depth: int, held_out: bool) -> list[Program]:
    """The programs of exactly this least depth that serve evaluation (`held_out`) or training.

    Left out are those for which fewer than half of the probes can be examples.
    """
    return [
        program
        for behaviour, program in catalogue(depth).items()
        if len(program) == depth
        and is_held_out(behaviour) == held_out
        and sum(is_proper(program, xs) for xs in PROBES) >= len(PROBES) // 2
    ]


def is_held_out(behaviour: tuple[Value, ...]) -> bool:
    """Whether a program of this behaviour is for evaluation."""
    return zlib.crc32(repr(behaviour).encode()) % HELD_OUT_IN == 0
