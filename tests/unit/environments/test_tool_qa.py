"""The paper's task as a function: its data, its split, its tools, and what its arguments may not be."""

import json
import logging
import zlib

import pytest

from appo.cli.loading import load_task, tools_of
from appo.cli.recipe import RecipeError, RunConfig
from appo.environments.prompts import PAPER_PROMPT, system_prompt
from appo.environments.tool_qa import TASK
from appo.rewards import paper_reward_func
from appo.tools.python import check_isolation

try:
    check_isolation()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture
def files(tmp_path):
    """Paths of 100 training questions, 3 for validation, and a search cache."""
    for name, count in (("train", 100), ("valid", 3)):
        rows = [{"question": f"{name} {i}?", "answer": str(i)} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cache.json").write_text(json.dumps({"accra": "Page 1: Accra is the capital of Ghana."}))
    return {
        "data": str(tmp_path / "train.jsonl"),
        "valid": str(tmp_path / "valid.jsonl"),
        "search": f"cache:{tmp_path / 'cache.json'}",
    }


def test_rows_have_the_papers_prompt_and_answers(files):
    task = TASK(files["data"], search=files["search"], held_out=0)
    row = task.dataset(1, 0)[0]
    number = row["answers"][0]
    assert row["prompt"] == [
        {"role": "system", "content": PAPER_PROMPT},
        {"role": "user", "content": f"train {number}?"},
    ]
    assert task.reward_funcs == [paper_reward_func]


def test_the_prompt_speaks_of_the_tools_there_are(files):
    task = TASK(files["data"], tools=["python"])
    assert task.dataset(1, 0)[0]["prompt"][0]["content"] == system_prompt(["python"])
    assert [tool.__name__ for tool in task.tools] == ["python"]


def test_the_prompt_may_be_ones_own(files):
    task = TASK(files["data"], tools=["python"], prompt="Think first.")
    assert task.dataset(1, 0)[0]["prompt"][0] == {"role": "system", "content": "Think first."}


def test_an_empty_prompt_is_no_system_message(files):
    task = TASK(files["data"], tools=["python"], prompt="")
    assert [message["role"] for message in task.dataset(1, 0)[0]["prompt"]] == ["user"]


def test_tools_work(files):
    search, python = tools_of(TASK(files["data"], search=files["search"], sandbox={"timeout_s": 10.0}))
    assert search("Accra") == "Page 1: Accra is the capital of Ghana."
    assert str(python("print(6 * 7)")) == "42"


def test_variables_live_on_in_a_session(files):
    task = TASK(files["data"], tools=["python"], python_session=True)
    assert [tool.__name__ for tool in tools_of(task)] == ["python"]
    assert task.tools == []
    session = task.environment_factory()
    session.reset()
    session.python("x = 41")
    assert str(session.python("print(x + 1)")) == "42"


def test_evaluation_and_training_share_no_question(files):
    task = TASK(files["data"], search=files["search"], held_out=0.2)
    trained, asked = set(task.dataset(1000, 0)["question"]), set(task.eval_dataset(1000, 7)["question"])
    assert asked == {f"train {i}?" for i in range(100) if zlib.crc32(f"train {i}?".encode()) % 10_000 < 2000}
    assert trained | asked == {f"train {i}?" for i in range(100)}
    assert not trained & asked
    with_file = TASK(files["data"], valid=files["valid"], search=files["search"])
    assert len(with_file.dataset(1000, 0)) == 100
    assert set(with_file.eval_dataset(10, 0)["question"]) == {"valid 0?", "valid 1?", "valid 2?"}


def test_the_order_is_the_seeds_and_too_few_rows_are_told(files, caplog):
    task = TASK(files["data"], search=files["search"], held_out=0)
    first, again, other = (task.dataset(20, seed)["question"] for seed in (0, 0, 1))
    assert list(first) == list(again) != list(other)
    with caplog.at_level(logging.WARNING, "appo.environments.tool_qa"):
        assert len(task.dataset(200, 0)) == 100
    assert "train.jsonl has 100 rows, so all of them are used instead of 200" in caplog.text
    with pytest.raises(ValueError, match=r"the held-out part of .*train.jsonl has no rows; give valid"):
        task.eval_dataset(10, 0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tools": ["weather"]}, "tools must be some of search, python, got ['weather']"),
        ({"tools": []}, "tools must be some of"),
        ({"held_out": 1.5}, "held_out must lie in [0, 1), got 1.5"),
        ({"search": None}, "search is missing"),
        ({"tools": ["python"]}, "belong to tools that are not among"),
        ({"search": "bing"}, "search = 'bing' must read cache:FILE"),
        ({"search": "cache:none.json"}, "none.json cannot be read"),
        ({"sandbox": {"seconds": 3}}, "sandbox: got an unexpected keyword argument 'seconds'"),
        ({"sandbox": {"timeout_s": -1}}, "timeout_s must be positive and finite, got -1"),
        ({"sandbox": {"stateful": True}}, "sandbox: stateful is what python_session says; remove it"),
        ({"data": 5}, "data must be a text, got 5."),
        ({"prompt": 5}, "prompt must be a text, got 5."),
        ({"held_out": "0.1"}, "held_out must lie in [0, 1), got 0.1"),
        ({"tools": 5}, "tools must be some of search, python, got 5."),
        ({"sandbox": 5}, "sandbox must be a mapping, got 5."),
        ({"search_options": 5}, "search_options must be a mapping, got 5."),
        ({"daat": "x"}, "task_args: task = 'tool_qa' has no daat; did you mean data?"),
    ],
)
def test_wrong_arguments_are_one_sentence(files, values, sentence):
    given = {"data": files["data"], "search": files["search"], **values}
    with pytest.raises(RecipeError) as error:
        load_task(RunConfig("tool_qa", task_args=given))
    assert str(error.value).startswith("task_args: ")
    assert sentence in str(error.value)


def test_missing_arguments_are_named_and_others_take_none():
    with pytest.raises(RecipeError, match="missing a required argument: 'data'"):
        load_task(RunConfig("tool_qa"))
    with pytest.raises(RecipeError, match="task_args are given, but task = 'kinship' takes none"):
        load_task(RunConfig("kinship", task_args={}))
