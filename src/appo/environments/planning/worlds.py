"""Blocks world, gripper and ferry: their states, their moves, and why a move is impossible.

A problem has `objects` (numbered 0, 1, ..) and `places` (numbered on from there); a state is a tuple that says where
each object is: at a place, on another object, or `HELD`. In gripper and ferry a last entry says where the robot or the
ferry is. A move is one number, what is touched next; what happens follows from the state:

    blocks     hand empty: takes that block, if nothing is on it. Else puts the held block on that block or the table.
    gripper    a room: goes there. A ball: picks it up (two at most), or puts it down if it is held.
    ferry      a harbour: sails there. A car: takes it aboard (one at most), or lands it if it is aboard.

So one word, and where names are single tokens one token, is a decision. All functions are pure.

Left out on purpose: names and texts (`texts.py`), and the longer moves of the planning competitions (`stack a b`):
with them it would depend on the state which of their words decides.
"""

from dataclasses import dataclass

HELD = -1
WORLDS = ("blocks", "gripper", "ferry")
CAPACITY = {"blocks": 1, "gripper": 2, "ferry": 1}

State = tuple[int, ...]
Move = int


@dataclass(frozen=True)
class Problem:
    """What is to be reached, without names; equal for all questions that differ in names alone.

    Args:
        world: One of `WORLDS`.
        objects: How many blocks, balls or cars.
        places: How many rooms or harbours; 1, the table, in the blocks world.
        goal: Where each object has to be in the end.
    """

    world: str
    objects: int
    places: int
    goal: State

    def is_goal(self, state: State) -> bool:
        """Whether each object is where it has to be."""
        return state[: self.objects] == self.goal


def moves(problem: Problem, state: State) -> dict[Move, State]:
    """The possible moves of a state, in order, with the state that each leads to."""
    step = _blocks if problem.world == "blocks" else _transport
    tried = ((move, step(problem, state, move)) for move in range(problem.objects + problem.places))
    return {move: after for move, after in tried if not isinstance(after, str)}


def why_not(problem: Problem, state: State, move: Move) -> str | None:
    """Why a move is impossible: `covered`, `elsewhere`, `full`, `held`, `there` or `fixed`; None if it is not."""
    found = (_blocks if problem.world == "blocks" else _transport)(problem, state, move)
    return found if isinstance(found, str) else None


def _blocks(problem: Problem, state: State, move: Move) -> State | str:
    """The state after a move of the blocks world, or why there is none."""
    table = problem.objects
    if move != table and move in state:
        return "covered"
    if HELD not in state:
        return "fixed" if move == table else _with(state, move, HELD)
    held = state.index(HELD)
    return "held" if move == held else _with(state, held, move)


def _transport(problem: Problem, state: State, move: Move) -> State | str:
    """The state after a move of gripper or ferry, or why there is none."""
    here = state[-1]
    if move >= problem.objects:
        return "there" if move == here else _with(state, problem.objects, move)
    if state[move] == HELD:
        return _with(state, move, here)
    if state[move] != here:
        return "elsewhere"
    return "full" if state.count(HELD) >= CAPACITY[problem.world] else _with(state, move, HELD)


def _with(state: State, index: int, value: int) -> State:
    return (*state[:index], value, *state[index + 1 :])
