"""A text environment with gymnasium's API is an environment with one tool, and branches from any of its states."""

import copy
import random

import pytest

from appo.environments.base import tool_methods
from appo.environments.text_games import TextGame
from appo.tools.described import tool_problems
from appo.tools.results import ToolError


class Corridor:
    """Gymnasium's API: a treasure lies 2 to 4 steps to the east or west, and 6 steps are allowed."""

    def reset(self, *, seed=None, options=None):
        draw = random.Random(seed)
        self.place, self.steps, self.treasure = 0, 0, draw.choice([-1, 1]) * draw.randint(2, 4)
        return f"The treasure lies {'east' if self.treasure > 0 else 'west'}.", {"distance": abs(self.treasure)}

    def step(self, action):
        self.steps += 1
        if action not in ("east", "west"):
            return "Say east or west.", -0.25, False, self.steps == 6, {}
        self.place += 1 if action == "east" else -1
        found = self.place == self.treasure
        return f"You are at {self.place}.", float(found), found, self.steps == 6, {}


class Walk(TextGame):
    def __init__(self):
        super().__init__(Corridor())


def seed_with(treasure):
    game = Corridor()
    for seed in range(100):
        game.reset(seed=seed)
        if game.treasure == treasure:
            return seed
    raise AssertionError("no such seed")


def test_an_episode_is_the_games_with_the_sum_of_its_rewards():
    walk = Walk()
    assert walk.reset(seed=seed_with(2), prompt="", hops=3) == "The treasure lies east."
    assert walk.act("north") == "Say east or west."
    assert walk.act("east") == "You are at 1."
    assert walk.act("east") == "You are at 2. (The game is over.)"
    assert walk.get_reward() == -0.25 + 1.0


def test_no_step_is_taken_after_the_end_and_the_reward_stays():
    walk = Walk()
    walk.reset(seed=seed_with(-4))
    results = [walk.act("east") for _ in range(6)]
    assert [result.endswith("(The game is over.)") for result in results] == [False] * 5 + [True]  # truncated
    with pytest.raises(ToolError, match=r"^the game is over; answer without another call$"):
        walk.act("west")
    assert walk.get_reward() == 0.0


def test_a_game_is_begun_anew_after_its_end():
    walk = Walk()
    for _ in range(2):
        walk.reset(seed=seed_with(2))
        assert [walk.act("east") for _ in range(2)][-1] == "You are at 2. (The game is over.)"
        assert walk.get_reward() == 1.0


def test_a_copy_goes_on_by_itself():
    walk = Walk()
    walk.reset(seed=seed_with(2))
    walk.act("east")
    other = copy.deepcopy(walk)
    other.act("east")
    assert (other.get_reward(), walk.get_reward()) == (1.0, 0.0)
    assert walk.act("west") == "You are at 0."


def test_its_only_tool_says_what_a_policy_has_to_know():
    (tool,) = tool_methods(Walk())
    assert tool.__name__ == "act"
    assert list(tool_problems(tool, "chat_template")) == []


def test_a_subclass_names_its_tool_itself():
    class Named(Walk):
        act = None

        def go(self, direction: str) -> str:
            """Goes a step.

            Args:
                direction: east or west.
            """
            return self._played(direction)

    named = Named()
    named.reset(seed=seed_with(2))
    (tool,) = tool_methods(named)
    assert (tool.__name__, tool("east")) == ("go", "You are at 1.")
