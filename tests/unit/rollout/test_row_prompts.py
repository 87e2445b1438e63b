"""Rows without a prompt are told when the trainer is made; only an environment may make up for them."""

import sys

import pytest
from datasets import Dataset, IterableDataset

from appo import APPOConfig, APPOTrainer
from appo.cli.main import main
from appo.environments import kinship
from appo.errors import UserError
from appo.rollout.prompts import check_prompts, starting_prompt

SETTINGS = {
    "num_generations": 2,
    "method_args": {"num_initial_rollouts": 1, "num_branch_points": 1},
    "per_device_train_batch_size": 2,
    "steps_per_generation": 1,
    "max_steps": 1,
    "max_completion_length": 4,
    "tool_protocol": "tags",
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
GOOD = Dataset.from_list([{"prompt": "boss e1"}] * 4)


class Asking:
    """An environment whose `reset` gives the prompt, or None."""

    def __init__(self, question="boss e1"):
        self.question = question

    def reset(self, **row):
        return self.question


def make(tmp_path, tiny, train=GOOD, evaluation=None, **kwargs):
    model, tokenizer = tiny
    return APPOTrainer(
        model,
        lambda completions, **_: [0.0] * len(completions),
        APPOConfig(str(tmp_path), **SETTINGS),
        train,
        evaluation,
        processing_class=tokenizer,
        **kwargs,
    )


@pytest.mark.parametrize("column", ["question", "messages", "Prompt"])
@pytest.mark.parametrize("kind", ["train", "eval", "one of several", "iterable"])
def test_rows_without_a_prompt_are_told_when_the_trainer_is_made(tmp_path, tiny, column, kind):
    rows = Dataset.from_list([{column: "boss e1", "answer": "e2"}] * 4)
    given = {"train": (rows,), "eval": (GOOD, rows), "one of several": (GOOD, {"good": GOOD, "bad": rows})}
    given["iterable"] = (rows.to_iterable_dataset(),)
    with pytest.raises(UserError) as error:
        make(tmp_path, tiny, *given[kind])
    name = {"eval": "eval_dataset", "one of several": "eval_dataset['bad']"}.get(kind, "train_dataset")
    assert str(error.value) == (
        f"{name} has no column `prompt`, but {column}, answer; rename the one that holds it: "
        "rows.rename_column(OLD, 'prompt')."
    )


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([None, "boss e1"], "row 0: `prompt` is None, but it must be a text or a list of messages"),
        (["boss e1", "boss e1", None], "row 2: `prompt` is None"),
        ([7, 8], "row 0: `prompt` is 7, but"),
        ([["boss", "e1"]], r"row 0: `prompt` is \['boss', 'e1'\], but"),
        ([{"role": "user", "content": "boss e1"}], "row 0: `prompt` is {'role': 'user', 'content': 'boss e1'}, but"),
        ([[{"content": "boss e1"}]], r"row 0: `prompt` is \[{'content': 'boss e1'}\], but"),
        ([[]], r"row 0: `prompt` is \[\], but"),
        ([""], "row 0: `prompt` is empty; give a text"),
        ([[{"role": "user", "content": ""}]], "row 0: `prompt` is empty"),
        (["boss e1", ""], "row 1: `prompt` is empty"),
        ([[{"role": "user", "content": "boss"}], [{"role": "user", "content": ""}]], "row 1: `prompt` is empty"),
        ([[{"role": "user", "content": "boss"}], []], r"row 1: `prompt` is \[\], but"),
    ],
)
def test_a_prompt_that_is_none_is_told(prompts, sentence):
    with pytest.raises(UserError, match=f"^data, {sentence}"):
        check_prompts("data", Dataset.from_dict({"prompt": prompts}), with_environment=False)


def test_what_a_transform_makes_is_the_row():
    rows = Dataset.from_list([{"question": "boss e1"}] * 2)
    rows.set_transform(lambda batch: {"prompt": batch["question"]})
    check_prompts("data", rows, with_environment=False)
    rows.set_transform(lambda batch: {"prompt": [None] * len(batch["question"])})
    with pytest.raises(UserError, match=r"^data, row 0: `prompt` is None"):
        check_prompts("data", rows, with_environment=False)


def test_a_later_row_of_a_stream_is_told_when_a_rollout_would_start_from_it(tmp_path, tiny):
    def rows():
        yield {"prompt": "boss e1"}
        while True:
            yield {"prompt": None}

    trainer = make(tmp_path, tiny, IterableDataset.from_generator(rows))
    trainer.args.max_steps = 2
    with pytest.raises(UserError, match=r"^a row: `prompt` is None, but it must be a text"):
        trainer.train()


def test_an_environment_may_give_the_whole_prompt(tmp_path, tiny):
    tiny[1].chat_template = "{{ messages[0]['content'] }}"
    rows = Dataset.from_list([{"kind": 1}] * 4)
    trainer = make(tmp_path, tiny, rows, environment_factory=Asking)
    check_prompts("data", rows, with_environment=True)
    (tree,) = trainer.writer.write([rows[0]], 1)
    assert tree.initial[0].prompt == [{"role": "user", "content": "boss e1"}]


@pytest.mark.parametrize("question", [None, ""])
def test_an_environment_that_gives_no_prompt_does_not_make_up_for_one(tmp_path, tiny, question):
    trainer = make(tmp_path, tiny, Dataset.from_list([{"kind": 1}] * 4), environment_factory=lambda: Asking(question))
    with pytest.raises(UserError, match=r"^a row has no column `prompt`, but kind; .* reset\(\) has to return"):
        trainer.train()


@pytest.mark.parametrize("prompt", ["", [{"role": "user", "content": ""}]])
@pytest.mark.parametrize("observation", [None, ""])
def test_an_empty_prompt_without_an_observation_is_told_with_its_row(prompt, observation):
    with pytest.raises(UserError, match=r"^the row with seed = 3, answer = 'e2': `prompt` is empty"):
        starting_prompt({"prompt": prompt, "seed": 3, "answer": "e2"}, observation)
    with pytest.raises(UserError, match=r"^a row: `prompt` is empty"):
        starting_prompt({"prompt": prompt}, observation)


def test_one_message_with_a_text_is_enough():
    prompt = [{"role": "system", "content": ""}, {"role": "user", "content": "boss e1"}]
    assert starting_prompt({"prompt": prompt}, None) == prompt
    check_prompts("data", Dataset.from_dict({"prompt": [prompt]}), with_environment=False)


ROWS = [{"prompt": "start e1", "seed": 1, "answer": "e1"}] * 8
SHAPES = {
    "ROWS": "the task's {} must be a datasets.Dataset, got list;",
    "None": "the task's {} must be a datasets.Dataset, got None;",
    "Dataset.from_list(ROWS).to_iterable_dataset()": "the task's {} must be a datasets.Dataset, got IterableDataset;",
    "DatasetDict(train=Dataset.from_list(ROWS))": "the task's {} must be a datasets.Dataset, got DatasetDict;",
    "Dataset.from_list([])": "the task's {} must have rows, but there are none.",
}


def shown_by(tmp_path, monkeypatch, capsys, fields, *flags):
    """What `appo train` says of a task with these fields, in its run and in its dry run; each has to fail with 2."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shaped.py").write_text(
        "from dataclasses import replace\n"
        "from datasets import Dataset, DatasetDict\n"
        "from appo.environments import kinship\n"
        f"ROWS = {ROWS}\nTASK = replace(kinship.TASK, {fields})\n"
    )
    lines = [f"{name}: {value}" for name, value in SETTINGS.items() if name != "disable_tqdm"]
    (tmp_path / "recipe.yaml").write_text(f"task: shaped\ntrain_size: 8\neval_size: 0\noutput_dir: {tmp_path}/run\n")
    with (tmp_path / "recipe.yaml").open("a") as file:
        file.write("\n".join(lines))
    told = []
    for dry in ([], ["--dry-run"]):
        monkeypatch.delitem(sys.modules, "shaped", raising=False)
        assert main(["train", str(tmp_path / "recipe.yaml"), *flags, *dry]) == 2
        shown = capsys.readouterr()
        told.append(shown.out + shown.err)
    return told


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("of", ["dataset", "eval_dataset"])
def test_data_of_the_wrong_shape_is_told_by_the_run_and_the_dry_run(tmp_path, monkeypatch, capsys, shape, of):
    sentence = "task = 'shaped': " + SHAPES[shape].format("data" if of == "dataset" else "questions")
    fields = f"{of}=lambda size, seed: {shape}"
    for told in shown_by(tmp_path, monkeypatch, capsys, fields, "--eval_size", "4"):
        assert told.count(sentence) == 1


def test_an_empty_prompt_that_no_reset_makes_up_for_is_told_by_the_run_and_the_dry_run(tmp_path, monkeypatch, capsys):
    fields = "dataset=lambda size, seed: Dataset.from_list([{**row, 'prompt': ''} for row in ROWS])"
    run, dry = shown_by(tmp_path, monkeypatch, capsys, fields)
    assert run.startswith("appo: data: the task's data, row 0: `prompt` is empty")
    assert f"mistake: {run.removeprefix('appo: ')}" in dry


def test_missing_rewards_and_weights_are_told_by_the_run_and_the_dry_run(tmp_path, monkeypatch, capsys):
    run, dry = shown_by(tmp_path, monkeypatch, capsys, "reward_funcs=[]")
    assert run.startswith("appo: rewards: the task has no reward source; give its reward_funcs")
    assert f"mistake: {run.removeprefix('appo: ')}" in dry
    run, dry = shown_by(tmp_path, monkeypatch, capsys, "", "--reward_weights", "1", "2")
    assert run.startswith("appo: reward_weights = [1.0, 2.0], but the task's reward functions are 1; give")
    assert f"mistake: {run.removeprefix('appo: ')}" in dry


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("None", "got None."),
        ("'text'", "got a str."),
        ("['text'] * size", "but number 0 is a str."),
        ("[None] * size", "but number 0 is None."),
    ],
)
def test_demonstrations_that_are_none_are_told_by_the_run_and_the_dry_run(
    tmp_path, monkeypatch, capsys, returned, sentence
):
    fields = f"demonstrations=lambda size, seed: {returned}"
    for told in shown_by(tmp_path, monkeypatch, capsys, fields, "--demonstrations", "4"):
        assert f"demonstrations() must return a list, or an iterator, of Demonstration, {sentence}" in told


def test_an_observation_is_appended_to_the_rows_prompt():
    assert starting_prompt({"prompt": "boss "}, "e1") == "boss e1"
    assert starting_prompt({"prompt": ""}, "e1") == "e1"
    assert starting_prompt({"prompt": "boss e1"}, None) == "boss e1"


@pytest.mark.parametrize("flags", [["--dry-run"], []])
@pytest.mark.parametrize("of", ["dataset", "eval_dataset"])
def test_a_tasks_rows_without_a_prompt_are_a_mistake_before_anything_is_loaded(
    tmp_path, monkeypatch, capsys, flags, of
):
    (tmp_path / "asking.py").write_text(
        "from dataclasses import replace\n"
        "from datasets import Dataset\n"
        "from appo.environments import kinship\n"
        "rows = lambda size, seed: Dataset.from_list([{'question': 'boss e1', 'answer': 'e2'}] * size)\n"
        "def make_model():\n"
        "    raise AssertionError('the model was made')\n"
        f"TASK = replace(kinship.TASK, environment_factory=None, make_model=make_model, {of}=rows)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "asking", raising=False)
    lines = [f"{name}: {value}" for name, value in SETTINGS.items() if name != "disable_tqdm"]
    (tmp_path / "recipe.yaml").write_text(
        f"task: asking\ntrain_size: 8\noutput_dir: {tmp_path}/run\n" + "\n".join(lines)
    )
    assert main(["train", str(tmp_path / "recipe.yaml"), *flags]) == 2
    shown = capsys.readouterr()
    assert "has no column `prompt`, but question, answer; rename" in shown.out + shown.err


def test_the_testbeds_rows_pass():
    check_prompts("data", kinship.make_dataset(16, seed=3), with_environment=False)
