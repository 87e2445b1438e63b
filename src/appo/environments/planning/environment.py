"""An episode of planning: the state that moves change, until the goal is reached or no move is left."""

from typing import Any, ClassVar

from appo.environments.planning.forms import FORMS, Form
from appo.environments.planning.texts import GOAL_REACHED, NO_MOVES_LEFT, REFUSALS, UNKNOWN, Named, read
from appo.environments.planning.worlds import State, moves, why_not
from appo.tools.results import ToolError


class PlanningEnvironment:
    """One problem; `act` is its only tool.

    Args:
        named: The problem, with names.
        state: The present state.
        left: Moves that are left.
    """

    _form: ClassVar[Form] = FORMS["words"]

    named: Named
    state: State
    left: int

    def reset(self, start: str, budget: int, **row: Any) -> None:
        """Starts the episode.

        Args:
            start: State and goal, as `texts.Named.text` tells them.
            budget: How many moves there are.
            row: The other columns of the dataset; not needed.
        """
        self.named, self.state = read(start)
        self.left = int(budget)

    def act(self, move: str) -> str:
        """Makes a move.

        Args:
            move: What to take, put down, or go to: the name of a thing or of a place.

        Returns:
            What is where now, and where it has to be; or that the goal is reached, or that no moves are left.
        """
        word = move.strip()
        if self._over():
            raise ToolError(self._told())
        self.left -= 1
        number = self.named.move(word)
        if number is None:
            raise ToolError(f"{UNKNOWN} {self._told()}")
        if reason := why_not(self.named.problem, self.state, number):
            raise ToolError(f"{REFUSALS[reason].format(word)} {self._told()}")
        self.state = moves(self.named.problem, self.state)[number]
        return self._told()

    def _over(self) -> bool:
        return self.left <= 0 or self.named.problem.is_goal(self.state)

    def _told(self) -> str:
        if self.named.problem.is_goal(self.state):
            return GOAL_REACHED
        return self._form.tell(self.named.text(self.state)) if self.left > 0 else NO_MOVES_LEFT

    def get_reward(self) -> float:
        """1 if the goal is reached, else 0."""
        return float(self.named.problem.is_goal(self.state))

    def fork(self) -> "PlanningEnvironment":
        """Returns an independent copy in the present state."""
        copy = type(self)()
        copy.named, copy.state, copy.left = self.named, self.state, self.left
        return copy


def environment_of(form: Form) -> type[PlanningEnvironment]:
    """The environment's class, whose results are written as a form has them."""
    return type("PlanningEnvironment", (PlanningEnvironment,), {"_form": form})
