"""The task of this folder as a taskset of verifiers: its rows, its reward, and its tool behind an MCP server."""

import json

import verifiers.v1 as vf
from orders import FILE, INSTRUCTIONS, order_status, reward


class Orders(vf.Toolset[vf.ToolsetConfig]):
    TOOL_PREFIX = None

    @vf.tool
    def order_status(self, order: str) -> str:
        """Tells the status of an order, whose number is a letter and two digits."""
        return order_status(order)


class OrderData(vf.TaskData):
    row: dict[str, str]


class OrderTask(vf.Task[OrderData]):
    @classmethod
    def toolsets(cls, config):
        return [Orders(vf.ToolsetConfig())]

    @vf.reward
    async def names_the_status(self, trace: vf.Trace) -> float:
        return reward(trace.last_reply, self.data.row)


class OrdersTaskset(vf.Taskset[OrderTask, vf.TasksetConfig]):
    def load(self):
        for row in map(json.loads, FILE.read_text(encoding="utf-8").splitlines()):
            data = OrderData(name=row["order"], prompt=row["question"], system_prompt=INSTRUCTIONS, row=row)
            yield OrderTask(data, self.config.task)


if __name__ == "__main__":
    Orders.run()
