"""Questions on both sides of a run: left out where a generator drew them by chance, refused everywhere else."""

import sys

import pytest
from datasets import Dataset

from appo import APPOConfig, APPOTrainer
from appo.cli.main import main


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Writes a task whose data are the lines given, and whose rewards take `word`; returns its name."""

    def write(lines):
        (tmp_path / "shared_task.py").write_text(
            "from datasets import Dataset\n"
            "from appo import Task\n"
            "from appo.environments import kinship\n"
            "def rows(numbers):\n"
            "    return Dataset.from_list([{'prompt': f'boss e{n}', 'word': 'e1'} for n in numbers])\n"
            "def right(completions, word, **columns):\n"
            "    return [1.0] * len(word)\n"
            f"{lines}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "shared_task", raising=False)
        return "shared_task"

    return write


def planned(recipe, capsys, task):
    code = main(["train", recipe(task=task, demonstrations=0), "--dry-run"])
    return code, capsys.readouterr().out.splitlines()


GENERATOR = "TASK = Task(lambda size, seed: rows(range({}, 90)) if seed else rows(range(40)), [right], "
GENERATOR += "make_model=kinship.make_model)"


def test_what_a_generator_drew_twice_by_chance_is_left_out_of_training(recipe, capsys, task):
    # 38 and 39 of the evaluation's 38 .. 89 are among the training's 0 .. 39: 2 of 52
    code, lines = planned(recipe, capsys, task(GENERATOR.format(38)))
    assert code == 0
    assert (
        "note: 2 of 52 questions of the evaluation are in the training data too, such as 'boss e38'; 2 training "
        "row(s) are left out." in lines
    )
    assert any(line.startswith("  tasks") and line[21:].startswith("38, ") for line in lines)


def test_a_task_that_gives_every_seed_the_same_rows_is_refused(recipe, capsys, task):
    code, lines = planned(recipe, capsys, task(GENERATOR.format(0)))
    assert code == 2
    assert (
        "mistake: data: 40 of 90 questions of the evaluation are in the training data too, such as 'boss e0'; let the "
        "task's dataset(size, seed) give other rows for another seed, give it an eval_dataset, or set "
        "allow_shared_questions." in lines
    )


def test_data_for_evaluations_may_share_nothing(recipe, capsys, task):
    own = "TASK = Task(lambda size, seed: rows(range(40)), [right], eval_dataset=lambda size, seed: rows([39, 77]), "
    code, lines = planned(recipe, capsys, task(own + "make_model=kinship.make_model)"))
    assert code == 2
    assert (
        "mistake: data: 1 of 2 questions of the evaluation is in the training data too, such as 'boss e39'; take them "
        "out of one of the two, or set allow_shared_questions." in lines
    )


def test_a_recipe_may_allow_them(recipe, capsys, task):
    name = task(GENERATOR.format(0))
    code = main(["train", recipe(task=name, demonstrations=0, allow_shared_questions=True), "--dry-run"])
    note = "note: 40 of 90 questions of the evaluation are in the training data too, such as 'boss e0', as "
    assert code == 0 and f"{note}allow_shared_questions allows." in capsys.readouterr().out.splitlines()


def test_a_reward_that_takes_what_is_no_column_is_a_mistake(recipe, capsys, task):
    wrong = "def words(completions, words, **columns):\n    return [1.0]\n" + GENERATOR.format(40)
    code, lines = planned(recipe, capsys, task(wrong.replace("[right]", "[words]")))
    assert code == 2
    assert (
        "mistake: reward_funcs: reward function words takes 'words', which is no column of the data (word); did "
        "you mean 'word'?" in lines
    )


def test_the_trainer_refuses_what_is_on_both_sides(tmp_path, tiny):
    model, tokenizer = tiny
    train = Dataset.from_list([{"prompt": f"boss e{n}"} for n in range(8)])
    args = APPOConfig(
        str(tmp_path), num_generations=4, method_args={"num_initial_rollouts": 2, "num_branch_points": 1},
        per_device_train_batch_size=4, steps_per_generation=2, use_cpu=True, bf16=False, report_to="none",
        tool_protocol="tags",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"eval_dataset: 2 of 2 questions .* 'boss e0'; take them out"):
        APPOTrainer(
            model, lambda completions, **_: [0.0], args, train, eval_dataset=train.select([0, 1]),
            processing_class=tokenizer,
        )  # fmt: skip
