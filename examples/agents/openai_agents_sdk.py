"""An agent of the OpenAI Agents SDK: `pip install openai-agents`."""

import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from agents.exceptions import AgentsException
from orders import INSTRUCTIONS, order_status, reward

set_tracing_disabled(True)  # else each run is sent to OpenAI
look_up, settings = function_tool(order_status), ModelSettings(max_tokens=64)


async def run(row, base_url, api_key):
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        model = OpenAIChatCompletionsModel("policy", client)
        agent = Agent("orders", instructions=INSTRUCTIONS, tools=[look_up], model=model, model_settings=settings)
        try:
            result = await Runner.run(agent, row["question"], max_turns=4)
        except AgentsException:  # too many turns, or a call of a tool that there is not
            return 0.0
        return reward(result.final_output, row)
