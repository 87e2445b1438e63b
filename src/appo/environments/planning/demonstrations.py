"""Demonstrations of planning with known flaws.

The demonstrator makes one of the best moves, and with chance `noise` another possible one, from where it goes on
sensibly; with chance `STOP` it takes a state for the goal and stops. Each is a mistake that reinforcement can repair,
and no other is made: a demonstration fails exactly where moves ran out or it stopped too early.
"""

import random

from appo.environments.base import Segment
from appo.environments.planning.environment import PlanningEnvironment
from appo.environments.planning.forms import Form
from appo.environments.planning.search import best_moves
from appo.environments.planning.texts import GOAL_REACHED, NO_MOVES_LEFT
from appo.environments.planning.worlds import moves

NOISE = 0.15  # chance of a wrong move, per decision
STOP = 0.02  # chance of stopping too early, per decision


def demonstrate(
    environment: PlanningEnvironment, start: str, budget: int, noise: float, form: Form, rng: random.Random
) -> list[Segment]:
    """One demonstration, piece by piece.

    Args:
        environment: Is reset.
        start: State and goal as text.
        budget: How many moves there are.
        noise: Chance of a wrong move per decision.
        form: How calls and results are written.
        rng: Random numbers.
    """
    environment.reset(start, budget)
    segments: list[Segment] = []
    result = ""
    while result not in (GOAL_REACHED, NO_MOVES_LEFT) and rng.random() >= STOP:
        problem, state = environment.named.problem, environment.state
        best = best_moves(problem, state)
        others = [move for move in moves(problem, state) if move not in best]
        wrong = bool(others) and rng.random() < noise
        word = environment.named.names[rng.choice(others if wrong else best)]
        result = environment.act(word)
        segments += [Segment(form.call.format(word)), Segment(form.result.format(result), trained=False)]
    return [*segments, Segment(form.ending)]
