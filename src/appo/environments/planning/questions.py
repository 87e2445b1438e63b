"""Questions: a world, a goal, a state to start from, and how many moves there are.

The checksum of a question as it is told decides whether it serves demonstrations (one in two), training or evaluation,
so these share none, whatever their seeds. Two datasets of one kind may: short problems are not that many.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from appo.environments.planning.search import distances, settled, starts
from appo.environments.planning.texts import OBJECTS, PLACES, named
from appo.environments.planning.worlds import Problem, State
from appo.errors import UserError

SIZES = {"blocks": (3, 4), "gripper": (2, 4), "ferry": (2, 4)}  # least and most objects
PARTS = {"demonstrations": (0, 2), "training": (1,), "evaluation": (3,)}  # remainders of the checksum by 4
MOST_MOVES = 12  # beyond, hardly a problem of these sizes is left


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        world: Which world.
        start: State and goal as text.
        optimum: Fewest moves to the goal.
    """

    world: str
    start: str
    optimum: int


def questions(
    worlds: list[str], least: int, most: int, seed: int, part: str, tell: Callable[[str], str] = str
) -> Iterator[Question]:
    """Endless questions of one part.

    Worlds, sizes and goals are drawn alike, and drawn again where no start is so far away: where a world has few
    problems of these lengths, it comes less often. Then the numbers of moves that there are are equally likely.

    Args:
        worlds: Of `worlds.WORLDS`.
        least, most: Fewest moves from start to goal, both included.
        seed: Of the random numbers.
        part: Of `PARTS`.
        tell: How a start is told; of those that are told alike all belong to one part.
    """
    rng = random.Random(f"planning {seed}")
    while True:
        world = rng.choice(worlds)
        names = sorted(rng.sample(OBJECTS, rng.randint(*SIZES[world])))
        places = 1 if world == "blocks" else len(PLACES)
        problem = named(world, names, rng.choice(settled(world, len(names), places)))
        found = _starts_by_distance(problem.problem)
        optima = [moves for moves in found if least <= moves <= most]
        if not optima:
            continue
        optimum = rng.choice(optima)
        start = problem.text(rng.choice(found[optimum]))
        if zlib.crc32(tell(start).encode()) % 4 in PARTS[part]:
            yield Question(world, start, optimum)


@cache
def _starts_by_distance(problem: Problem) -> dict[int, list[State]]:
    found: dict[int, list[State]] = {}
    for state in starts(problem):
        found.setdefault(distances(problem)[state], []).append(state)
    return dict(sorted(found.items()))


@cache
def optima(world: str) -> list[int]:
    """What the fewest moves of a question of this world may be, in order, from 1 to `MOST_MOVES`."""
    places = 1 if world == "blocks" else len(PLACES)
    least, most = SIZES[world]
    found = {
        moves
        for size in range(least, most + 1)
        for goal in settled(world, size, places)
        for moves in _starts_by_distance(Problem(world, size, places, goal))
    }
    return [moves for moves in sorted(found) if 1 <= moves <= MOST_MOVES]


def check_moves(worlds: list[str], moves: tuple[int, int]) -> None:
    """Looks for a question of each world.

    Raises:
        UserError: where some world has none of so many moves.
    """
    least, most = moves
    if not 1 <= least <= most <= MOST_MOVES:
        raise UserError(f"moves = {list(moves)} must be the least and most optimal moves, from 1 to {MOST_MOVES}.")
    for world in worlds:
        if not any(least <= number <= most for number in optima(world)):
            there = ", ".join(map(str, optima(world)))
            raise UserError(f"moves = {list(moves)}: {world} has questions of {there} moves; widen the range.")
