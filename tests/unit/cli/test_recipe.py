"""Recipes: files that extend another, names below a mapping as flags, and who a mistake is blamed on."""

import json
from pathlib import Path

import pytest

from appo.cli.recipe import RecipeError, read_recipe, read_yaml
from appo.methods.misplaced import RENAMED

RECIPES = Path(__file__).parents[3] / "recipes"
FROZEN = json.loads((Path(__file__).parent / "paper_settings.json").read_text())
BASE = """
task: kinship
bf16: false
use_cpu: true
seed: 3
lora: {r: 4, lora_alpha: 8}
task_args: {data: a.jsonl}
cold_start: {max_length: 64, learning_rate: 1e-3}
"""


@pytest.fixture
def read(tmp_path):
    """Reads a recipe of these lines, beside `base.yaml`, and flags."""
    (tmp_path / "base.yaml").write_text(BASE)

    def read(text, *flags):
        (tmp_path / "own.yaml").write_text(text)
        return read_recipe(str(tmp_path / "own.yaml"), list(flags))

    return read


def said(read, text, *flags):
    with pytest.raises(RecipeError) as error:
        read(text, *flags)
    return str(error.value)


# ---- extends ----


@pytest.mark.parametrize("name", FROZEN)
def test_a_recipe_of_the_papers_has_the_values_that_it_had_as_one_file(name):
    assert read_yaml(str(RECIPES / name)) == FROZEN[name]
    run, args, sft_args = read_recipe(str(RECIPES / name), [])
    flat = {**FROZEN[name], "traces": [FROZEN[name]["traces"]]}
    cold_start = flat.pop("cold_start")
    assert flat.pop("report_to") == "none" and args.report_to == []
    for field, value in flat.items():
        assert getattr(run if hasattr(run, field) else args, field) == value, field
    for field, value in cold_start.items():
        assert getattr(sft_args, field) == value, field


def test_every_recipe_of_the_papers_is_frozen():
    assert sorted(FROZEN) == sorted(path.name for path in RECIPES.glob("paper-*.yaml"))


def test_mappings_are_merged_and_everything_else_is_replaced(read):
    run, args, sft_args = read(
        "extends: base.yaml\nseed: 5\nlora: {r: 16}\ncold_start: {max_length: 32}\ntask_args:\n"
    )
    assert args.seed == 5
    assert run.lora == {"r": 16, "lora_alpha": 8}
    assert (sft_args.max_length, sft_args.learning_rate) == (32, 1e-3)
    assert run.task_args is None


def test_the_path_is_seen_from_the_file_and_not_from_the_shell(tmp_path, read, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read("extends: base.yaml")[1].seed == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "extends: middle.yaml",
            "extends = 'middle.yaml', which extends 'base.yaml' itself; extend that one, and write",
        ),
        ("extends: none.yaml", "extends = 'none.yaml': there is no file"),
        ("extends: [a, b]", "extends must be the path of one YAML file, got ['a', 'b']"),
        ("extends:", "extends must be the path of one YAML file"),
    ],
)
def test_what_cannot_be_extended_is_one_sentence(tmp_path, read, text, sentence):
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\nseed: 1\n")
    assert sentence in said(read, text)


def test_a_mistake_in_what_is_extended_names_both_files(tmp_path, read):
    (tmp_path / "base.yaml").write_text(BASE + "learning_rat: 1\n")
    own, base = tmp_path / "own.yaml", tmp_path / "base.yaml"
    assert said(read, "extends: base.yaml").startswith(f"{own} (which extends {base}): unknown field learning_rat")


# ---- names below a mapping ----


def test_a_flag_changes_one_name_of_a_mapping(read):
    run, args, sft_args = read(
        BASE, "--lora.r", "16", "--lora.lora_dropout=5e-2", "--task_args.tools", "search", "python",
        "--task_args.my-key", "null", "--task_args.sandbox.timeout_s", "5", "--model_init_kwargs.dtype", "float32",
        "--cold_start.lr_scheduler_kwargs.num_cycles", "2", "--cold_start.lr_scheduler_type", "cosine_with_restarts",
    )  # fmt: skip
    assert run.lora == {"r": 16, "lora_alpha": 8, "lora_dropout": 0.05}
    sandbox = {"timeout_s": 5}
    assert run.task_args == {"data": "a.jsonl", "tools": ["search", "python"], "my-key": None, "sandbox": sandbox}
    assert args.model_init_kwargs == {"dtype": "float32"}
    assert sft_args.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("0o17", 15),
        ("true", True),
        ("a:b", "a:b"),
        ("'5'", "5"),
        ("", ""),
        ("[1, x]", [1, "x"]),
        ("{a: 1e-2}", {"a": 0.01}),
    ],
)
def test_a_value_below_a_mapping_is_what_yaml_1_2_says(read, text, value):
    found = read(BASE, "--task_args.x", text)[0].task_args["x"]
    assert found == value and type(found) is type(value)


def test_a_flag_of_the_whole_mapping_goes_first(read):
    assert read(BASE, "--lora.r", "2", "--lora", "{lora_dropout: 0.5}")[0].lora == {"lora_dropout": 0.5, "r": 2}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--seed.x", "1"], "the flags: seed is no mapping; --seed VALUE is its flag."),
        (["--lore.r", "1"], "the flags: unknown field lore; did you mean lora?"),
        (["--lora.use_rslora", "no"], "the flags: lora.use_rslora: no may be a word or a truth value; write true or"),
        (["--task_args.data.x", "1"], "the flags: task_args.data.x: data is no mapping, but 'a.jsonl'."),
        (["--lora.", "1"], "the flags: --lora. needs a name behind its dot."),
        (["--lora.x", "[1"], "the flags: lora.x is neither YAML nor JSON ("),
    ],
)
def test_a_wrong_name_below_a_mapping_is_one_sentence(read, flags, sentence):
    assert said(read, BASE, *flags).startswith(sentence)


# ---- who gave it ----


def test_a_mistake_is_blamed_on_who_gave_the_field(tmp_path, read):
    own = tmp_path / "own.yaml"
    options = "method_args: {num_initial_rollouts: 2, num_branch_points: 1}\n"
    tree = options + "num_generations: 4\nper_device_train_batch_size: 8\n"
    assert said(read, BASE, "--method_args.half_life", "-1").startswith("the flags: method_args: half_life must")
    assert said(read, BASE + "method_args: {half_life: -1}\n", "--seed", "1").startswith(f"{own}: method_args: half")
    # A sentence about three fields, one of them from a flag.
    flag = "--method_args.num_initial_rollouts"
    assert said(read, BASE + tree, flag, "3").startswith(f"{own} and the flags: method_args: num_initial_roll")
    # The flag takes the place of the file's value, which is not to blame.
    assert said(read, BASE, "--method", "grpo", "--num_generations", "1").startswith("the flags: num_generations must")
    assert said(read, BASE + "temperature: 2\n", "--temperature", "-1").startswith("the flags: temperature")
    optim = "the flags, cold_start: optim = 'nothing': nothing is not a valid OptimizerNames"
    assert said(read, BASE, "--cold_start.optim", "nothing").startswith(optim)
    assert said(read, BASE, "--cold_start.lr_scheduler_type", "cosine_with_min_lr").startswith(
        "the flags, cold_start: lr"
    )
    assert said(read, "task: kinship\nlora: 3\n", "--lora.r", "1").startswith(f"{own}: ")
    # The remedy names a field of the file, which is not to blame.
    more = BASE + "steps_per_generation: 8\nnum_generations: 16\n"
    flag = "--method_args.num_branch_points"
    assert said(read, more, flag, "2").startswith(f"{own} and the flags: method_args: num_initial_rollouts * (num")
    assert said(read, BASE + "report_to: none\n", "--report_to", "nothing").startswith(
        "the flags: report_to: there is"
    )
    assert said(read, BASE, "--demonstrations", "-1").startswith("the flags: demonstrations must not be below 0")


def test_a_field_that_is_gone_says_what_to_write_instead(tmp_path, read, monkeypatch):
    monkeypatch.setitem(RENAMED, "preset", "write `method: raft`")
    assert said(read, BASE + "half_life: 2\n").endswith("write it under method_args: `method_args: {half_life: 2}`.")
    own = tmp_path / "own.yaml"
    assert said(read, BASE + "preset: plus\n") == f"{own}: the field preset is gone; write `method: raft`."
    assert said(read, BASE, "--preset", "plus") == "the flags: the field preset is gone; write `method: raft`."
