"""The task: `task: planning` in a recipe, with `task_args`.

    task: planning
    task_args: {worlds: [blocks, gripper, ferry], moves: [2, 5]}

A question names a start and a goal; the agent makes moves, `<act> A </act>`, reads what is where then, and ends when
it reads `goal reached`. Reward is 1 if the goal is reached within the fewest possible moves and `SLACK` more.

Left out on purpose: partial credit for goals nearly reached.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from datasets import Dataset

from appo.environments.base import Demonstration, Task
from appo.environments.planning.demonstrations import NOISE, demonstrate
from appo.environments.planning.environment import environment_of
from appo.environments.planning.forms import FORMS, Form
from appo.environments.planning.judge import decision_positions, judge
from appo.environments.planning.questions import Question, check_moves, questions
from appo.environments.planning.worlds import WORLDS
from appo.errors import UserError

SLACK = 2


def TASK(
    worlds: Sequence[str] = WORLDS,
    moves: Sequence[int] = (2, 5),
    noise: float = NOISE,
    slack: int = SLACK,
    form: str = "words",
) -> Task:
    """The task.

    Args:
        worlds: Of `blocks`, `gripper`, `ferry`.
        moves: Least and most moves of the shortest way to the goal, 1 to 12, as far as the worlds have such.
        noise: Chance of a wrong move per decision of the demonstrations, 0 to 1.
        slack: Moves beyond the shortest way, 0 or more.
        form: `words` for the tiny model, `chat` for a real one.

    Raises:
        UserError: for values that make no task.
    """
    _check(worlds, moves, noise, slack, form)
    chosen = _Setting(list(worlds), moves[0], moves[1], noise, slack, FORMS[form])
    return Task(
        dataset=chosen.dataset,
        eval_dataset=partial(chosen.dataset, part="evaluation"),
        environment_factory=environment_of(chosen.form),
        demonstrations=chosen.demonstrations,
        make_model=chosen.form.make_model,
        decision_positions=partial(decision_positions, pieces=chosen.form.pieces),
        judge=partial(judge, pieces=chosen.form.pieces),
    )


@dataclass(frozen=True)
class _Setting:
    """The arguments of `TASK`, and what they make."""

    worlds: list[str]
    least: int
    most: int
    noise: float
    slack: int
    form: Form

    def questions(self, seed: int, part: str) -> Iterator[Question]:
        """Endless questions of one part."""
        return questions(self.worlds, self.least, self.most, seed, part, self.form.tell)

    def dataset(self, size: int, seed: int, part: str = "training") -> Dataset:
        """Rows with `prompt`, `world`, `start` (state and goal as text), `optimum` and `budget`."""
        found = itertools.islice(self.questions(seed, part), size)
        return Dataset.from_list(
            [
                {
                    "prompt": self.form.prompt(one.start),
                    "world": one.world,
                    "start": one.start,
                    "optimum": one.optimum,
                    "budget": one.optimum + self.slack,
                }
                for one in found
            ]
        )

    def demonstrations(self, size: int, seed: int) -> Iterator[Demonstration]:
        """Demonstrations with the flaws that `demonstrations.py` names."""
        rng, environment = random.Random(f"planning demonstrations {seed}"), environment_of(self.form)()
        for one in itertools.islice(self.questions(seed, "demonstrations"), size):
            segments = demonstrate(environment, one.start, one.optimum + self.slack, self.noise, self.form, rng)
            yield Demonstration(self.form.prompt(one.start), segments)


def _check(worlds: Sequence[str], moves: Sequence[int], noise: float, slack: int, form: str) -> None:
    named = isinstance(worlds, list | tuple) and all(world in WORLDS for world in worlds)
    if not named or not worlds or len(set(worlds)) < len(worlds):
        raise UserError(f"worlds = {worlds!r} must be a list of {', '.join(WORLDS)}, each at most once.")
    if not isinstance(moves, list | tuple) or len(moves) != 2 or not all(type(number) is int for number in moves):
        raise UserError(f"moves = {moves!r} must be two whole numbers, such as [2, 5].")
    check_moves(list(worlds), (moves[0], moves[1]))
    if type(noise) not in (int, float) or not 0 <= noise <= 1:
        raise UserError(f"noise = {noise!r} must be a chance, 0 to 1.")
    if type(slack) is not int or slack < 0:
        raise UserError(f"slack = {slack!r} must be a whole number of moves, 0 or more.")
    if type(form) is not str or form not in FORMS:
        raise UserError(f"form = {form!r} must be one of {', '.join(FORMS)}.")
