"""What training saves is what an agent asks: the same prompt, token by token, and the same settings."""

import io
import json
import re
from pathlib import Path

import pytest
import trl
from datasets import Dataset
from training_parts import RESULT, make_trainer

import appo
from appo import APPOConfig, APPOTrainer
from appo.cli.main import main
from appo.environments import kinship
from appo.models.usage import FILE

TEMPLATE = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
RECIPE = """
task: kinship
demonstrations: 16
cold_start: {max_steps: 1, per_device_train_batch_size: 4, max_length: 256, save_strategy: "no"}
num_generations: 4
method_args: {num_initial_rollouts: 2, num_branch_points: 1}
per_device_train_batch_size: 8
steps_per_generation: 1
max_steps: 1
max_completion_length: 16
tool_protocol: tags
result_format: " <result> {} </result> "
eval_size: 6
train_size: 16
bf16: false
use_cpu: true
report_to: none
"""


def boss(name: str) -> str:
    """Tells the boss.

    Args:
        name: Whose.
    """
    return "e2"


class Office:
    """Knows a friend, too."""

    def reset(self, **row):
        return " today"

    def friend(self, name: str) -> str:
        """Tells the friend.

        Args:
            name: Whose.
        """
        return "e3"


def asked_in_training(directory, prompt, template, factory=None, **options):
    """The tokens of a prompt as a trainer has them, whose model is saved."""
    model, tokenizer = kinship.make_model()
    tokenizer.chat_template = template
    args = APPOConfig(
        str(directory / "out"), num_generations=2, method_args={"num_initial_rollouts": 1, "num_branch_points": 1},
        per_device_train_batch_size=2, steps_per_generation=1, max_steps=1, max_completion_length=8, use_cpu=True,
        bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, save_report=False, **options,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": prompt}] * 4)
    trainer = APPOTrainer(
        model, lambda completions, **_: [0.0] * len(completions), args, rows, processing_class=tokenizer, tools=[boss],
        environment_factory=factory,
    )  # fmt: skip
    trainer.save_model(str(directory / "model"))
    return trainer.writer.write([rows[0]], 1)[0].initial[0].prompt_ids


USER, SYSTEM = {"role": "user", "content": "boss e1"}, {"role": "system", "content": "sister"}


@pytest.mark.parametrize(
    ("prompt", "template", "options"),
    [
        ("boss e1", None, {"tool_protocol": "tags"}),
        ("boss e1", TEMPLATE, {"tool_protocol": "tags"}),  # a template that the training did not use
        ([SYSTEM, USER], TEMPLATE, {"tool_protocol": "tags"}),
        ([SYSTEM, USER], TEMPLATE, {"chat_template_kwargs": {"enable_thinking": False}}),
        ([USER], TEMPLATE, {}),
    ],
)
@pytest.mark.parametrize("factory", [None, Office])
def test_an_agent_asks_as_the_training_did(tmp_path, prompt, template, options, factory):
    trained = asked_in_training(tmp_path, prompt, template, factory, **options)
    agent = appo.Agent(str(tmp_path / "model"), [boss], environment_factory=factory)
    assert agent("boss e1").rollout.prompt_ids == trained
    assert agent.settings.max_completion_length == 8
    assert set(agent.tools) == ({"boss", "friend"} if factory else {"boss"})


def test_a_checkpoint_says_it_too(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    own = json.loads((tmp_path / "checkpoint-1" / FILE).read_text())
    assert own["result_format"] == RESULT and own["prompts"] == "text" and own["tools"] == ["search"]


@pytest.mark.parametrize("lora", [False, True])
def test_a_recipes_models_are_asked_with_the_tools_of_its_task(tmp_path, capsys, monkeypatch, lora):
    if lora:
        pytest.importorskip("peft")
    (tmp_path / "tiny.yaml").write_text(RECIPE + f"output_dir: {tmp_path / 'run'}\n")
    assert main(["train", str(tmp_path / "tiny.yaml"), *(["--lora", "{target_modules: [q_proj]}"] * lora)]) == 0
    printed = capsys.readouterr().out
    assert f"curves      {tmp_path / 'run' / 'curves.png'}" in printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["report"] == str(tmp_path / "run" / "report.html")
    row = kinship.make_dataset(1, seed=4)[0]
    for name in ("model", "cold_start"):
        own = json.loads((tmp_path / "run" / name / FILE).read_text())
        assert (own["tool_protocol"], own["tools"], own["prompts"]) == ("tags", ["search"], "text")
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(row) + "\n"))
        assert main(["chat", str(tmp_path / "run" / name)]) == 0
        assert re.search(r"\(\d+ tokens, \d+ calls?", capsys.readouterr().out)


def test_the_report_is_written_at_the_end_and_named(tmp_path, capsys):
    pytest.importorskip("appo.report.html.write")
    trainer = make_trainer(tmp_path, max_steps=1, save_report=True)
    trainer.train()
    assert f"report      {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
