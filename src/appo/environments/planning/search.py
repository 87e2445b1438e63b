"""Breadth-first search over all of a problem's states, and the exact values of moves for any policy.

    distances(problem)[state]                    fewest moves to the goal
    values = Values(problem, skilled(problem, 0.8))
    values.q(state, move, left) - values.v(state, left)        the advantage of a move with `left` moves to go

A value is the chance to reach the goal within the moves left, under a policy `state -> {move: probability}`.
Left out on purpose: problems too large to hold every state (those here have at most some thousands).
"""

from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product

from appo.environments.planning.worlds import HELD, Move, Problem, State, moves

Policy = Callable[[State], Mapping[Move, float]]


@cache
def settled(world: str, objects: int, places: int) -> tuple[State, ...]:
    """All ways in which objects may lie about with none held, sorted; without the place of the robot or the ferry."""
    if world != "blocks":
        return tuple(product(range(objects, objects + places), repeat=objects))
    return tuple(state for state in product(range(objects + 1), repeat=objects) if _stands(state))


def _stands(below: State) -> bool:
    """Whether blocks can stand like this: no two on the same block, and no circle."""
    table = len(below)
    on_blocks = [block for block in below if block != table]
    if len(set(on_blocks)) < len(on_blocks):
        return False
    for block in range(table):
        for _ in below:
            block = block if block == table else below[block]
        if block != table:
            return False
    return True


def starts(problem: Problem) -> list[State]:
    """All states in which nothing is held."""
    lying = settled(problem.world, problem.objects, problem.places)
    if problem.world == "blocks":
        return list(lying)
    here = range(problem.objects, problem.objects + problem.places)
    return [(*state, place) for state in lying for place in here]


@cache
def graph(problem: Problem) -> dict[State, dict[Move, State]]:
    """Every state that can be reached from those in which nothing is held, with its moves."""
    found: dict[State, dict[Move, State]] = {}
    waiting = starts(problem)
    while waiting:
        state = waiting.pop()
        if state not in found:
            found[state] = moves(problem, state)
            waiting.extend(found[state].values())
    return found


@cache
def distances(problem: Problem) -> dict[State, int]:
    """The fewest moves from each state to the goal."""
    before: dict[State, list[State]] = {}
    for state, following in graph(_goalless(problem)).items():
        for after in following.values():
            before.setdefault(after, []).append(state)
    found = {state: 0 for state in before if problem.is_goal(state)}
    waiting = deque(found)
    while waiting:
        state = waiting.popleft()
        for earlier in before[state]:
            if earlier not in found:
                found[earlier] = found[state] + 1
                waiting.append(earlier)
    return found


def _goalless(problem: Problem) -> Problem:
    """The same for all goals, so that its graph is made once."""
    return Problem(problem.world, problem.objects, problem.places, (HELD,) * problem.objects)


def best_moves(problem: Problem, state: State) -> list[Move]:
    """The moves that bring the goal one move nearer; none at the goal."""
    to_go = distances(problem)
    return [move for move, after in moves(problem, state).items() if to_go[after] < to_go[state]]


def skilled(problem: Problem, skill: float) -> Policy:
    """With chance `skill` one of the best moves, else one of the other possible ones; each of them equally likely.

    Where there is no other, one of the best is certain.
    """

    @cache
    def policy(state: State) -> dict[Move, float]:
        best = best_moves(problem, state)
        others = [move for move in moves(problem, state) if move not in best]
        share = skill if others else 1.0
        right = dict.fromkeys(best, share / max(1, len(best)))
        return right | dict.fromkeys(others, (1.0 - share) / max(1, len(others)))

    return policy


class Values:
    """V and Q of a policy by dynamic programming, each computed when it is first asked for.

    Args:
        problem: What is to be reached.
        policy: The moves of a state that is no goal with their probabilities, which sum to 1.
    """

    def __init__(self, problem: Problem, policy: Policy) -> None:
        self.problem, self.policy = problem, policy
        self._known: dict[tuple[State, int], float] = {}

    def v(self, state: State, left: int) -> float:
        """The chance to reach the goal from `state` within `left` moves."""
        if self.problem.is_goal(state):
            return 1.0
        if left <= 0 or distances(self.problem)[state] > left:
            return 0.0
        if (state, left) not in self._known:
            chances = self.policy(state).items()
            self._known[state, left] = sum(chance * self.q(state, move, left) for move, chance in chances)
        return self._known[state, left]

    def q(self, state: State, move: Move, left: int) -> float:
        """The chance after `move`, which uses up one of the `left` moves, also where it is impossible."""
        return self.v(moves(self.problem, state).get(move, state), left - 1) if left > 0 else 0.0
