"""An environment of TRL's documentation, and its tools, train under TRL's `GRPOTrainer` and under `APPOTrainer`.

`IncrementEnv` is the example of the section "Environments" in the documentation of TRL's `GRPOTrainer`
(docs/source/grpo_trainer.md), word for word; there it trains Qwen/Qwen3-0.6B by `GRPOTrainer(model=..,
args=GRPOConfig(max_steps=1000, chat_template_kwargs={"enable_thinking": False}), environment_factory=IncrementEnv)`.

`multiply` and `async_add` are those of its section "Tools". In place of Qwen3-0.6B there is a tiny model with Qwen3's
chat template, taught on the spot to write calls.
"""

import copy
import random

import pytest
from datasets import Dataset
from taught_model import THINKING, taught, turns_of
from trl import GRPOConfig, GRPOTrainer

from appo import APPOConfig, APPOTrainer
from appo.rollout.records import read_records
from appo.tools.schema_tool import SchemaTool


class IncrementEnv:
    # Reserved methods
    def reset(self, **kwargs) -> str | None:  # required; called at the start of each rollout
        self.counter = 0
        self.target = random.randint(1, 6)  # self-sample the task
        return f"Increment the counter by {self.target}."  # returned string becomes the prompt

    def get_reward(self) -> float:  # optional: the environment scores itself from its own state
        return float(self.counter == self.target)

    # Public methods (exposed as tools)
    def increment(self, step: int) -> int:
        """
        Increment the internal counter.

        Args:
            step: Value to add to the counter.

        Returns:
            The updated counter value.
        """
        self.counter += step
        return self.counter


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.

    Returns:
        The product of the two integers.
    """
    return a * b


async def async_add(a: int, b: int) -> int:
    """
    Asynchronously adds two integers.

    Args:
        a: The first integer.
        b: The second integer.

    Returns:
        The sum of the two integers.
    """
    return a + b


@pytest.fixture(scope="module")
def incrementing():
    """Increments by 3 in one half of its rollouts and by 4 in the other."""
    question, tools = "Increment the counter by 3.", [IncrementEnv().increment]
    return taught([t for n in (3, 4) for t in turns_of(question, [("increment", {"step": n})], [n], tools)])


def settings(tmp_path):
    return {
        "output_dir": str(tmp_path),
        "max_steps": 1,
        "chat_template_kwargs": THINKING,
        "per_device_train_batch_size": 16,
        "num_generations": 16,
        "max_completion_length": 60,
        "steps_per_generation": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "use_cpu": True,
    }


TRAINERS = pytest.mark.parametrize(
    ("trainer_class", "config_class", "own"),
    [
        (GRPOTrainer, GRPOConfig, {}),
        (APPOTrainer, APPOConfig, {"method_args": {"num_initial_rollouts": 8, "num_branch_points": 1}}),
    ],
    ids=["trl", "appo"],
)


@TRAINERS
def test_the_documented_environment_trains(tmp_path, incrementing, monkeypatch, trainer_class, config_class, own):
    monkeypatch.setattr(random, "randint", lambda low, high: 3)  # what the tiny model was taught
    model, tokenizer = copy.deepcopy(incrementing)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = trainer_class(
        model=model,
        args=config_class(**settings(tmp_path), **own),
        processing_class=tokenizer,
        environment_factory=IncrementEnv,
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["tools/call_frequency"] > 0
    assert 0 < logged["rewards/IncrementEnv/mean"] < 1
    assert any((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_sync_and_async_functions_in_one_trainer(tmp_path):
    calls = [("multiply", {"a": 2, "b": 3}), ("async_add", {"a": 2, "b": 3})]
    tools = [multiply, async_add]
    model, tokenizer = taught(turns_of("2 and 3?", calls, [6, 5], tools))
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "2 and 3?"}]}] * 2)
    trainer = APPOTrainer(
        model,
        lambda completions, **_: [float(len(completion)) for completion in completions],
        APPOConfig(**settings(tmp_path), method_args={"num_initial_rollouts": 8, "num_branch_points": 1}),
        rows,
        processing_class=tokenizer,
        tools=tools,
    )
    trainer.train()
    results = {
        (call["name"], call["result"])
        for record in read_records(tmp_path)
        for call in record["tool_calls"]
        if call["arguments"] == {"a": 2, "b": 3}
    }
    assert {("multiply", "6"), ("async_add", "5")} <= results


@TRAINERS
def test_a_tool_that_is_a_json_schema_is_called_in_training(tmp_path, trainer_class, config_class, own):
    called = []
    schema = {"type": "object", "properties": {"一个-数": {"type": "integer"}}, "required": ["一个-数"]}
    double = SchemaTool("double", "Doubles.", schema, lambda arguments: called.append(arguments) or 6)
    model, tokenizer = taught(turns_of("3?", [("double", {"一个-数": 3})], [6], [double]))
    trainer = trainer_class(
        model,
        lambda completions, **_: [float(len(completion)) for completion in completions],
        config_class(**settings(tmp_path), **own),
        Dataset.from_list([{"prompt": [{"role": "user", "content": "3?"}]}] * 2),
        processing_class=tokenizer,
        tools=[double],
    )
    trainer.train()
    assert {"一个-数": 3} in called
    assert trainer.state.log_history[0]["tools/failure_frequency"] < 1
