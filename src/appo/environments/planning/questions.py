"""Questions: a world, a goal, a state to start from, and how many moves there are.

A question's checksum decides whether it serves demonstrations (one in two), training or evaluation, so these share
none, whatever their seeds. Two datasets of one kind may: short problems are not that many.
"""

import random
import zlib
from collections.abc import Iterator
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


def questions(worlds: list[str], least: int, most: int, seed: int, part: str) -> Iterator[Question]:
    """Endless questions of one part; worlds, and possible numbers of moves, are equally likely.

    Args:
        worlds: Of `worlds.WORLDS`.
        least, most: Fewest moves from start to goal, both included.
        seed: Of the random numbers.
        part: Of `PARTS`.
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
        if zlib.crc32(start.encode()) % 4 in PARTS[part]:
            yield Question(world, start, optimum)


@cache
def _starts_by_distance(problem: Problem) -> dict[int, list[State]]:
    found: dict[int, list[State]] = {}
    for state in starts(problem):
        found.setdefault(distances(problem)[state], []).append(state)
    return dict(sorted(found.items()))


def check_moves(worlds: list[str], moves: tuple[int, int]) -> None:
    """
    Raises:
        UserError: where some world has no question of so many moves.
    """
    least, most = moves
    if not 1 <= least <= most <= MOST_MOVES:
        raise UserError(f"moves = {list(moves)} must be the least and most optimal moves, from 1 to {MOST_MOVES}.")
    for world in worlds:
        # Blocks are taken and put: their optima are even. The shortest way to carry one thing is 3 moves or 2.
        if world == "blocks" and least == most and least % 2:
            raise UserError(f"moves = {list(moves)}: the blocks world has even numbers only; widen the range.")
        if world != "blocks" and most < 3:
            raise UserError(f"moves = {list(moves)}: {world} needs 3 moves at least; raise the second number.")
