"""An agent of smolagents: `pip install smolagents openai`.

A `CodeAgent`, which sends back what the policy wrote: its calls are in its code. A `ToolCallingAgent` writes each call
into its history once more, as text of its own; each of its turns would begin a segment.
"""

from orders import order_status, reward
from smolagents import ActionStep, CodeAgent, OpenAIModel, tool

look_up, STEPS = tool(order_status), 4
SYSTEM = """Answer with Python in <code></code>. First print what order_status(order) returns for the order:
<code>
print(order_status("A10"))
</code>
Once you have read its status, give it to final_answer(status) in <code></code>."""


def forget_calls(step):
    step.tool_calls = None  # else they stand in the history twice: in the code, and as smolagents tells them


def run(row, base_url, api_key):
    model = OpenAIModel("policy", api_base=base_url, api_key=api_key, max_tokens=64)
    agent = CodeAgent([look_up], model, step_callbacks=[forget_calls], verbosity_level=-1)
    agent.prompt_templates["system_prompt"] = SYSTEM  # its own has 2,000 tokens
    for step in agent.run(row["question"], stream=True):
        if isinstance(step, ActionStep) and (step.is_final_answer or step.step_number == STEPS):
            return reward(step.action_output, row)
