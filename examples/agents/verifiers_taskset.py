"""A taskset of verifiers as a command: the row says which of its tasks is meant, whose reward is printed.

It runs in an environment of its own (`make .venv-verifiers/installed`):

    command: [.venv-verifiers/bin/python, examples/agents/verifiers_taskset.py]
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import verifiers.v1 as vf
from orders_v1 import OrdersTaskset
from verifiers.v1.harnesses.null import NullHarnessConfig

os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where verifiers finds uv
os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where its servers find orders_v1


async def main():
    order = json.loads(os.environ["APPO_ROW"])["order"]
    client = vf.EvalClientConfig(base_url=os.environ["OPENAI_BASE_URL"], api_key_var="OPENAI_API_KEY")
    config = vf.AgentConfig(model="policy", client=client, harness=NullHarnessConfig(id="null"), max_turns=4,
                            runtime=vf.SubprocessConfig(), sampling=vf.SamplingConfig(max_tokens=64))  # fmt: skip
    async with vf.make_agent(config) as agent:
        trace = await agent.run(next(iter(OrdersTaskset(vf.TasksetConfig()).include(names=[order]))))
    if not trace.ok:
        sys.exit(f"{trace.errors}")
    print(trace.reward)


asyncio.run(main())
