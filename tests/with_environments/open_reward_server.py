"""An ORS server of the `openreward` package on localhost: a counter that is to reach a target, on its server.

python tests/with_environments/open_reward_server.py PORT
"""

import sys

import uvicorn
from openreward.environments import Environment, JSONObject, Server, TextBlock, ToolOutput, tool
from pydantic import BaseModel, Field

TASKS: list[JSONObject] = [{"id": f"reach-{target}", "start": 0, "target": target} for target in (3, 4)]


class Step(BaseModel):
    step: int = Field(description="What is added to the counter.")


class Counter(Environment):
    """Its state, the counter, lives here and nowhere else."""

    def __init__(self, task_spec: JSONObject = {}, secrets: dict[str, str] = {}) -> None:  # noqa: B006
        super().__init__(task_spec)
        self.spec, self.count = task_spec, int(task_spec["start"])

    @classmethod
    def list_splits(cls) -> list[str]:
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> list[JSONObject]:
        return TASKS

    def get_prompt(self) -> list[TextBlock]:
        return [TextBlock(type="text", text=f"Increment the counter to {self.spec['target']}.")]

    @tool
    async def increment(self, params: Step) -> ToolOutput:
        """Adds to the counter."""
        self.count += params.step
        reward = float(self.count == self.spec["target"])
        return ToolOutput(blocks=[TextBlock(type="text", text=str(self.count))], reward=reward, finished=False)


if __name__ == "__main__":
    uvicorn.run(Server([Counter]).app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
