"""The model card of real, tiny runs: what it says is so, and its snippet runs in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import trl
import yaml
from datasets import Dataset

import appo
from appo import APPOConfig, APPOTrainer
from appo.cli.main import main
from appo.environments import kinship

RECIPE = """
task: kinship
demonstrations: 16
cold_start: {max_steps: 1, per_device_train_batch_size: 4, max_length: 256, save_strategy: "no"}
num_generations: 4
method_args: {num_initial_rollouts: 2, num_branch_points: 1}
per_device_train_batch_size: 8
steps_per_generation: 1
max_steps: 2
save_steps: 1
max_completion_length: 16
learning_rate: 2e-4
tool_protocol: tags
result_format: " <result> {} </result> "
eval_size: 6
train_size: 16
bf16: false
use_cpu: true
report_to: none
logging_steps: 1
"""
TEMPLATE = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()


def run_snippet(card, cwd):
    """What the card's Python prints."""
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout


def read_head(card):
    return yaml.safe_load(card.split("---")[1])


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE + f"output_dir: {tmp_path / 'run'}\n")
    return path


def test_a_runs_card_tells_what_the_run_did(recipe, tmp_path, capsys):
    assert main(["train", str(recipe)]) == 0
    printed = capsys.readouterr().out
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert (tmp_path / "run" / "README.md").read_text() == card
    assert "None" not in card
    assert "A model made on the spot" in card and "base_model" not in read_head(card)
    assert f"| recipe | `{recipe}` |" in card
    for name in ("before", "after"):
        success = re.search(
            rf"^{name} +success ([\d.]+% .* of 6 questions.*), [\d.]+ tool calls", printed, re.MULTILINE
        )[1]
        assert f"| success {name} | {success} |" in card
    assert re.search(r"\| generated tokens \| [1-9][\d,]* \|", card)
    assert "| optimizer steps | 2 |" in card
    for name, version in {
        "appo": appo.__version__,
        "TRL": trl.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }.items():
        assert f"| {name} | {version} |" in card
    assert "2606.12384" in card and "@software{appo," in card
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(settings).items() >= {
        "task": "kinship", "demonstrations": 16, "max_steps": 2, "learning_rate": 2e-4, "num_generations": 4,
    }.items()  # fmt: skip
    assert run_snippet(card, tmp_path).strip()


def test_a_card_names_the_model_that_the_recipe_starts_from(recipe, tmp_path):
    model, tokenizer = kinship.make_model()
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    flags = ["--model", str(tmp_path / "start"), "--eval_size", "0", "--lora", "{target_modules: [q_proj]}"]
    assert main(["train", str(recipe), *flags]) == 0
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"A fine-tuned version of `{tmp_path / 'start'}`" in card
    assert "success" not in card
    assert run_snippet(card, tmp_path).strip()


def search(query: str) -> str:
    """
    Searches.

    Args:
        query: What for, for example ```boss e1```.
    """
    return "e2"


def make(tmp_path, prompts, template, peft_config=None, **options):
    model, tokenizer = kinship.make_model()
    tokenizer.chat_template = template
    args = APPOConfig(
        str(tmp_path / "out"), num_generations=2, method_args={"num_initial_rollouts": 1, "num_branch_points": 1},
        per_device_train_batch_size=2, steps_per_generation=1, max_steps=1, max_completion_length=8, use_cpu=True,
        bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    reward = lambda completions, **_: [0.0] * len(completions)  # noqa: E731
    return APPOTrainer(model, reward, args, rows, processing_class=tokenizer, tools=[search], peft_config=peft_config)


@pytest.mark.parametrize(
    ("prompt", "template", "options"),
    [
        ("boss e1", None, {"tool_protocol": "tags"}),
        ("```boss 'e1'```", None, {"tool_protocol": "tags"}),
        ([{"role": "user", "content": "boss e1"}], TEMPLATE, {"tool_protocol": "tags"}),
        (
            [{"role": "system", "content": "Ask."}, {"role": "user", "content": "```boss e1```"}],
            TEMPLATE,
            {"tool_protocol": "chat_template", "chat_template_kwargs": {"enable_thinking": False}},
        ),
    ],
)
def test_the_snippet_of_a_saved_model_runs(tmp_path, prompt, template, options):
    trainer = make(tmp_path, [prompt] * 4, template, **options)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "None" not in card and "The model calls search" in card
    run_snippet(card, tmp_path)
    trainer.save_model()
    trainer.create_model_card("my-model", "me/data", tags="mine")
    card = (tmp_path / "out" / "README.md").read_text()
    head = read_head(card)
    assert "# my-model" in card
    assert head["datasets"] in ("me/data", ["me/data"])
    assert {"appo", "trl", "mine"} <= set(head["tags"])
    assert f"from_pretrained({str(tmp_path / 'out')!r})" in card


def test_an_adapter_of_a_model_made_on_the_spot_has_no_snippet(tmp_path):
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    trainer = make(tmp_path, ["boss e1"] * 4, None, tool_protocol="tags", peft_config=adapter)
    trainer.save_model()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "adapter of a model made on the spot" in card and "```python" not in card


def test_a_model_of_the_hub_is_named_and_linked(tmp_path):
    trainer = make(tmp_path, ["boss e1"] * 4, None, tool_protocol="tags")
    trainer.model.config._name_or_path = "Qwen/Qwen3-0.6B"
    (tmp_path / "out").mkdir(exist_ok=True)
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A fine-tuned version of [Qwen/Qwen3-0.6B](https://huggingface.co/Qwen/Qwen3-0.6B)" in card
    assert read_head(card)["base_model"] == "Qwen/Qwen3-0.6B"
