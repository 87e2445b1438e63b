"""An OpenEnv server of the `openenv` package on localhost: a counter that is to reach a target, on its server.

python tests/with_environments/open_env_server.py PORT
"""

import sys
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app


class Step(Action):
    step: int


class Count(Observation):
    count: int = 0


class Counter(Environment):  # type: ignore[type-arg]
    """Its state, the counter, lives here and nowhere else; each connection has one."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self.count, self.target = 0, 3

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Count:
        self.count, self.target = 0, 3 if seed is None else seed
        return Count(count=0, done=False, reward=0.0)

    def step(self, action: Step, timeout_s: float | None = None, **_: Any) -> Count:
        self.count += action.step
        return Count(count=self.count, done=False, reward=float(self.count == self.target))

    @property
    def state(self) -> State:
        return State(step_count=self.count)


if __name__ == "__main__":
    app = create_fastapi_app(Counter, Step, Count, max_concurrent_envs=64)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
