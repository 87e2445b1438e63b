"""Text environments with gymnasium's API as environments of ours: `reset(seed=)`, and `step(text)` as a tool.

    class Corridor(TextGame):
        def __init__(self) -> None:
            super().__init__(CorridorGame())                # or gymnasium.make("..")

`game.reset(seed=)` returns (observation, info), `game.step(text)` (observation, reward, terminated, truncated, info).
The row's column `seed` begins the episode, so that it can be begun again; what was observed joins the prompt.

Left out on purpose: observations that are no texts (they are shown by `str`), `info`, and gymnasium itself.
"""

from typing import Any

from appo.tools.results import ToolError


class TextGame:
    """One episode; its reward is the sum of those of the steps.

    A subclass that names its tool otherwise has a method that returns `self._played(text)`, and `act = None`.

    Args:
        game: An object with gymnasium's `reset` and `step`.
    """

    def __init__(self, game: Any) -> None:
        self._game, self._reward, self._over = game, 0.0, False

    def reset(self, seed: int | None = None, **row: Any) -> str:
        """Begins the episode of that seed, which without one is drawn; the other columns are not needed."""
        self._reward, self._over = 0.0, False
        observation, _ = self._game.reset(seed=seed)
        return str(observation)

    def act(self, action: str) -> str:
        """Takes the next step of the game.

        Args:
            action: What to do, in words of the game.

        Returns:
            What happens then.
        """
        return self._played(action)

    def get_reward(self) -> float:
        """The sum of the rewards so far."""
        return self._reward

    def _played(self, action: str) -> str:
        if self._over:
            raise ToolError("the game is over; answer without another call")
        observation, reward, terminated, truncated, _ = self._game.step(action)
        self._reward += float(reward)
        self._over = bool(terminated or truncated)
        return f"{observation}{' (The game is over.)' if self._over else ''}"
