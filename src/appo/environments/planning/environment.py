"""An episode of planning: the state that moves change, until the goal is reached or no move is left."""

from typing import Any

from appo.environments.planning.texts import GOAL_REACHED, NO_MOVES_LEFT, REFUSALS, UNKNOWN, Named, read
from appo.environments.planning.worlds import State, moves, why_not
from appo.tools.results import ToolError


class PlanningEnvironment:
    """One problem; `act` is its only tool."""

    def __init__(self) -> None:
        self._named: Named
        self._state: State
        self._left = 0

    def reset(self, start: str, budget: int, **row: Any) -> None:
        """Starts the episode.

        Args:
            start: State and goal, as `texts.Named.text` tells them.
            budget: How many moves there are.
            row: The other columns of the dataset; not needed.
        """
        self._named, self._state = read(start)
        self._left = int(budget)

    def act(self, move: str) -> str:
        """Makes a move.

        Args:
            move: What to take, put down, or go to: the name of a thing or of a place.

        Returns:
            What is where now, and where it has to be; or that the goal is reached, or that no moves are left.
        """
        if self._named.problem.is_goal(self._state):
            raise ToolError(GOAL_REACHED)
        if not self._left:
            raise ToolError(NO_MOVES_LEFT)
        self._left -= 1
        problem, number = self._named.problem, self._named.move(move.strip())
        if number is None:
            raise ToolError(f"{UNKNOWN} {self._told()}")
        if reason := why_not(problem, self._state, number):
            raise ToolError(f"{REFUSALS[reason].format(move.strip())} {self._told()}")
        self._state = moves(problem, self._state)[number]
        return self._told()

    def _told(self) -> str:
        """What is told after a move."""
        if self._named.problem.is_goal(self._state):
            return GOAL_REACHED
        return self._named.text(self._state) if self._left else NO_MOVES_LEFT

    def get_reward(self) -> float:
        """1 if the goal is reached, else 0."""
        return float(self._named.problem.is_goal(self._state))

    def fork(self) -> "PlanningEnvironment":
        """Returns an independent copy in the present state."""
        copy = type(self)()
        copy._named, copy._state, copy._left = self._named, self._state, self._left
        return copy
