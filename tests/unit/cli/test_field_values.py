"""One reader for the values of files and of flags: by the field's annotation, else by YAML 1.2."""

import json
import math
from dataclasses import field, fields, make_dataclass
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import SFTConfig

from appo.cli.field_values import parse
from appo.cli.fields import read_dataclasses, split_flags
from appo.cli.recipe import RecipeError, RunConfig, read_recipe
from appo.config import APPOConfig
from appo.evaluation.eval_config import EvalConfig

FIELDS = [(kind, f.name) for kind in (RunConfig, APPOConfig, SFTConfig, EvalConfig) for f in fields(kind) if f.init]
TEXTS = [
    *["null", "Null", "~", "true", "True", "false", "yes", "no", "on", "off", "t", "0", "1", "7", "-3", "+5", "017"],
    *["1_000", "0o17", "0x1f", "5e-2", "1e5", "1.5", ".5", "-1.5E3", "inf", "nan", ".inf", "-.inf", ".nan"],
    *["2024-01-31", "12:30:00", "word", "two words", "wandb", "none", "all", "runs/x", "'quoted'", "1.2.3", "="],
    *["[]", "[a, b]", "[1, 5e-2]", "[1_000]", "{}", "{a: 5e-2, b: [1, no_word], c: null}", '{"a": {"b": 1e-6}}'],
]  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """Reads a recipe of these lines and flags."""

    def read(text, *flags):
        (tmp_path / "recipe.yaml").write_text(f"task: kinship\nbf16: false\nuse_cpu: true\n{text}\n")
        return read_recipe(str(tmp_path / "recipe.yaml"), list(flags))

    return read


def outcome(kind, values, flags):
    try:
        (found,) = read_dataclasses((kind,), values, flags, "the flags")
    except RecipeError as error:
        return str(error)
    (value,) = vars(found).values()
    return repr(value), type(value)  # a nan is not equal to itself


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(FIELDS), st.sampled_from(TEXTS))
def test_a_text_means_the_same_in_a_file_and_in_a_flag(place, text):
    kind, name = place
    (own,) = (f for f in fields(kind) if f.name == name)
    hint = get_type_hints(kind)[name]
    # The field alone, as the others may contradict it.
    alone = make_dataclass("Alone", [(name, hint, field(default=own.default))])
    # Brackets and quotation marks are YAML's: a flag of a text has them as characters.
    takes = [get_origin(part) or part for part in get_args(hint)] + [get_origin(hint)]
    literal = text[0] in "'\"" or (text[0] == "[" and list not in takes) or (text[0] == "{" and dict not in takes)
    file, flag = parse(f"{name}: {json.dumps(text) if literal else text}"), text
    assert outcome(alone, file, {}) == outcome(alone, {}, split_flags([f"--{name}", flag])[0])


@pytest.mark.parametrize("name", ["seed", "learning_rate", "bf16", "epsilon_high", "run_name", "label_names"])
@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (0.05, "0.05"), (1e-6, "1e-06"), (True, "true"), (None, "null"), ("word", "word")]
)
def test_a_value_of_pythons_means_what_its_flag_means(name, value, text):
    """Presets and studies hand over such values."""
    alone = make_dataclass("Alone", [(name, get_type_hints(APPOConfig)[name], field(default=0))])
    assert outcome(alone, {name: value}, {}) == outcome(alone, {}, {name: [text]})


def test_null_is_none_and_not_the_default(read):
    _, args, sft_args = read("epsilon_high: null\nmax_completion_length: 64\ncold_start: {max_length: null}")
    assert args.epsilon_high is None  # TRL: as epsilon
    assert sft_args.max_length is None
    assert read("", "--epsilon_high", "null")[1].epsilon_high is None
    with pytest.raises(RecipeError, match=r"recipe.yaml: max_steps cannot be null; leave it out for its default."):
        read("max_steps: null")


def test_numbers_below_a_mapping_are_numbers(read):
    config, args, _ = read(
        "lora: {lora_dropout: 5e-2, r: 0o17}\n"
        "task_args: {size: 1_000, rates: [1e-6, .5], day: 2024-01-31, name: null, deep: {bound: .inf}}\n"
        "lr_scheduler_type: cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr: 1e-7}\n"
        "model_init_kwargs: {attn: '5e-2', dtype: float32}"
    )
    assert config.lora == {"lora_dropout": 0.05, "r": 15}
    deep = {"bound": math.inf}
    assert config.task_args == {"size": 1000, "rates": [1e-6, 0.5], "day": "2024-01-31", "name": None, "deep": deep}
    assert {type(key) for mapping in (config.lora, config.task_args) for key in mapping} == {str}
    assert args.lr_scheduler_kwargs == {"min_lr": 1e-7}
    assert args.model_init_kwargs == {"attn": "5e-2", "dtype": "float32"}
    assert read("", "--lora", "{lora_dropout: 5e-2}")[0].lora == {"lora_dropout": 0.05}


@pytest.mark.parametrize("text", ["cold_start:", "cold_start: null", "cold_start: {}"])
def test_a_cold_start_may_be_empty(read, text):
    assert read(text)[2].max_length == SFTConfig("out", bf16=False).max_length


def test_words_stay_words_where_the_field_is_text(read):
    config, args, _ = read(
        "save_strategy: no\noutput_dir: 2024-01-31\nhub_revision: 1e5\nrun_name: 1_000\nmodel: on\nproject: 0o17"
    )
    assert (args.save_strategy, args.output_dir, args.hub_revision) == ("no", "2024-01-31", "1e5")
    assert (args.run_name, config.model, args.project) == ("1_000", "on", "0o17")
    assert read("overwrite: yes\nsave_records: off")[0].overwrite is True


@pytest.mark.parametrize(
    ("text", "loggers"),
    [("[wandb, tensorboard]", ["wandb", "tensorboard"]), ("[]", []), ("none", []), ("wandb", ["wandb"]), ("null", [])],
)
def test_loggers_are_a_list_or_one_or_none(text, loggers):
    """Without `read_recipe`, which asks for their packages."""
    written = [[text], loggers] if len(loggers) > 1 else [[text]]
    for values, flags in ((parse(f"report_to: {text}"), {}), *(({}, {"report_to": texts}) for texts in written)):
        own = {"output_dir": "out", "bf16": False, "use_cpu": True}
        (args,) = read_dataclasses((APPOConfig,), {**own, **values}, flags, "the recipe")
        assert args.report_to == loggers


def test_a_truth_value_of_yaml_1_1_below_a_mapping_is_told(read):
    with pytest.raises(RecipeError, match=r"lora.use_rslora: no may be a word or a truth value; write true or false"):
        read("lora: {use_rslora: no}")
    assert read("lora: {bias: 'no'}")[0].lora == {"bias": "no"}


@pytest.mark.parametrize("word", ["yes", "No", "ON", "oFf"])
def test_a_truth_value_of_yaml_1_1_is_told_in_any_case(read, word):
    with pytest.raises(RecipeError, match=f"lora.use_rslora: {word} may be a word or a truth value"):
        read(f"lora: {{use_rslora: {word}}}")


def test_an_empty_text_of_a_flag_is_no_null(read):
    assert read("", "--run_name", "")[1].run_name == ""
    with pytest.raises(RecipeError, match="epsilon_high: invalid float value: ''"):
        read("", "--epsilon_high", "")


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2", "lora: {r: 4, r: 8}", "cold_start:\n  seed: 1\n  'seed': 2"])
def test_a_key_that_is_given_twice_is_told(read, text):
    with pytest.raises(RecipeError, match=r"not readable YAML: (seed|r) is given twice, again in line \d; keep one"):
        read(text)


def test_a_merged_key_may_be_given_again():
    assert parse("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": "3", "y": "2"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: true", "seed: invalid int value: 'true'"),
        ("max_steps: 1e3", "max_steps: invalid int value: '1e3'"),
        ("max_steps: 1.0", "max_steps: invalid int value: '1.0'"),
        ("learning_rate: {a: 1}", "learning_rate: invalid float value: {'a': '1'}"),
        ("learning_rate: []", "learning_rate: invalid float value: []"),
        ("run_name: [a]", "run_name: invalid str value: ['a']"),
        ("reward_weights: [1, many]", "reward_weights: an element: invalid float value: 'many'"),
        ("save_records: perhaps", "save_records: invalid bool value: 'perhaps'"),
    ],
)
def test_a_wrong_type_is_one_sentence(read, text, sentence):
    with pytest.raises(RecipeError) as error:
        read(text)
    assert str(error.value).endswith(f"recipe.yaml: {sentence}")
