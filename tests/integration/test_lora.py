"""LoRA in a recipe: what is saved is what was trained, in the cold start too, whatever the adapter is on."""

import pytest
import torch
from accelerate.utils import is_peft_model
from transformers import AutoModelForCausalLM

from appo.cli import cold_start
from appo.cli import train as run
from appo.cli.main import main
from appo.environments import kinship

RECIPE = """
task: parity_task
demonstrations: 16
cold_start: {max_steps: 3, per_device_train_batch_size: 4, learning_rate: 1e-1, max_length: 256, save_strategy: "no"}
num_generations: 4
method_args: {num_initial_rollouts: 2, num_branch_points: 1}
per_device_train_batch_size: 8
steps_per_generation: 1
max_steps: 2
learning_rate: 1e-1
max_completion_length: 16
tool_protocol: tags
result_format: " <result> {} </result> "
eval_size: 0
train_size: 16
bf16: false
use_cpu: true
report_to: none
save_strategy: "no"
"""
ATTENTION = "target_modules: [q_proj, v_proj]"
# The testbed's model has tied embeddings.
SUPPORTED = {
    "attention": f"{{{ATTENTION}}}",
    "all linear": "{target_modules: all-linear}",
    "embeddings": "{target_modules: [q_proj, embed_tokens]}",
    "embeddings by a pattern": "{target_modules: '.*(q_proj|embed_tokens)'}",
    "embeddings with DoRA": "{target_modules: [q_proj, embed_tokens], use_dora: true}",
    "embeddings as a parameter": f"{{{ATTENTION}, target_parameters: [embed_tokens.weight]}}",
    "whole embeddings": f"{{{ATTENTION}, modules_to_save: [embed_tokens]}}",
    "whole output layer": f"{{{ATTENTION}, modules_to_save: [lm_head]}}",
    "both": f"{{{ATTENTION}, modules_to_save: [embed_tokens, lm_head]}}",
    "both as one": f"{{{ATTENTION}, modules_to_save: [embed_tokens], ensure_weight_tying: true}}",
    "biases": f"{{{ATTENTION}, bias: all}}",
}
REFUSED = {
    "output layer": "{target_modules: [q_proj, lm_head]}",
    "both": "{target_modules: [embed_tokens, lm_head]}",
    "both as one": "{target_modules: [q_proj, embed_tokens], ensure_weight_tying: true}",
    "some tokens": f"{{{ATTENTION}, trainable_token_indices: [5, 6]}}",
    "some tokens of both": f"{{{ATTENTION}, trainable_token_indices: {{embed_tokens: [5], lm_head: [5]}}}}",
}


TASK = """
from dataclasses import replace
from appo.environments import kinship

def parity(completion_ids, **columns):
    return [float(sum(ids) % 2) for ids in completion_ids]  # something in which a random model's rollouts differ

TASK = replace(kinship.TASK, reward_funcs=[parity], environment_factory=None)
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "parity_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + f"output_dir: {tmp_path / 'run'}\n")
    return str(path)


def logits_of(model):
    """(1, T, V) logits of a fixed text."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 43)[None]).logits


@pytest.mark.parametrize("lora", SUPPORTED)
def test_the_saved_model_has_the_logits_of_the_trained_one(recipe, tmp_path, monkeypatch, lora):
    trained, start = {}, {}
    save = cold_start.save_model

    def save_model(trainer, tokenizer, directory, *notes):
        model = trainer.accelerator.unwrap_model(trainer.model)
        assert is_peft_model(model)
        trained[directory.name] = logits_of(model)
        with model.disable_adapter():
            start[directory.name] = logits_of(model)
        save(trainer, tokenizer, directory, *notes)

    monkeypatch.setattr(cold_start, "save_model", save_model)
    monkeypatch.setattr(run, "save_model", save_model)
    assert main(["train", recipe, "--lora", SUPPORTED[lora]]) == 0
    for name in ("cold_start", "model"):
        saved = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / name))
        torch.testing.assert_close(saved, trained[name], rtol=0, atol=1e-4)
        assert (trained[name] - start[name]).abs().max() > 1e-3  # else there would be nothing to lose


@pytest.mark.parametrize("command", ["train", "sft"])
@pytest.mark.parametrize("lora", REFUSED)
def test_an_adapter_that_is_never_trained_is_refused(recipe, tmp_path, capsys, command, lora):
    demonstrations = [] if command == "sft" else ["--demonstrations", "0"]
    assert main([command, recipe, "--lora", REFUSED[lora], *demonstrations]) == 2
    error = capsys.readouterr().err
    assert error.startswith("appo: ") and error.count("\n") == 1
    assert "lm_head" in error or "output layer" in error


@pytest.mark.parametrize("lora", REFUSED)
def test_it_is_a_mistake_in_the_dry_run(recipe, tmp_path, capsys, lora):
    model, tokenizer = kinship.make_model()
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    assert main(["train", recipe, "--model", str(tmp_path / "start"), "--lora", REFUSED[lora], "--dry-run"]) == 2
    assert "lora: an adapter on the output layer is never trained" in capsys.readouterr().out


def test_some_tokens_of_embeddings_that_are_not_shared(recipe, tmp_path):
    model, tokenizer = kinship.make_model()
    model.config.tie_word_embeddings = False
    type(model)(model.config).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    lora = f"{{{ATTENTION}, trainable_token_indices: [5, 6]}}"
    flags = ["--model", str(tmp_path / "start"), "--demonstrations", "0", "--lora", lora]
    assert main(["train", recipe, *flags]) == 0
