"""Rollouts per second of an agent that is a program of its own, against the loop of the package on the same task.

    python benchmarks/agent_throughput.py --model runs/smollm2-multihop/model      a model that was trained to search
    python benchmarks/agent_throughput.py --model tiny             one that costs nothing: all of it is overhead

The task is that of recipes/smollm2-multihop.yaml. One trainer writes with its environment, the other with an agent: a
loop with OpenAI's client that makes the same environment for itself and calls its methods. Both have one model, the
same questions and seeds, and take turns, so that other work on the machine meets both. The tiny model answers
questions on the weather with one call. Told are the medians of `--rounds` rounds, and what each wrote.

Left out on purpose: learning.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import openai
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import get_json_schema

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from taught_model import THINKING, taught, turns_of

from appo import APPOConfig, APPOTrainer
from appo.environments.base import tool_methods
from appo.environments.multihop.task import TASK, exact_answer
from appo.rollout.environments import opening
from appo.tools.results import ToolError

CITIES = ("Paris", "Accra", "Lima", "Oslo", "Quito", "Hanoi", "Cairo", "Delhi")
MULTIHOP = TASK(hops=(1, 2), form="chat")


class Weather:
    """The environment of the tiny model."""

    def reset(self, **row):
        """Begins an episode."""

    def weather(self, city: str) -> str:
        """Tells the weather.

        Args:
            city: The city.
        """
        return f"It is hot in {city}, and there is no wind."


def agent_of(factory):
    def run(row, base_url, api_key):
        environment = factory()
        messages = list(opening(row, environment.reset(**row)))
        tools = {tool.__name__: tool for tool in tool_methods(environment)}
        schemas = [get_json_schema(tool) for tool in tools.values()]
        client = openai.OpenAI(base_url=base_url, api_key=api_key)
        while True:
            answer = client.chat.completions.create(model="policy", messages=messages, tools=schemas)
            messages.append(answer.choices[0].message)
            if not messages[-1].tool_calls:
                return
            for call in messages[-1].tool_calls:
                try:
                    result = tools[call.function.name](**json.loads(call.function.arguments))
                except ToolError as error:  # as the loop tells it
                    result = f"Error: {error}"
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    return run


def taught_weather():
    schema = [get_json_schema(Weather().weather)]
    turns = [
        turns_of(f"Weather in {city}?", [("weather", {"city": city})], [Weather().weather(city)], schema)
        for city in CITIES
    ]
    return taught([turn for both in turns for turn in both])


def length(completions, **columns):
    return [float(len(completion)) for completion in completions]


def trainers_of(name, directory):
    """(the loop, the agent) on one model."""
    if name == "tiny":
        model, tokenizer = taught_weather()
        rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"Weather in {city}?"}]} for city in CITIES])
        factory, reward, options = Weather, length, {"chat_template_kwargs": THINKING, "temperature": 0.5}
    else:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        rows, factory, reward = MULTIHOP.dataset(8, 0), MULTIHOP.environment_factory, exact_answer
        options = {"tool_protocol": "tags", "bf16": True}
    for parts in ({"environment_factory": factory}, {"agent": agent_of(factory)}):
        args = APPOConfig(
            directory, method="grpo", use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
            num_generations=8, per_device_train_batch_size=16, steps_per_generation=1, max_completion_length=160,
            max_tool_calling_iterations=3, rollout_batch_size=64, **{"bf16": False, **options},
        )  # fmt: skip
        yield APPOTrainer(model, reward, args, rows, processing_class=tokenizer, **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=4, help="rollouts of each of 8 questions")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        trainers = dict(zip(("loop", "agent"), trainers_of(options.model, directory), strict=True))
        rates = {name: [] for name in trainers}
        for number in range(options.rounds + 1):
            for name, trainer in trainers.items():
                begin = time.perf_counter()
                trees = trainer.writer.write(list(trainer.train_dataset)[:8], options.each, stream=number)
                spent = time.perf_counter() - begin
                rollouts = [rollout for tree in trees for rollout in tree.initial]
                tokens = sum(sum(rollout.policy_mask) for rollout in rollouts)
                calls = sum(len(rollout.tool_calls) for rollout in rollouts)
                trainer.writer.release(trees)
                rates[name].append(len(rollouts) / spent)
                print(f"{name:6}{rates[name][-1]:8.2f} rollouts/s, {tokens} tokens, {calls} calls", flush=True)
    medians = {name: statistics.median(found[1:]) for name, found in rates.items()}  # the first round warms up
    print(f"medians: loop {medians['loop']:.2f}, agent {medians['agent']:.2f} rollouts/s; ratio ", end="")
    print(f"{medians['agent'] / medians['loop']:.2f}")


if __name__ == "__main__":
    main()
