"""Mistakes that are told before anything is loaded: by the dry run all at once, by a run the first."""

import json
import shutil
import sys
from datetime import date
from pathlib import Path

import pytest
import torch

from appo import APPOConfig
from appo.cli.main import main
from appo.cli.recipe import collect_settings, read_recipe

# ---- mistakes ----


def test_every_mistake_is_told_at_once(recipe, tmp_path, capsys, model_directory):
    path = recipe(
        model=model_directory,
        learning_rat=1.0,
        seed=-1,
        method_args={"num_initial_rollouts": 3, "num_branch_points": 1},
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


def test_a_batch_of_parts_of_tasks_is_told_in_the_recipes_fields_and_hides_no_plan(recipe, capsys, model_directory):
    assert main(["train", recipe(model=model_directory, per_device_train_batch_size=7), "--dry-run"]) == 2
    out = capsys.readouterr().out
    mistake = (
        "per_device_train_batch_size x steps_per_generation (7 x 2 = 14) must be divisible by num_generations (4)"
    )
    assert mistake in out and "\n  tools " in out and out.endswith("\n1 mistake(s).\n")


def test_where_no_settings_can_be_made_the_rest_is_told_to_be_unchecked(recipe, capsys):
    assert main(["train", recipe(task=None), "--dry-run"]) == 2
    out = capsys.readouterr().out
    unchecked, mistake = out.splitlines()[:2]
    assert unchecked == "not checked: plan, task, data and model, because the settings could not be made."
    assert mistake.startswith("mistake: ")


def test_a_misspelt_command_is_told_the_closest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "appo: unknown command trian; did you mean train?\n"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_size": 3}, "data: 3 tasks do not fill a generation of 4"),
        ({"task": "nothing.here"}, "task = 'nothing.here' is none of kinship"),
        ({"model": "/no/such/model"}, "model = '/no/such/model' cannot be loaded"),
        ({"output_dir": "/proc/none"}, "output_dir = '/proc/none' cannot be made"),
        (
            {"task": "tool_qa", "task_args": {"data": "none.parquet", "tools": ["python"]}},
            "task_args: data: there is no file none.parquet",
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
def test_a_mistake_of_each_kind(recipe, tmp_path, capsys, monkeypatch, model_directory, changes, sentence):
    monkeypatch.delenv("SERPER_API_KEY")
    assert main(["train", recipe(**{"model": model_directory, **changes}), "--dry-run"]) == 2
    assert any(line.startswith("mistake: ") and sentence in line for line in capsys.readouterr().out.splitlines())


def test_a_model_without_tokenizer_is_a_mistake(recipe, tmp_path, capsys, model_directory):
    (tmp_path / "bare").mkdir()
    shutil.copy(Path(model_directory) / "config.json", tmp_path / "bare")
    assert main(["train", recipe(model=str(tmp_path / "bare")), "--dry-run"]) == 2
    (mistake,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mistake: "))
    assert f"model = '{tmp_path / 'bare'}': its tokenizer cannot be loaded: Couldn't" in mistake


def test_a_template_that_refuses_prompts_is_a_mistake(recipe, tmp_path, capsys, model_directory):
    refusing = tmp_path / "refusing"
    shutil.copytree(model_directory, refusing)
    (refusing / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")
    (tmp_path / "data.jsonl").write_text('{"question": "a?", "answer": "b"}\n' * 40)
    (tmp_path / "cache.json").write_text("{}")
    args = {"data": str(tmp_path / "data.jsonl"), "search": f"cache:{tmp_path / 'cache.json'}", "tools": ["search"]}
    values = {"task": "tool_qa", "task_args": {**args, "held_out": 0}, "demonstrations": 0, "eval_size": 0}
    assert main(["train", recipe(model=str(refusing), **values), "--dry-run"]) == 2
    assert "data: the chat template refuses messages: System role not supported." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (5, "task: 'int' object has no attribute 'upper' (AttributeError in {file}, line 4)"),
        ("a", "data: 'str' object has no attribute 'rows' (AttributeError in {file}, line 5)"),
    ],
)
def test_a_fault_in_a_tasks_code_is_a_mistake_with_its_place(recipe, tmp_path, capsys, monkeypatch, name, sentence):
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
    path = recipe(task="stumbling_task", task_args={"name": name}, eval_size=0)
    assert main(["train", path, "--dry-run"]) == 2
    shown = capsys.readouterr()
    assert f"mistake: {sentence.format(file=file)}" in shown.out.splitlines()
    assert f'File "{file}", line' in shown.err


def test_other_processes_than_planned_are_a_mistake(recipe, tmp_path, monkeypatch):
    from appo.cli.checks import findings
    from appo.cli.checks_run import processes
    from appo.cli.context import Context

    found = {}
    for running in (1, 2, 4):
        monkeypatch.setattr(APPOConfig, "world_size", running)
        for planning in (True, False):
            context = Context("train", *read_recipe(recipe(num_processes=2), []), planning)
            found[running, planning] = [finding.message[:31] for finding in findings(context, [processes])]
    # One process may plan for a machine elsewhere, but not train in its place.
    assert found.pop((1, False)) == ["num_processes = 2, but 1 run, w"]
    assert found.pop((4, True)) == found.pop((4, False)) == ["num_processes = 2, but 4 run, w"]
    assert not any(found.values())


def test_a_method_for_one_process_is_told_where_several_are_planned(recipe, capsys, model_directory):
    path = recipe(model=model_directory, method="arpo", method_args={}, num_processes=2)
    assert main(["train", path, "--dry-run"]) == 2
    assert "mistake: method = 'arpo' runs on one process, but 2 are planned; start one." in capsys.readouterr().out


def test_demonstrations_need_a_source(recipe, tmp_path, capsys):
    path = recipe(task="tool_qa", task_args={"data": "hub/name", "tools": ["python"]}, model="hub/model")
    assert main(["sft", path, "--dry-run", "--allow_unisolated", "true"]) == 2
    assert "task = 'tool_qa' has no demonstrations; name traces" in capsys.readouterr().out


def test_traces_that_do_not_fit_are_mistakes(recipe, tmp_path, capsys, model_directory):
    row = {"prompt": "boss e1", "response": "<python> 1 </python> <result> 1 </result>"}
    (tmp_path / "traces.jsonl").write_text(json.dumps(row))
    path = recipe(model=model_directory, traces=[str(tmp_path / "traces.jsonl")], demonstrations=0)
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "traces call python (1 calls), but the tools of the task are search." in out
    assert "traces hold no <answer>..</answer> at all" in out
    assert "tokenizer has no chat template" in out


def test_no_bubblewrap_is_a_mistake_and_the_rest_is_looked_into(recipe, tmp_path, capsys, monkeypatch):
    def missing():
        raise RuntimeError("bubblewrap is missing: install it.")

    monkeypatch.setattr("appo.tools.python.bubblewrap", missing)
    (tmp_path / "data.jsonl").write_text('{"question": "a?", "answer": "b"}\n' * 30)
    task_args = {"data": str(tmp_path / "data.jsonl"), "held_out": 0, "tools": ["python"]}
    path = recipe(task="tool_qa", task_args=task_args, model="hub/model", demonstrations=0, eval_size=0)
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert out.count("bubblewrap is missing") == 1
    assert "python (not isolated)" in out
    assert "30, 4 rollouts each" in out
    assert "1 mistake(s)." in out


def test_a_prompt_longer_than_the_context(recipe, tmp_path, capsys, model_directory):
    short = tmp_path / "short"
    shutil.copytree(model_directory, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4}))
    assert main(["train", recipe(model=str(short)), "--dry-run"]) == 2
    assert "tokens, but the model's context holds 4." in capsys.readouterr().out


def test_too_little_memory_on_the_gpu_is_a_mistake(recipe, tmp_path, capsys, monkeypatch, model_directory):
    class Small:
        total_memory = 1_000_000

    path = recipe(model=model_directory)
    settings, _ = collect_settings(path)
    from appo.cli.dry_run import DryRun

    run = DryRun("train", *settings, [])
    run.context.args.use_cpu = False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Small)
    run.look()
    assert any(m.startswith("APPO needs some 0 GB on a GPU, but this one has 0") for m in run.mistakes)


def test_a_task_that_cannot_be_made_leaves_the_rest_unchecked(recipe, tmp_path, capsys):
    path = recipe(task="tool_qa", task_args={"data": "rows.jsonl", "tools": ["dig"]})
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "not checked: tools, data and prompts: the task could not be made." in out
    assert "mistake: task_args: tools must be some of search, python" in out


def test_divided_weights_are_refused_with_an_adapter_and_where_one_process_loads(recipe, capsys, monkeypatch):
    launcher = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    path = recipe(lora={"r": 2, "target_modules": "all-linear"})
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "mistake: lora is given, but FSDP2 divides the weights" in out
    assert "mistake: fsdp_cpu_ram_efficient_loading = true leaves all processes but one without weights" in out
    assert "note: FSDP2: accelerate divides weights on GPUs alone" in out


def test_a_vllm_that_is_not_here_stops_a_run_before_it_loads_and_is_unchecked_in_a_plan(recipe, capsys, monkeypatch):
    monkeypatch.setattr("appo.cli.checks_run.find_spec", lambda name: None)
    path = recipe(use_vllm=True)
    assert main(["train", path, "--dry-run"]) == 0
    assert "not checked: use_vllm: vLLM is not installed here." in capsys.readouterr().out
    assert main(["train", path]) == 2
    assert "appo: use_vllm = true, but vLLM is not installed here; run `pip install 'appo[vllm]'`" in (
        capsys.readouterr().err
    )


# ---- an agent ----


def agent_recipe(recipe, model_directory, tmp_path, **task_args):
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps({"question": f"{n}?"}) + "\n" for n in range(100)))
    args = {"file": str(tmp_path / "questions.jsonl"), **task_args}
    return recipe(task="rows", task_args=args, model=model_directory, demonstrations=0, tool_protocol="chat_template")


def test_a_plan_for_an_agent_has_no_mistakes(recipe, model_directory, tmp_path, capsys):
    path = agent_recipe(recipe, model_directory, tmp_path, command=[sys.executable, "{question}"])
    assert main(["train", path, "--dry-run"]) == 0, capsys.readouterr().out


def test_a_commands_file_and_columns_that_are_not_there_are_mistakes(recipe, model_directory, tmp_path, capsys):
    path = agent_recipe(recipe, model_directory, tmp_path, command=["python", "no_agent.py", "{answer}"])
    assert main(["train", path, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "there is no file 'no_agent.py'; give its path from this folder" in out
    assert "command: {answer} names no column; the rows have question" in out


def test_a_command_whose_program_is_not_there_is_a_mistake(recipe, model_directory, tmp_path, capsys):
    path = agent_recipe(recipe, model_directory, tmp_path, command=["no-such-program", "{question}"])
    assert main(["train", path, "--dry-run"]) == 2
    assert "there is no program 'no-such-program'; give its path" in capsys.readouterr().out
