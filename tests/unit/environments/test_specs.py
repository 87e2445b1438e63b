"""What TRL's trainer is given becomes a task: rows by seed, a share held out, one sentence for what does not fit."""

from types import SimpleNamespace

import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from trl.experimental.harbor import HarborSpec

from appo import Task
from appo.errors import UserError
from appo.rollout.environments import EnvironmentPool
from appo.rollout.loop import snapshot


class Counter:
    def reset(self, **row):
        self.count = 0


def reward(environments, **columns):
    return [float(environment.count) for environment in environments]


def rows(size=100, **columns):
    prompt = [{"role": "user", "content": ""}]
    return Dataset.from_list([{"prompt": prompt, "target": n, **columns} for n in range(size)])


def spec(**fields):
    return {"train_dataset": rows(), "environment_factory": Counter, "reward_funcs": reward, **fields}


@pytest.mark.parametrize("kind", [dict, lambda parts: SimpleNamespace(**parts)], ids=["dict", "object"])
def test_keys_and_attributes_are_the_same(kind):
    task = Task.from_spec(kind(spec()))
    assert (task.reward_funcs, task.environment_factory, task.tools) == ([reward], Counter, [])
    assert len(task.dataset(10, seed=0)) == 10


def test_rows_are_those_of_the_seed_and_all_where_there_are_fewer(caplog):
    task = Task.from_spec(spec(train_dataset=rows(20)), held_out=0)
    assert task.dataset(5, 1)["target"] == task.dataset(5, 1)["target"] != task.dataset(5, 2)["target"]
    assert sorted(task.dataset(1000, 1)["target"]) == list(range(20))
    assert "train_dataset has 20 rows, fewer than train_size = 1000: all of them are used." in caplog.text


@pytest.mark.parametrize("factory", [Counter, None], ids=["environment", "none"])
def test_a_share_of_the_rows_is_held_out_by_content(factory):
    """With an environment all columns say what a row is about, as prompts may be empty; else the prompt does."""
    data = rows().map(lambda row: {"prompt": f"Is {row['target']} even?"} if factory is None else row)
    task = Task.from_spec(spec(train_dataset=data, environment_factory=factory), held_out=0.2)
    train, held = (set(side["target"]) for side in (task.dataset(100, 0), task.questions(100, 0)))
    assert train | held == set(range(100))
    assert not train & held
    assert 10 <= len(held) <= 30  # 20 of 100 on average


def test_a_row_that_is_added_moves_no_other():
    few, more = (Task.from_spec(spec(train_dataset=rows(size)), held_out=0.2) for size in (100, 101))
    assert set(few.questions(100, 0)["target"]) <= set(more.questions(101, 0)["target"])


def test_an_evaluation_of_its_own_leaves_nothing_held_out():
    task = Task.from_spec(spec(eval_dataset=rows(7)))
    assert sorted(task.dataset(100, 0)["target"]) == list(range(100))
    assert sorted(task.questions(7, 0)["target"]) == list(range(7))


def test_rows_that_are_all_alike_serve_both_sides_as_the_environment_draws_the_episodes():
    data = Dataset.from_dict({"prompt": ["Play."] * 8})
    task = Task.from_spec(spec(train_dataset=data), held_out=0.5)
    assert (len(task.dataset(8, 0)), len(task.questions(8, 0))) == (8, 8)


def test_without_rows_reset_gives_the_prompts():
    task = Task.from_spec({"environment_factory": Counter, "reward_funcs": [reward]})
    assert task.dataset(3, 0)["prompt"] == [[{"role": "user", "content": ""}]] * 3
    assert len(task.questions(2, 0)) == 2


def test_environments_by_name_stay_a_dict():
    task = Task.from_spec(spec(train_dataset=rows(environment="a"), environment_factory={"a": Counter, "b": Counter}))
    pool = EnvironmentPool(task.tools, task.environment_factory)
    assert isinstance(pool.open(task.dataset(1, 0)[0])[0], Counter)


@pytest.mark.parametrize("factory", [Counter, {"a": Counter}], ids=["one", "by name"])
def test_environments_that_share_a_state_are_not_copied(factory):
    def made(copies):
        task = Task.from_spec(spec(environment_factory=factory), copies=copies)
        (environment,) = EnvironmentPool([], task.environment_factory).probe()
        return environment

    assert isinstance(snapshot(made(copies=True)), Counter)
    assert type(made(copies=False)) is Counter
    assert snapshot(made(copies=False)) is None


def test_an_error_of_the_spec_itself_is_not_hidden():
    class Broken:
        @property
        def train_dataset(self):
            raise AttributeError("the server's answer has no tasks")

    with pytest.raises(AttributeError, match=r"^the server's answer has no tasks$"):
        Task.from_spec(Broken())


STREAM = IterableDataset.from_generator(lambda: iter([{"prompt": "a"}]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (3, "Task.from_spec takes an object or a dict with train_dataset, eval_dataset, .*, got 3"),
        (HarborSpec, r"got the class HarborSpec; make one: HarborSpec\(\.\.\)"),
        ({}, "train_dataset is missing; only one environment_factory whose"),
        ({"train_datset": 3}, "a task has no train_datset; did you mean train_dataset"),
        ({"model": "Qwen"}, "a task has no model; it takes train_dataset"),
        (spec(train_dataset=[]), "train_dataset must be a datasets.Dataset, got a list; write Dataset.from_list"),
        (spec(train_dataset=STREAM), r"got a IterableDataset; write Dataset.from_list\(list\(rows.take\(1000\)\)\)"),
        (spec(eval_dataset=DatasetDict(a=rows(2))), "eval_dataset must be .*, got a DatasetDict; give one of its"),
        (spec(train_dataset=rows(0)), "train_dataset has no rows; give some"),
        (spec(reward_funcs="org/reward-model"), "reward_funcs must be a function or a list of functions, got 'org"),
        (
            spec(environment_factory=Counter()),
            "must make environments, got an object of class Counter; give the class",
        ),
        (spec(train_dataset=None, environment_factory={"a": Counter}), "train_dataset is missing"),
    ],
)
def test_what_does_not_fit_is_one_sentence(given, sentence):
    with pytest.raises(UserError, match=sentence):
        Task.from_spec(given)


@pytest.mark.parametrize("held_out", [-0.1, 1, True, "0.1"])
def test_a_share_lies_below_one(held_out):
    with pytest.raises(UserError, match=r"^held_out must lie in \[0, 1\), got "):
        Task.from_spec(spec(), held_out=held_out)


def test_too_few_rows_for_a_share_are_told_when_they_are_asked_for():
    task = Task.from_spec(spec(train_dataset=rows(3)), held_out=0)
    with pytest.raises(UserError, match=r"held_out = 0 leaves no rows for evaluations; raise it, give the spec an"):
        task.questions(1, 0)
