"""An agent that is a plain loop with OpenAI's client: calls are run until there are none. `pip install openai`."""

import json

import openai
from orders import INSTRUCTIONS, order_status, reward
from transformers.utils import get_json_schema

TOOLS = {"order_status": order_status}
SCHEMAS = [get_json_schema(tool) for tool in TOOLS.values()]


def run(row, base_url, api_key):
    client = openai.OpenAI(base_url=base_url, api_key=api_key)
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": row["question"]}]
    for _ in range(4):
        answer = client.chat.completions.create(model="policy", messages=messages, tools=SCHEMAS, max_tokens=64)
        message = answer.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return reward(message.content, row)
        for call in message.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": call_tool(call.function)})
    return 0.0


def call_tool(function):
    try:
        return TOOLS[function.name](**json.loads(function.arguments))
    except (KeyError, TypeError, ValueError) as error:  # the policy's mistake, which it is told
        return f"error: {error!r}"
