"""The same task with an agent of one's own, a loop with OpenAI's client: `pip install 'appo[serve]' openai`."""

import json

import openai
from my_tools import order_status, right_and_short
from transformers.utils import get_json_schema

SYSTEM = (
    "Look up the order that is asked for: <order_status>its number</order_status>. Then <answer>its status</answer>."
)
TOOL = get_json_schema(order_status)


def run(row, base_url, api_key):
    client = openai.OpenAI(base_url=base_url, api_key=api_key)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["ticket_text"]}]
    for _ in range(3):
        answer = client.chat.completions.create(model="policy", messages=messages, tools=[TOOL])
        messages.append(answer.choices[0].message)
        if not messages[-1].tool_calls:
            return right_and_short([[{"content": messages[-1].content}]], [row["status"]])[0]
        for call in messages[-1].tool_calls:
            result = order_status(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return 0.0
