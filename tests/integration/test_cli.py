"""The commands: one sentence and exit code 2 for every mistake, and a whole run in miniature."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import recorded

from appo.cli.main import main
from appo.rollout.records import read_records

RECIPES = Path(__file__).parents[2] / "recipes"

TINY = """
task: kinship
demonstrations: 200
cold_start: {max_steps: 5, per_device_train_batch_size: 8, learning_rate: 1.0e-3, save_strategy: "no"}
num_generations: 4
method_args: {num_initial_rollouts: 2, num_branch_points: 1}
per_device_train_batch_size: 8
steps_per_generation: 2
max_steps: 4
save_steps: 2
max_completion_length: 32
deterministic: true
tool_protocol: tags
result_format: " <result> {} </result> "
eval_size: 20
train_size: 16
bf16: false
use_cpu: true
report_to: none
logging_steps: 1
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + f"output_dir: {tmp_path / 'run'}\n")
    return path


HELP = """
import sys
before = set(sys.modules)
import appo.cli.main
assert appo.cli.main.main(["--help"]) == 0
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print("IMPORTED", *sorted(names - set(sys.stdlib_module_names)))
"""


def test_help_answers_at_once_because_it_imports_the_standard_library_alone():
    run = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "appo train RECIPE" in run.stdout
    assert run.stdout.splitlines()[-1] == "IMPORTED appo"
    command = subprocess.run([sys.executable, "-m", "appo", "--help"], capture_output=True, text=True, check=True)
    assert command.stdout == "\n".join(run.stdout.splitlines()[:-1]) + "\n"


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_every_recipe_is_read(name):
    from appo.cli.recipe import read_recipe

    read_recipe(str(RECIPES / name), [])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method_args.num_branch_pionts", "3"], "has no option num_branch_pionts; did you mean num_branch_points?"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (
            ["--method_args.num_initial_rollouts", "3"],
            "must equal num_generations, got 3 * (1 + 1) = 6 and",
        ),
        (["--per_device_train_batch_size", "6"], "must hold whole tasks of num_generations = 4"),
        (["--cold_start.learning_rat", "1"], "cold_start: unknown field learning_rat; did you mean learning_rate?"),
        (["--task", "nothing.here"], "task = 'nothing.here' is none of kinship, multihop, planning, programs,"),
        (["--task", "json"], "the module holds no `TASK`"),
        (["--model", "/no/such/model"], "model = '/no/such/model' cannot be loaded: there is no such directory"),
        (["--model", "/none", "--model_init_kwargs", '{"dtype": "bf"}'], "model_init_kwargs: torch has no dtype 'bf'"),
        (["--eval_size", "-1"], "eval_size must not be below 0, got -1"),
        (["--bf16", "perhaps"], "bf16"),
        (["stray"], "'stray' is one value too many"),
        (["--task", "..x"], "is no module's name"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--temperature", "0"], "temperature must be above 0"),
        (["--max_completion_length", "0"], "max_completion_length must be at least 1, got 0"),
        (["--method_args.half_life", "nan"], "method_args: half_life must be of type float"),
        (
            ["--half_life", "8"],
            "the field half_life is an option of a method (appo, whole_tree); write it under method_args",
        ),
        (["--loss_type", "foo"], "loss_type must be one of"),
        (["--min_p", "2"], "min_p"),
        (["--scale_rewards", "batch"], "scale_rewards = 'batch' is not supported"),
        (["--train_size", "1", "--demonstrations", "0"], "data: 1 tasks do not fill a generation of 4"),
        (["--cold_start.max_length", "4"], "max_length=4"),
        (["--cold_start.packing", "true"], "packing"),
        (["--output_dir", "/proc/none"], "output_dir = '/proc/none' cannot be made"),
        (["--task_args", '{"noise": 1}'], "task_args are given, but task = 'kinship' takes none; remove them."),
        (["--task_args", "[1]"], "task_args must be a mapping, got [1]."),
        (["--lora", "r=4"], "lora must be a mapping, in a flag as JSON"),
        (["--lora", '{"rank": 4}'], "lora: "),
        (["--num_processes", "8"], "num_processes = 8, but 1 run, which changes every batch; start with `accelerate"),
        (["--traces", "none.jsonl"], "there is no file none.jsonl"),
        (["--traces_min_reward", "1"], "traces_min_reward = 1 is given without traces; name files."),
    ],
)
def test_mistakes_are_one_sentence(recipe, capsys, arguments, sentence):
    assert main(["train", str(recipe), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("appo: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("task: [", "not readable YAML"),
        ("- a\n", "must hold fields with values, got list"),
        ("learning_rate: 1.0e-3\n", "task"),
        ("task: kinship\ncold_start: 3\n", "cold_start must be a mapping"),
        ("task: kinship\nlearning_rate: [1, 2]\n", "'2' is one value too many"),
        ("task: kinship\nmax_steps: many\n", "max_steps: invalid int value: 'many'"),
    ],
)
def test_broken_recipes_are_one_sentence(tmp_path, capsys, text, sentence):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_missing_files_and_commands(capsys):
    assert main(["train", "none.yaml"]) == 2
    assert "there is no recipe none.yaml" in capsys.readouterr().err
    assert main(["trian", "none.yaml"]) == 2
    assert main(["train"]) == 2
    assert main([]) == 0


def test_a_whole_run_in_miniature(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(recipe)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert {result[name]["questions"] for name in ("before", "after")} == {20}
    for name in ("checkpoint", "records", "curves"):
        assert Path(result[name]).exists()
    printed = capsys.readouterr().out
    assert "before" in printed
    assert result["curves"] in printed.replace("\n", "")
    records = recorded(out)
    # The testbed knows its true decisions, and every record says which they are.
    assert all(record["decisions"] is not None for record in read_records(out, kind=None))
    assert main(["train", str(recipe)]) == 0  # done: nothing is trained again
    assert recorded(out) == records and len(records) == 4
    assert main(["eval", str(recipe), "--eval_size", "10"]) == 0
    assert "of 10 questions" in capsys.readouterr().out


def test_a_control_that_knows_the_truth_runs_from_a_recipe(recipe, tmp_path):
    control = ["--method", "appo.research.controls:DecisionWeights", "--method_args", '{"weight_floor": 0.5}']
    assert main(["train", str(recipe), *control, "--max_steps", "1", "--eval_size", "0"]) == 0
    weights = [
        x for record in read_records(tmp_path / "run") for x in record["factors"]["token_weight"] if x is not None
    ]
    assert weights and set(weights) <= {0.5, 1.0}


def test_a_finished_run_says_what_differs_and_overwrite_trains_again(recipe, tmp_path, capsys):
    assert main(["train", str(recipe)]) == 0
    capsys.readouterr()
    assert main(["train", str(recipe), "--max_steps", "2"]) == 0
    assert "with other values of max_steps" in capsys.readouterr().out
    assert main(["train", str(recipe), "--max_steps", "2", "--overwrite", "true"]) == 0
    out = tmp_path / "run"
    assert {record["step"] for record in read_records(out)} == {1, 2}
    assert (out / "records.1").exists()


def test_a_cold_start_from_records_with_an_adapter(recipe, tmp_path, capsys):
    """A run's own rollouts teach the next one; what LoRA trained is saved as a whole model."""
    first, second = tmp_path / "run", tmp_path / "second"
    assert main(["train", str(recipe), "--max_steps", "2", "--eval_size", "0"]) == 0
    flags = ["--output_dir", str(second), "--traces", str(first), "--traces_min_reward", "-1"]
    flags += ["--demonstrations", "6", "--lora", '{"r": 2, "target_modules": "all-linear"}']
    assert main(["train", str(recipe), *flags, "--max_steps", "2"]) == 0
    done = json.loads((second / "cold_start" / "cold_start.json").read_text())
    assert 0 < done["metrics"]["demonstrations"] <= 6
    assert done["settings"]["traces"] == [str(first)]
    for name in ("cold_start", "model"):
        assert (second / name / "model.safetensors").exists()
        assert not (second / name / "adapter_config.json").exists()
    capsys.readouterr()
    assert main(["eval", str(recipe), "--model", str(second / "model")]) == 0
    assert main(["sft", str(recipe), *flags]) == 0
    assert "cold start: found in" in capsys.readouterr().out


def test_eval_asks_the_trained_model_rather_than_the_one_it_came_from(recipe, tmp_path, capsys):
    start, out = tmp_path / "run" / "cold_start", tmp_path / "second"
    assert main(["sft", str(recipe)]) == 0
    with recipe.open("a") as file:
        file.write(f"model: {start}\n")
    flags = ["--output_dir", str(out), "--demonstrations", "0"]
    capsys.readouterr()
    assert main(["eval", str(recipe), *flags]) == 0
    first, last = capsys.readouterr().out.split("\n", 1)
    assert first == f"untrained: nothing is trained in {out} yet, so the answer is that of {start}"
    assert f"({start})" in last and '"model": "untrained"' in last
    assert main(["train", str(recipe), *flags, "--max_steps", "2", "--eval_size", "0"]) == 0
    assert main(["eval", str(recipe), *flags]) == 0
    printed = capsys.readouterr().out
    assert f"({out / 'model'})" in printed and "untrained" not in printed
    assert json.loads(printed[printed.index("{") :])["model"] == str(out / "model")
    assert main(["eval", str(recipe), *flags, "--model", str(start)]) == 0
    assert f"({start})" in capsys.readouterr().out


def test_eval_says_that_the_model_of_the_task_is_untrained(recipe, tmp_path, capsys):
    assert main(["eval", str(recipe)]) == 0
    printed = capsys.readouterr().out
    sentence = f"untrained: nothing is trained in {tmp_path / 'run'} yet, so the answer is that of the model that the"
    assert printed.startswith(sentence)
    assert json.loads(printed[printed.index("{") :])["model"] == "untrained"


def test_a_changed_trace_file_makes_another_cold_start(recipe, tmp_path, capsys):
    traces = tmp_path / "traces.jsonl"
    row = json.dumps({"prompt": "boss e1", "completion_ids": [5, 6], "policy_mask": [1, 1], "finish_reason": "stop"})
    traces.write_text(row + "\n")
    flags = ["--traces", str(traces), "--cold_start.max_steps", "1"]
    found = []
    for text in (row, row, f"{row}\n{row}"):
        if text != row:
            traces.write_text(text + "\n")
        assert main(["sft", str(recipe), *flags]) == 0
        found.append("cold start: found in" in capsys.readouterr().out)
    assert found == [False, True, False]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "the task's prompts are messages, but the model's tokenizer has no chat template"),
        ("{{ raise_exception('System role not supported') }}", "the chat template refuses messages: System role not"),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_prompts_that_cannot_be_written_end_before_training(
    recipe, tmp_path, monkeypatch, capsys, command, template, sentence
):
    (tmp_path / "chat_task.py").write_text(
        "from dataclasses import replace\n"
        "from datasets import Dataset\n"
        "from appo.environments import kinship\n"
        f"template = {template!r}\n"
        "rows = Dataset.from_list([{'prompt': [{'role': 'user', 'content': 'boss e1'}]}] * 16)\n"
        "def make_model():\n"
        "    model, tokenizer = kinship.make_model()\n"
        "    tokenizer.chat_template = template\n"
        "    return model, tokenizer\n"
        "TASK = replace(kinship.TASK, dataset=lambda size, seed: rows, make_model=make_model)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "chat_task", raising=False)
    assert main([command, str(recipe), "--task", "chat_task", "--demonstrations", "0"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_model_that_takes_no_such_argument_is_one_sentence(recipe, tmp_path, capsys):
    from appo.environments import kinship

    model, tokenizer = kinship.make_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    flags = ["--model", str(tmp_path / "model"), "--model_init_kwargs", '{"nothing": 1}']
    assert main(["sft", str(recipe), *flags]) == 2
    error = capsys.readouterr().err
    assert "cannot be loaded: " in error and "'nothing'" in error and error.count("\n") == 1


def test_a_task_made_with_arguments(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_task.py").write_text(
        "from dataclasses import replace\n"
        "from appo.environments import kinship\n"
        "def TASK(size: int = 3):\n"
        "    asked = lambda count, seed: kinship.TASK.dataset(size, seed)\n"
        "    return replace(kinship.TASK, eval_dataset=asked)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--task", "my_task", "--demonstrations", "0", "--eval_size", "9"]
    assert main(["eval", str(recipe), *flags, "--task_args", '{"size": 2}']) == 0
    assert "of 2 questions" in capsys.readouterr().out
    assert main(["eval", str(recipe), *flags, "--task_args", '{"count": 2}']) == 2
    assert "task_args: task = 'my_task' has no count; it takes size." in capsys.readouterr().err


def test_a_reference_policy_from_the_tasks_own_model(recipe):
    assert main(["train", str(recipe), "--demonstrations", "0", "--beta", "0.1", "--eval_size", "0"]) == 0


def test_an_interrupted_run_goes_on(recipe, tmp_path, monkeypatch):
    from appo.cli import cold_start
    from appo.trainer import APPOTrainer

    original = APPOTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(APPOTrainer, "training_step", training_step)
    assert main(["train", str(recipe)]) == 130
    monkeypatch.setattr(APPOTrainer, "training_step", original)
    monkeypatch.setattr(cold_start, "make_sft_trainer", lambda *a: pytest.fail("the cold start was done again"))
    assert main(["train", str(recipe)]) == 0
    steps = [record["step"] for record in read_records(tmp_path / "run")]
    assert steps == sorted(steps)
    assert sorted(set(steps)) == [1, 2, 3, 4]
    assert len(steps) == 4 * 8


def test_a_run_interrupted_behind_its_last_step_takes_none_more(recipe, tmp_path, monkeypatch):
    from appo.cli import train as run

    out = tmp_path / "run"
    evaluation = run._evaluation

    def interrupted(name, *args, **kwargs):
        if name == "after":
            raise KeyboardInterrupt
        return evaluation(name, *args, **kwargs)

    monkeypatch.setattr(run, "_evaluation", interrupted)
    assert main(["train", str(recipe)]) == 130
    written = recorded(out)
    weights = (out / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(out / "model")
    monkeypatch.setattr(run, "_evaluation", evaluation)
    assert main(["train", str(recipe)]) == 0
    assert recorded(out) == written
    assert (out / "model" / "model.safetensors").read_bytes() == weights


def test_a_wrong_flag_is_not_blamed_on_the_file(recipe, capsys):
    assert main(["train", str(recipe), "--learning_rat", "1"]) == 2
    assert capsys.readouterr().err == "appo: the flags: unknown field learning_rat; did you mean learning_rate?\n"
    recipe.write_text(recipe.read_text() + "learning_rat: 1\n")
    assert main(["train", str(recipe)]) == 2
    assert capsys.readouterr().err.startswith(f"appo: {recipe}: unknown field learning_rat;")


def test_missing_data_is_told_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    from appo.cli import cold_start

    monkeypatch.setattr(cold_start, "load_model", lambda *a: pytest.fail("the model was loaded"))
    path = tmp_path / "recipe.yaml"
    task = (
        f'task: tool_qa\ntask_args: {{data: none.jsonl, tools: [search], search: "corpus:{tmp_path}/pages.jsonl"}}\n'
    )
    (tmp_path / "pages.jsonl").write_text('{"text": "Accra is in Ghana."}\n')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path.write_text(TINY.replace("task: kinship\n", task) + f"output_dir: {tmp_path / 'run'}\nmodel: smollm2\n")
    assert main(["train", str(path)]) == 2
    assert capsys.readouterr().err.endswith("appo: task_args: data: there is no file none.jsonl.\n")


def test_missing_isolation_is_told_before_anything_is_loaded(recipe, tmp_path, monkeypatch, capsys):
    from appo.cli import cold_start, loading

    def missing():
        raise RuntimeError("bubblewrap is missing")

    (tmp_path / "digging.py").write_text(
        "from dataclasses import replace\n"
        "from appo.environments import kinship\n"
        "from appo.tools.python import python\n"
        "TASK = replace(kinship.TASK, tools=[python])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loading, "check_isolation", missing)
    monkeypatch.setattr(cold_start, "load_model", lambda *a: pytest.fail("the model was loaded"))
    assert main(["train", str(recipe), "--task", "digging"]) == 2
    assert capsys.readouterr().err == "appo: bubblewrap is missing\n"
