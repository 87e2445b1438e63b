"""The dry run: the plan's arithmetic by hand, every mistake at once, and no weights."""

import json
import shutil
import sys
from datetime import date
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import PreTrainedModel

from appo import APPOConfig, APPOTrainer
from appo.cli.main import main
from appo.cli.memory import Sizes, estimate
from appo.cli.recipe import collect_settings, read_recipe
from appo.cli.run_plan import RunPlan, cold_start_updates
from appo.environments import kinship

RECIPES = Path(__file__).parents[3] / "recipes"
PAPER = sorted(path.name for path in RECIPES.glob("paper-*.yaml"))


@pytest.fixture(autouse=True)
def _no_weights_no_network(monkeypatch):
    """Fails what loads weights; gives the hub no chance; takes back what a dry run permits."""

    def load(*args, **kwargs):
        raise AssertionError("a dry run loaded weights")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load))
    monkeypatch.setattr(kinship.TASK, "make_model", load)
    monkeypatch.setattr("appo.tools.python._unisolated_allowed", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SERPER_API_KEY", "a-key")


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    """A model's directory with configuration and tokenizer, but without weights."""
    directory = tmp_path_factory.mktemp("model")
    model, tokenizer = kinship.make_model()
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def recipe(tmp_path, **changes):
    values = {
        "task": "kinship",
        "output_dir": str(tmp_path / "run"),
        "demonstrations": 20,
        "cold_start": {"max_length": 256, "per_device_train_batch_size": 4, "num_train_epochs": 3},
        "num_generations": 4,
        "num_initial_rollouts": 2,
        "num_branch_points": 1,
        "per_device_train_batch_size": 8,
        "steps_per_generation": 2,
        "max_completion_length": 32,
        "tool_protocol": "tags",
        "result_format": " <result> {} </result> ",
        "train_size": 40,
        "save_steps": 2,
        "eval_size": 10,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        **changes,
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
    return str(path)


def plan_of(capsys):
    lines = capsys.readouterr().out.splitlines()
    return {line[2:20].strip(): line[21:] for line in lines if line.startswith("  ")}, lines


# ---- the plan ----


def test_a_plan_by_hand(tmp_path, capsys, model_directory):
    assert main(["train", recipe(tmp_path, model=model_directory), "--dry-run"]) == 0
    plan, lines = plan_of(capsys)
    # 40 tasks in generations of 8 x 2 / 4 = 4; 3 epochs of 10 generations of 2 updates of 2 tasks
    assert plan["tasks"] == "40, 4 rollouts each (branches included)"
    assert plan["generation"] == "4 tasks, 8 initial rollouts; then 2 updates"
    assert plan["update"] == "2 tasks (processes x tasks: 1 x 2), 4 branches; forwards on each: 1 x 4 rollouts"
    # 30 generations x 8 initial rollouts, 60 updates x 4 branches
    assert plan["run"] == "30 generations, 60 updates, 480 rollouts"
    # 8 rollouts of an update x 32 tokens, half of them initial; 480 x 32
    assert plan["tokens, at most"] == "32 a rollout; 256 an update, 128 of them trained on; 15,360 in all"
    assert plan["checkpoints"] == "30, every 2 updates"
    # 20 / 4 = 5 batches, 3 epochs
    assert plan["cold start"].endswith("batches of 4; 3 epoch(s); at most 256 tokens each; 15 updates")
    assert plan["tools"] == "search; protocol tags"
    assert plan["evaluation"] == "10 questions, before and after"
    assert "0.2 M parameters, all trained; context of 1,024 tokens" in plan["model"]
    assert lines[-1] == "No mistakes found."
    assert not (tmp_path / "run").exists()


def test_several_processes_multiply_tasks(tmp_path):
    _, args, sft_args = read_recipe(recipe(tmp_path, num_processes=8), [])
    plan = RunPlan(args, 8, 100)
    assert (plan.tasks_per_update, plan.tasks_per_generation) == (16, 32)
    assert plan.updates == 3 * 3 * 2  # 3 epochs of 100 // 32 generations
    assert cold_start_updates(sft_args, 8, 100) == 3 * 4  # ceil(100 / 32)


@pytest.mark.parametrize("values", [{"num_train_epochs": 2}, {"max_steps": 3}, {"num_iterations": 2}])
def test_the_updates_are_those_of_the_trainer(tmp_path, tiny, values):
    model, tokenizer = tiny
    args = APPOConfig(
        str(tmp_path), num_generations=4, num_initial_rollouts=2, num_branch_points=1, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, steps_per_generation=4, max_completion_length=2, tool_protocol="tags",
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", **{"num_train_epochs": 1, **values},
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "boss e1"}] * 5)
    trainer = APPOTrainer(
        model, lambda completions, **_: [0.0] * len(completions), args, rows, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.state.global_step == RunPlan(args, 1, 5).updates


# ---- mistakes ----


def test_every_mistake_is_told_at_once(tmp_path, capsys, model_directory):
    path = recipe(
        tmp_path,
        model=model_directory,
        learning_rat=1.0,
        seed=-1,
        num_initial_rollouts=3,
        max_completion_length=5000,
        save_steps=3,
        train_size=3,
        traces=[str(tmp_path / "none.jsonl")],
        cold_start={"packing": True, "max_length": "many"},
    )
    assert main(["train", path, "--dry-run", "--temperature", "0"]) == 2
    out = capsys.readouterr().out
    for sentence in (
        "unknown field learning_rat; did you mean learning_rate?",
        "seed must be at least 0, got -1",
        "temperature must be above 0",
        "must equal num_generations, got 3 * (1 + 1) = 6 and num_generations = 4",
        "cold_start: max_length: invalid int value: 'many'",
        "packing and padding_free are not supported",
        f"there is no file {tmp_path / 'none.jsonl'}",
        "max_completion_length = 5000 exceeds the model's context of 1024 tokens",
    ):
        assert sum(line.startswith("mistake: ") and sentence in line for line in out.splitlines()) == 1, sentence
    # What follows from a field that is gone is no mistake of the recipe.
    assert "must hold whole tasks" not in out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_size": 3}, "data: 3 tasks do not fill a generation of 4"),
        ({"task": "nothing.here"}, "task = 'nothing.here' is none of kinship"),
        ({"model": "/no/such/model"}, "model = '/no/such/model' cannot be loaded"),
        ({"output_dir": "/proc/none"}, "output_dir = '/proc/none' cannot be made"),
        (
            {"task": "tool_qa", "task_args": {"data": "none.parquet", "tools": ["python"]}},
            "data = 'none.parquet': there",
        ),
        ({"task": "tool_qa", "task_args": {"data": "hub/name", "search": "serper"}}, "SERPER_API_KEY is not set"),
        ({"cold_start": {"max_length": 4}}, "longer than max_length = 4; raise it"),
        ({"lora": {"rank": 4}}, "lora: "),
        ({"lora": {"r": "64"}}, "lora: "),
        ({"lora": {"target_modules": 5}}, "lora: "),
        ({"lora": {"r": 2, "day": date(2024, 1, 31)}}, "lora: "),
        ({"model_init_kwargs": {"dtype": "bf"}}, "model_init_kwargs: torch has no dtype 'bf'; use float32"),
        ({"tool_protocol": "chat_template"}, "tool_protocol: "),
    ],
)
def test_a_mistake_of_each_kind(tmp_path, capsys, monkeypatch, model_directory, changes, sentence):
    monkeypatch.delenv("SERPER_API_KEY")
    assert main(["train", recipe(tmp_path, **{"model": model_directory, **changes}), "--dry-run"]) == 2
    assert any(line.startswith("mistake: ") and sentence in line for line in capsys.readouterr().out.splitlines())


def test_a_model_without_tokenizer_is_a_mistake(tmp_path, capsys, model_directory):
    (tmp_path / "bare").mkdir()
    shutil.copy(Path(model_directory) / "config.json", tmp_path / "bare")
    assert main(["train", recipe(tmp_path, model=str(tmp_path / "bare")), "--dry-run"]) == 2
    (mistake,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mistake: "))
    assert f"model = '{tmp_path / 'bare'}': its tokenizer cannot be loaded: Couldn't" in mistake


def test_a_template_that_refuses_prompts_is_a_mistake(tmp_path, capsys, model_directory):
    refusing = tmp_path / "refusing"
    shutil.copytree(model_directory, refusing)
    (refusing / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")
    (tmp_path / "data.jsonl").write_text('{"question": "a?", "answer": "b"}\n' * 40)
    (tmp_path / "cache.json").write_text("{}")
    args = {"data": str(tmp_path / "data.jsonl"), "search": f"cache:{tmp_path / 'cache.json'}", "tools": ["search"]}
    values = {"task": "tool_qa", "task_args": {**args, "held_out": 0}, "demonstrations": 0, "eval_size": 0}
    assert main(["train", recipe(tmp_path, model=str(refusing), **values), "--dry-run"]) == 2
    assert "data: the chat template refuses messages: System role not supported." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (5, "task: 'int' object has no attribute 'upper' (AttributeError in {file}, line 4)"),
        ("a", "data: 'str' object has no attribute 'rows' (AttributeError in {file}, line 5)"),
    ],
)
def test_a_fault_in_a_tasks_code_is_a_mistake_with_its_place(tmp_path, capsys, monkeypatch, name, sentence):
    file = tmp_path / "stumbling_task.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from appo.environments import kinship\n"
        "def TASK(name):\n"
        "    name = name.upper()\n"
        "    return replace(kinship.TASK, dataset=lambda size, seed: name.rows)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stumbling_task", raising=False)
    path = recipe(tmp_path, task="stumbling_task", task_args={"name": name}, eval_size=0)
    assert main(["train", path, "--dry-run"]) == 2
    shown = capsys.readouterr()
    assert f"mistake: {sentence.format(file=file)}" in shown.out.splitlines()
    assert f'File "{file}", line' in shown.err


def test_other_processes_than_planned_are_a_mistake(tmp_path, monkeypatch):
    from appo.cli.dry_run import DryRun

    monkeypatch.setattr(APPOConfig, "world_size", 4)
    found = {}
    for planned in (2, 4):
        run = DryRun("train", *read_recipe(recipe(tmp_path, num_processes=planned), []), [])
        run._processes()
        found[planned] = run.mistakes
    assert found == {2: ["num_processes = 2, but 4 run."], 4: []}


def test_demonstrations_need_a_source(tmp_path, capsys):
    path = recipe(tmp_path, task="tool_qa", task_args={"data": "hub/name", "tools": ["python"]}, model="hub/model")
    assert main(["sft", path, "--dry-run", "--allow_unisolated", "true"]) == 2
    assert "task = 'tool_qa' has no demonstrations; name traces" in capsys.readouterr().out


def test_traces_that_do_not_fit_are_mistakes(tmp_path, capsys, model_directory):
    row = {"prompt": "boss e1", "response": "<python> 1 </python> <result> 1 </result>"}
    (tmp_path / "traces.jsonl").write_text(json.dumps(row))
    path = recipe(tmp_path, model=model_directory, traces=[str(tmp_path / "traces.jsonl")], demonstrations=0)
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "traces call python (1 calls), but the tools of the task are search." in out
    assert "traces hold no <answer>..</answer> at all" in out
    assert "tokenizer has no chat template" in out


def test_no_bubblewrap_is_a_mistake_and_the_rest_is_looked_into(tmp_path, capsys, monkeypatch):
    def missing():
        raise RuntimeError("bubblewrap is missing: install it.")

    monkeypatch.setattr("appo.tools.python.bubblewrap", missing)
    (tmp_path / "data.jsonl").write_text('{"question": "a?", "answer": "b"}\n' * 30)
    task_args = {"data": str(tmp_path / "data.jsonl"), "held_out": 0, "tools": ["python"]}
    path = recipe(tmp_path, task="tool_qa", task_args=task_args, model="hub/model", demonstrations=0, eval_size=0)
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert out.count("bubblewrap is missing") == 1
    assert "python (not isolated)" in out
    assert "30, 4 rollouts each" in out
    assert "1 mistake(s)." in out


def test_a_prompt_longer_than_the_context(tmp_path, capsys, model_directory):
    short = tmp_path / "short"
    shutil.copytree(model_directory, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4}))
    assert main(["train", recipe(tmp_path, model=str(short)), "--dry-run"]) == 2
    assert "tokens, but the model's context holds 4." in capsys.readouterr().out


def test_too_little_memory_on_the_gpu_is_a_mistake(tmp_path, capsys, monkeypatch, model_directory):
    class Small:
        total_memory = 1_000_000

    path = recipe(tmp_path, model=model_directory)
    settings, _ = collect_settings(path)
    from appo.cli.dry_run import DryRun

    run = DryRun("train", *settings, [])
    run.args.use_cpu = False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Small)
    run.look()
    assert any(m.startswith("APPO needs some 0 GB on a GPU, but this one has 0") for m in run.mistakes)


def test_a_flag_of_any_form_asks_for_it_and_false_does_not(tmp_path, capsys):
    path = recipe(tmp_path)
    for flags in (["--dry_run"], ["--dry-run", "--seed", "1"], ["--dry_run=true"]):
        assert main(["sft", path, *flags]) == 0
        assert "No mistakes found." in capsys.readouterr().out
    assert main(["train", recipe(tmp_path, dry_run=True), "--train_size", "3"]) == 2
    assert "do not fill a generation" in capsys.readouterr().out
    assert main(["sft", path, "--dry-run", "false", "--model", "/no/such/model"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err


def test_a_task_that_cannot_be_made_leaves_the_rest_unchecked(tmp_path, capsys):
    path = recipe(tmp_path, task="tool_qa", task_args={"data": "rows.jsonl", "tools": ["dig"]})
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "not checked: tools, data and prompts: the task could not be made." in out
    assert "mistake: task_args: tools must be some of search, python" in out


# ---- recipes ----


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_every_recipe_passes(name, capsys):
    if name.startswith("smollm2"):
        pytest.importorskip("reasoning_gym", reason="needs pip install appo[smollm2]")
    code = main(["train", str(RECIPES / name), "--dry-run", "--allow_unisolated", "true"])
    out = capsys.readouterr().out
    mistakes = [line for line in out.splitlines() if line.startswith("mistake:")]
    assert code == (2 if mistakes else 0)
    if name == "smollm2-qa.yaml":  # examples/smollm2_qa.py makes its files
        mistakes = [line for line in mistakes if "runs/smollm2-qa-data/" not in line]
    assert mistakes == []
    if name in PAPER:
        assert "not checked: model and tokenizer: " in out
        assert "not checked: traces: dongguanting/ARPO-SFT-54K" in out
        # Only an adapter may be trained beside weights of 16 bits without DeepSpeed.
        adapter = "lora" in name or "1gpu" in name
        assert ("note: all weights are trained in bfloat16" in out) is not adapter


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    config, args, sft_args = read_recipe(str(RECIPES / name), [])
    plan = RunPlan(args, config.num_processes, config.train_size)
    assert (plan.tasks_per_generation, plan.tasks_per_update) == (128, 16)
    assert config.num_processes == (1 if "1gpu" in name else 16 if name == "paper-search-14b.yaml" else 8)
    tree = (args.num_generations, args.num_initial_rollouts, args.num_branch_points, args.num_branch_rounds)
    assert tree == (16, 4, 3, 1)
    assert (args.future_weight, args.gamma, args.future_clip) == (0.5, 2 ** (-1 / 32), [1.0, 1.2])
    assert (args.beta, args.epsilon, args.epsilon_high) == (0.0, 0.2, 0.28)
    reasoning = "reasoning" in name
    assert args.max_completion_length == (4096 if reasoning else 8192)
    assert (args.num_train_epochs, config.train_size) == ((2, 10_000) if reasoning else (5, 1071))
    assert config.task_args["data"].endswith("Reasoning-10K" if reasoning else "DeepSearch-1K")
    assert (sft_args.num_train_epochs, sft_args.max_length, sft_args.weight_decay) == (3, 4096, 0.1)
    batch = config.num_processes * sft_args.per_device_train_batch_size * sft_args.gradient_accumulation_steps
    assert batch == 128
    adapter = config.lora is not None
    assert adapter == ("lora" in name or "1gpu" in name)
    # An adapter's learning rates are ours: ten times the paper's.
    assert (args.learning_rate, sft_args.learning_rate) == ((1e-5, 7e-5) if adapter else (1e-6, 7e-6))
    assert args.output_dir == f"runs/{Path(name).stem}"


# ---- memory ----


def test_memory_by_hand():
    sizes = Sizes(
        parameters=1000,
        trained=1000,
        layers=2,
        hidden=10,
        intermediate=20,
        key_value=4,
        vocabulary=100,
        weight_bytes=4,
    )
    memory = estimate(
        sizes, rows=3, tokens=5, bytes_per_number=4, checkpointing=False, cached_rows=6, with_logits=True
    )
    assert (memory.weights, memory.gradients, memory.optimizer) == (4000, 4000, 8000)
    # 3 x 5 tokens, 2 layers of 10 x 10 + 2 x 4 + 4 x 20 = 188 numbers
    assert memory.activations == 15 * 2 * 188 * 4
    assert memory.logits == 15 * 100 * 12
    # 6 x 5 tokens, keys and values of 2 layers, and half as much room
    assert memory.cache == 1.5 * 30 * 2 * 2 * 4 * 4
    assert memory.training() == 16_000 + memory.activations + memory.logits
    assert memory.writing() == 12_000 + memory.cache
    assert memory.training(4, 2) == 4000 + 1000 + 2000 + memory.activations + memory.logits
    assert memory.training(4, 3) == 1000 + 1000 + 2000 + memory.activations + memory.logits
    assert memory.writing(4, 3) == 1000 + 2000 + 4000 + memory.cache
    checkpointed = estimate(sizes, rows=3, tokens=5, bytes_per_number=4, checkpointing=True)
    assert checkpointed.activations == 15 * (2 * 10 + 188) * 4


def test_memory_of_an_adapter_by_hand():
    sizes = Sizes(
        parameters=1100, trained=100, layers=2, hidden=10, intermediate=20, key_value=4, vocabulary=100, weight_bytes=2
    )
    memory = estimate(sizes, rows=1, tokens=1, bytes_per_number=2, checkpointing=True)
    assert (memory.weights, memory.gradients, memory.optimizer) == (2200, 400, 1200)
