"""What the pages of the manual take for granted: names such as `my_reward`, and the files that they read.

Everything is real and small: a model that was taught to call a tool, in the directory where a hub would put it; rows;
a finished run with records and a model; a corpus; data sets in the layouts that the pages name.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pages
import torch
from datasets import Dataset
from taught_model import THINKING, taught, turns_of

from appo import APPOConfig, APPOTrainer
from appo.cli.serve import open_endpoint, read_flags
from appo.environments import kinship
from appo.evaluation import evaluate
from appo.serve.app import make_app
from appo.serve.server import Server


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: The city.

    Returns:
        A sentence.
    """
    return f"It is hot in {city}."


def my_search(query: str) -> str:
    """Searches.

    Args:
        query: What for.

    Returns:
        What was found.
    """
    return f"Nothing about {query}."


async def my_weather_service(city: str, unit: str) -> str:
    return f"30 {unit} in {city}"


def my_reward(completions: list[Any], **kwargs: Any) -> list[float]:
    """1 where the completion names a city of the tool's answer."""
    return [float("hot in Paris" in json.dumps(completion)) for completion in completions]


def my_rows(size: int = 2, seed: int = 0) -> Dataset:
    question = {"role": "user", "content": "Weather in Paris?"}
    return Dataset.from_list([{"prompt": [question], "answer": "hot", "answers": ["hot"]}] * size)


def make_hub(directory: Path) -> None:
    """`Qwen/Qwen3-0.6B` as a directory: transformers looks there before it asks the hub."""
    turns = [turn for city in ("Paris", "Rome") for turn in turns_of(
        "Weather in Paris?", [("weather", {"city": city})], [weather(city)], [weather]
    )]  # fmt: skip
    model, tokenizer = taught(turns)
    model.config.max_position_embeddings = 40_960  # as Qwen3's; positions are rotated, so no weight depends on it
    for part in (model, tokenizer):
        part.save_pretrained(directory / "Qwen" / "Qwen3-0.6B")


TASK = "2.0.2"  # one of the run's last update


def make_run(directory: Path) -> None:
    """`runs/kinship`: four updates on the testbed, with records, an evaluation and a model."""
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    args = APPOConfig(
        str(directory / "runs" / "kinship"),
        num_generations=4,
        method_args={"num_initial_rollouts": 2, "num_branch_points": 1},
        per_device_train_batch_size=8,
        steps_per_generation=2,
        max_steps=4,
        max_completion_length=24,
        tool_protocol="tags",
        result_format=" <result> {} </result> ",
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = APPOTrainer(
        model,
        kinship.exact_answer,
        args,
        kinship.make_dataset(16, seed=0),
        processing_class=tokenizer,
        environment_factory=kinship.KinshipEnvironment,
    )
    trainer.train()
    evaluate(trainer, kinship.make_dataset(8, seed=1), batch_size=8, records="after")
    trainer.save_model(str(directory / "runs" / "kinship" / "model"))
    tokenizer.save_pretrained(directory / "runs" / "kinship" / "model")


def make_data(directory: Path) -> None:
    """The files of an example, a corpus, a search cache, a benchmark, and RL data in verl's layout."""
    texts = {"Accra": "Accra is the capital of Ghana.", "Ghana": "Ghana is a country in West Africa."}
    lines = [json.dumps({"title": title, "text": text}) for title, text in texts.items()]
    (directory / "wiki.jsonl").write_text("\n".join(lines))
    cache = {"capital of Ghana": "Page 1: Accra is the capital.", "Campfire Tales": "Page 1: A film of 1997."}
    (directory / "search_cache.json").write_text(json.dumps(cache))
    (directory / "DIR").mkdir()
    row = {"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
    (directory / "DIR" / "gsm8k.jsonl").write_text(json.dumps(row) + "\n")
    questions = [f"What is {number} + 1?" for number in range(300)]
    Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": question}],
                "reward_model": {"ground_truth": str(number + 1), "style": "rule"},
                "data_source": "made",
                "ability": "math",
                "extra_info": {"index": number, "question": question},
            }
            for number, question in enumerate(questions)
        ]
    ).to_parquet(str(directory / "train_10k.parquet"))
    for example in ("tickets", "agents"):
        for file in (pages.REPOSITORY / "examples" / example).glob("*.*"):
            shutil.copy(file, directory)
    suite = directory / "my_suite" / "tasks" / "first"  # as Harbor has them
    suite.mkdir(parents=True)
    (suite / "task.toml").write_text('[metadata]\ngold_answer = "4"\n')
    (suite / "instruction.md").write_text("What is 2 + 2?")
    valid = [json.dumps({"question": f"What is {n} + 2?", "answer": str(n + 2)}) for n in range(20)]
    (directory / "my_valid.jsonl").write_text("\n".join(valid))


# As base models have it: it shows neither tools nor calls.
WITHOUT_TOOLS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def serve_weather() -> None:
    """What `appo serve Qwen/Qwen3-0.6B --port 8700` starts, to the end of this process."""
    endpoint = open_endpoint(read_flags(["Qwen/Qwen3-0.6B"]))
    Server(port=8700).start(make_app(endpoint))


def names(page: str) -> dict[str, Any]:
    """What a page calls by a name of the reader's, made anew."""
    if page == "serve":
        serve_weather()
    model, tokenizer = taught(turns_of("Weather in Paris?", [("weather", {"city": "Paris"})], ["hot"], [weather]), 1)
    if page == "protocols":
        tokenizer.chat_template = WITHOUT_TOOLS
    args = APPOConfig(
        "runs/mine",
        num_generations=4,
        method_args={"num_initial_rollouts": 2, "num_branch_points": 1},
        per_device_train_batch_size=8,
        steps_per_generation=1,
        max_completion_length=32,
        chat_template_kwargs=THINKING,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    return {
        "model": model,
        "tokenizer": tokenizer,
        "args": args,
        "weather": weather,
        "my_search": my_search,
        "my_weather_service": my_weather_service,
        "my_reward": my_reward,
        "my_rows": my_rows(8),
        "my_dataset": my_rows,
        "my_demonstrations": kinship.make_demonstrations,
    }
