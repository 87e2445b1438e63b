"""An agent that is a plain loop with OpenAI's client: calls are run until there are none. `pip install openai`."""

import json

import openai
from orders import INSTRUCTIONS, SCHEMA, order_status, reward


def run(row, base_url, api_key):
    ask = openai.OpenAI(base_url=base_url, api_key=api_key).chat.completions.create
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": row["question"]}]
    for _ in range(4):
        message = ask(model="policy", messages=messages, tools=[SCHEMA], max_tokens=64).choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return reward(message.content, row)
        for call in message.tool_calls:
            try:
                result = order_status(**json.loads(call.function.arguments))
            except (TypeError, ValueError) as error:  # the policy's mistake, which it is told
                result = f"error: {error!r}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return 0.0
