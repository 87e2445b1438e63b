"""A run and its dry run say the same, in the same words; what a task makes is looked into, and asked for once."""

import sys

import pytest

from appo.cli.checks import CHECKS, findings, raise_first
from appo.cli.context import Context, Note, Problem
from appo.cli.main import main
from appo.cli.recipe import RecipeError, read_recipe
from appo.environments import kinship

SHAPED = """
from dataclasses import replace
from datasets import Dataset
from appo.environments import kinship
from appo.models.loading import read_model

CALLS = []
CHAT = Dataset.from_list([{{"prompt": [{{"role": "user", "content": "boss e1"}}]}}] * 40)

def dataset(size, seed):
    CALLS.append(("dataset", seed))
    return kinship.TASK.dataset(size, seed)

def demonstrations(size, seed):
    CALLS.append(("demonstrations", seed))
    return kinship.TASK.demonstrations(size, seed)

TASK = replace(kinship.TASK, **{{"dataset": dataset, "demonstrations": demonstrations, **{fields}}})
"""


@pytest.fixture
def shaped(tmp_path, monkeypatch):
    """Writes a task like the testbed but for these fields."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(fields="{}"):
        (tmp_path / "shaped.py").write_text(SHAPED.format(fields=fields))
        monkeypatch.delitem(sys.modules, "shaped", raising=False)
        return "shaped"

    return write


@pytest.mark.parametrize(
    ("changes", "fields", "sentence"),
    [
        ({"output_dir": "/proc/none"}, "{}", "output_dir = '/proc/none' cannot be made: "),
        ({"resume_from_checkpoint": "none"}, "{}", "resume_from_checkpoint = 'none' is no directory"),
        ({"lora": {"rank": 4}}, "{}", "lora: "),
        ({"train_size": 3}, "{}", "data: 3 tasks do not fill a generation of 4; give more"),
        ({"reward_weights": [1.0, 2.0]}, "{}", "reward_weights = [1.0, 2.0], but the task's reward functions are 1"),
        ({}, "{'reward_funcs': []}", "rewards: the task has no reward source; give its reward_funcs"),
        (
            {},
            "{'dataset': lambda size, seed: None}",
            "task = 'shaped': the task's data must be a datasets.Dataset",
        ),
        ({}, "{'make_model': None}", "task = 'shaped' makes no model; name one: model: DIR_OR_NAME."),
        (
            {},
            "{'demonstrations': None}",
            "task = 'shaped' has no demonstrations; name traces, or set dem",
        ),
        ({"cold_start": {"packing": True}}, "{}", "cold_start: packing and padding_free are not supported; set them"),
        ({"model": "/no/such/model"}, "{}", "model = '/no/such/model' cannot be loaded: there is no such directory"),
        # A model that the task makes is looked into like one that is read.
        (
            {"max_completion_length": 1025},
            "{}",
            "max_completion_length = 1025 exceeds the model's context of 1024",
        ),
        ({"tool_protocol": "chat_template"}, "{}", "tool_protocol: "),
        (
            {},
            "{'dataset': lambda size, seed: CHAT}",
            "data: the task's prompts are messages, but the model's",
        ),
        ({"model": "MODEL", "max_completion_length": 5000}, "{}", "max_completion_length = 5000 exceeds the model's"),
        ({"model": "MODEL", "tool_protocol": "chat_template"}, "{}", "tool_protocol: "),
        ({"model": "MODEL"}, "{'dataset': lambda size, seed: CHAT}", "data: the task's prompts are messages, but the"),
    ],
)
def test_a_run_says_what_its_dry_run_says_and_loads_nothing(
    recipe, shaped, capsys, model_directory, changes, fields, sentence
):
    changes = {name: model_directory if value == "MODEL" else value for name, value in changes.items()}
    path = recipe(task=shaped(fields), **changes)
    assert main(["train", path]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"appo: {sentence}") and told.count("\n") == 1
    assert main(["train", path, "--dry-run"]) == 2
    assert f"mistake: {told.removeprefix('appo: ')}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "found"), [("None", "None."), ("1, 2", "(int, int)."), ("kinship.make_model()[0]", "LlamaForCausalLM.")]
)
def test_a_make_model_that_makes_none_is_told_by_both(recipe, shaped, capsys, made, found):
    path = recipe(task=shaped(f"{{'make_model': lambda: ({made})}}"), demonstrations=0)
    sentence = f"task = 'shaped': make_model() must return a transformers model and its tokenizer, got {found}"
    assert main(["train", path]) == 2
    assert capsys.readouterr().err == f"appo: {sentence}\n"
    assert main(["train", path, "--dry-run"]) == 2
    assert f"mistake: {sentence}\n" in capsys.readouterr().out


def test_demonstrations_that_are_all_too_long_are_told_by_the_dry_run(recipe, capsys):
    assert main(["train", recipe(cold_start={"max_length": 4}), "--dry-run"]) == 2
    assert "mistake: cold_start: 20 of the first 20 demonstrations are longer" in capsys.readouterr().out


def test_a_model_that_the_task_loads_is_not_loaded_by_the_dry_run(recipe, shaped, capsys, monkeypatch, tmp_path):
    monkeypatch.undo()  # the real from_pretrained
    monkeypatch.syspath_prepend(tmp_path)
    model, tokenizer = kinship.make_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    loading = (
        f"{{'make_model': lambda: __import__('appo.models.loading').models.loading.read_model('{tmp_path}/model')}}"
    )
    assert main(["train", recipe(task=shaped(loading)), "--dry-run"]) == 0
    assert "not checked: model: that of the task is loaded with its weights." in capsys.readouterr().out


def test_what_a_task_returns_is_asked_for_once(recipe, shaped, capsys):
    assert main(["train", recipe(task=shaped(), train_seed=1, eval_seed=2), "--dry-run"]) == 0
    assert sys.modules["shaped"].CALLS == [("dataset", 1), ("dataset", 2), ("demonstrations", 1)]


def test_what_cannot_be_made_is_told_once_and_skips_what_needs_it(recipe, capsys):
    context = Context("train", *read_recipe(recipe(model="/no/such/model"), []), planning=True)
    (problem,) = [finding for finding in findings(context, CHECKS) if isinstance(finding, Problem)]
    assert problem.message.startswith("model = '/no/such/model' cannot be loaded")


def test_a_check_of_ones_own_is_a_function_in_a_list(recipe):
    def short(context):
        yield Note("rollouts are short")
        if context.args.max_completion_length < 64:
            yield Problem(f"max_completion_length = {context.args.max_completion_length} is too short.")

    context = Context("train", *read_recipe(recipe(), []))
    with pytest.raises(RecipeError, match=r"max_completion_length = 32 is too short\."):
        raise_first(context, [short])
    context.args.max_completion_length = 64
    assert raise_first(context, [short]) == ["rollouts are short"]
