"""A task from a user's file: prompts, answers, the split by content, parts by name, and what is refused."""

import json
import logging
import sys

import pytest
from datasets import Dataset

import appo
from appo import APPOConfig
from appo.cli.context import Context
from appo.cli.loading import load_task, tools_of
from appo.cli.recipe import RecipeError, RunConfig
from appo.data.content import shared
from appo.environments.prompts import system_prompt
from appo.environments.rows import REWARDS, rows_task
from appo.rewards import exact_match_reward_func

TICKETS = [{"ticket_text": f"Where is order {n}?", "status": "sent" if n % 2 else "lost"} for n in range(200)]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The path of a CSV; beside it, on Python's path, `own_parts.py` with a tool, a reward and an environment."""
    (tmp_path / "own_parts.py").write_text(
        "def order_status(order: str) -> str:\n"
        '    """Tells the status of an order.\n\n    Args:\n        order: Its number.\n    """\n'
        "    return 'sent'\n"
        "def length(completions, **columns):\n"
        "    return [float(len(text)) for text in completions]\n"
        "class Desk:\n"
        "    def reset(self, **row):\n"
        "        self.row = row\n"
        "    def ask(self, what: str, whom: str) -> str:\n"
        '        """Asks somebody."""\n'
        "        return what\n"
        "    def get_reward(self):\n"
        "        return 1.0\n"
        "class Tool:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    return write(tmp_path / "tickets.csv", TICKETS)


def write(path, rows):
    if path.suffix == ".csv":
        names = list(rows[0])
        lines = [names, *([str(row[name]) for name in names] for row in rows)]
        path.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(file, **changes):
    values = {"prompt": "ticket_text", "answer": "status", "reward": "exact_match", **changes}
    return rows_task(file, **values)


def said(row):
    return row["prompt"][-1]["content"]


# ---- prompts and answers ----


def test_it_is_exported_and_a_recipe_names_it(file):
    assert appo.rows_task is rows_task
    args = {"file": file, "prompt": "ticket_text", "answer": "status", "reward": "exact_match"}
    task = load_task(RunConfig("rows", task_args={**args, "tools": ["own_parts:order_status"]}))
    assert [tool.__name__ for tool in tools_of(task)] == ["order_status"]
    assert task.reward_funcs == [exact_match_reward_func]
    with pytest.raises(RecipeError, match=r"^task_args: reward is missing; give one of exact_match, f1, "):
        load_task(RunConfig("rows", task_args={**args, "reward": None}))


def test_a_row_has_messages_the_answer_and_the_files_own_columns(file):
    row = made(file, system="Be short.").dataset(1, 0)[0]
    assert row["prompt"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": row["ticket_text"]},
    ]
    assert row["answer"] == row["status"]


def test_a_template_puts_columns_into_the_prompt(file):
    task = made(file, prompt="{{Desk}} {ticket_text} Say {ticket_text}", system="")
    row = task.dataset(1, 0)[0]
    assert said(row) == f"{{Desk}} {row['ticket_text']} Say {row['ticket_text']}"


def test_without_chat_the_prompt_is_text(file):
    row = made(file, chat=False, system="Be short.").dataset(1, 0)[0]
    assert row["prompt"] == f"Be short.\n\n{row['ticket_text']}\n"


def test_the_default_prompt_asks_for_what_the_reward_reads(file):
    asks = "End with the answer alone in <answer></answer>."
    assert made(file).dataset(1, 0)[0]["prompt"][0]["content"] == asks
    own = made(file, reward="own_parts:length").dataset(1, 0)[0]["prompt"]
    assert [message["role"] for message in own] == ["user"]  # a reward of one's own may read anything


def test_in_tags_the_default_prompt_tells_of_the_tools(file):
    args = {"file": file, "prompt": "ticket_text", "answer": "status", "reward": "exact_match"}
    args |= {"tools": "own_parts:order_status", "environment": "own_parts:Desk"}
    task = load_task(RunConfig("rows", task_args=args), "tags")
    assert task.dataset(1, 0)[0]["prompt"][0]["content"].splitlines() == [
        "You can call a tool, and read what it gives in <result></result>:",
        "<order_status>order</order_status>  Tells the status of an order.",
        '<ask>{"what": .., "whom": ..}</ask>  Asks somebody.',
        "End with the answer alone in <answer></answer>.",
    ]


def test_lists_of_answers_are_the_column_answers(tmp_path):
    rows = [{"question": f"{n}?", "names": ["Ann", f"A{n}"]} for n in range(40)]
    row = rows_task(write(tmp_path / "a.jsonl", rows), "question", "names", reward="f1").dataset(1, 0)[0]
    assert row["answers"] == row["names"] and "answer" not in row


def test_messages_of_a_file_stay_and_get_the_system_prompt(tmp_path):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    file = write(tmp_path / "a.jsonl", [{"talk": talk, "label": "x"}, {"talk": talk[:1], "label": "y"}])
    task = rows_task(file, "talk", "label", reward="f1", held_out=0, system="S")
    longest = max((row["prompt"] for row in task.dataset(2, 0)), key=len)
    assert longest == [{"role": "system", "content": "S"}, *talk]


def test_cells_of_a_csv_stay_as_they_stand(tmp_path):
    rows = [{"q": f"{n}?", "code": "007", "a": "1e5"} for n in range(3)]
    row = rows_task(write(tmp_path / "a.csv", rows), "{code} {q}", "a", reward="f1", held_out=0).dataset(1, 0)[0]
    assert said(row).startswith("007 ") and row["answer"] == "1e5"


# ---- the split ----


def texts(rows):
    return {said(row) for row in rows}


def test_training_and_evaluation_share_no_text_whatever_its_case_and_space(file, tmp_path):
    twice = TICKETS + [{**row, "ticket_text": row["ticket_text"].upper().replace(" ", "  ")} for row in TICKETS]
    task = made(write(tmp_path / "twice.csv", twice), held_out=0.3)
    train, held = (
        {" ".join(text.casefold().split()) for text in texts(rows)}
        for rows in (task.dataset(1000, 0), task.questions(1000, 1))
    )
    assert len(train | held) == 200 and not train & held
    assert 30 <= len(held) <= 90  # 60 on average, with a standard deviation of 6.5


def test_a_row_that_is_added_moves_no_other(file, tmp_path):
    before = texts(made(file).questions(1000, 0))
    longer = write(tmp_path / "longer.csv", [{"ticket_text": "New?", "status": "sent"}, *reversed(TICKETS)])
    assert texts(made(longer).questions(1000, 0)) - {"New?"} == before


def test_a_larger_share_holds_out_what_a_smaller_one_does(file):
    assert texts(made(file, held_out=0.1).questions(1000, 0)) < texts(made(file, held_out=0.4).questions(1000, 0))


def test_a_file_for_evaluations_holds_nothing_out(file, tmp_path):
    other = write(tmp_path / "eval.csv", [{"ticket_text": "Else?", "status": "sent"}] * 3)
    task = made(file, eval_file=other)
    assert len(task.dataset(1000, 0)) == 200 and texts(task.questions(3, 0)) == {"Else?"}


def test_with_an_environment_the_whole_row_decides(tmp_path, file):
    rows = [{"start": "Play.", "seed": str(n)} for n in range(100)]
    task = rows_task(write(tmp_path / "games.csv", rows), "start", environment="own_parts:Desk", held_out=0.3)
    train, held = ({row["seed"] for row in found} for found in (task.dataset(500, 0), task.questions(500, 0)))
    assert len(train) + len(held) == 100 and 10 <= len(held) <= 50
    assert task.reward_funcs == []  # get_reward is the environment's


@pytest.mark.parametrize("chat", [True, False])
def test_another_system_prompt_holds_out_the_same_rows_with_an_environment_too(tmp_path, file, chat):
    rows = write(tmp_path / "games.csv", [{"start": "Play.", "seed": str(n)} for n in range(100)])
    held = [
        {row["seed"] for row in rows_task(rows, "start", environment="own_parts:Desk", chat=chat, **how)
         .questions(99, 0)}
        for how in ({"system": "A"}, {"system": "B"}, {"tool_protocol": "tags"}, {})
    ]  # fmt: skip
    assert held[0] and held == [held[0]] * 4


def test_the_system_messages_of_a_file_do_not_tear_a_question_apart(tmp_path):
    talks = [
        [{"role": "system", "content": who}, {"role": "user", "content": f"{n}?"}] for n in range(60) for who in "ab"
    ]
    file = write(tmp_path / "a.jsonl", [{"talk": talk, "a": "x"} for talk in talks])
    task = rows_task(file, "talk", "a", reward="f1", held_out=0.3)
    train, held = ({said(row) for row in found} for found in (task.dataset(120, 0), task.questions(120, 0)))
    assert len(train) + len(held) == 60


def test_texts_here_and_lists_there_are_the_same_answers(tmp_path):
    train = write(tmp_path / "a.jsonl", [{"q": "a?", "a": "5"}, {"q": "b?", "a": 6}])
    other = write(tmp_path / "b.jsonl", [{"q": "a?", "a": ["5"]}])
    task = rows_task(train, "q", "a", reward="f1", eval_file=other)
    assert shared(task.dataset(2, 0), task.questions(1, 0)).questions == 1


def test_answers_that_are_texts_and_lists_become_lists(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"q": "a?", "a": "x"}, {"q": "b?", "a": ["y", "z"]}])
    rows = rows_task(file, "q", "a", reward="f1", held_out=0).dataset(2, 0)
    assert sorted(rows["a"]) == sorted(rows["answers"]) == [["x"], ["y", "z"]]


def test_too_much_held_out_is_to_be_lowered(file):
    with pytest.raises(ValueError, match=r"held_out = 0\.9999 leaves no rows to train on; lower it"):
        made(file, held_out=0.9999).dataset(10, 0)


def test_the_order_is_the_seeds_and_too_few_rows_are_told(file, caplog):
    task = made(file, held_out=0)
    first, again, other = ([said(row) for row in task.dataset(20, seed)] for seed in (0, 0, 1))
    assert first == again != other
    with caplog.at_level(logging.WARNING):
        assert len(task.dataset(500, 0)) == 200
    assert f"{file} has 200 rows, fewer than train_size = 500: all of them are used." in caplog.text
    with pytest.raises(ValueError, match="held_out = 0 leaves no rows for evaluations; raise it"):
        task.questions(10, 0)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": None}, "prompt is missing; name a column"),
        ({"prompt": "{ticket_txt} now"}, "tickets.csv, which has ticket_text, status; did you mean 'ticket_text'?"),
        (
            {"prompt": "{ticket_text"},
            "expected '}' before end of string; write a brace that is none of a column twice",
        ),
        ({"prompt": "{ticket_text} {status}"}, "shows the answer, column 'status'; leave it out"),
        ({"answer": "state"}, "answer = 'state' is no column of"),
        ({"answer": None}, "reward = 'exact_match' compares with the right answer; give answer: COLUMN"),
        ({"reward": None}, "reward is missing; give one of exact_match, f1, format, math, paper, or my_rewards:f"),
        ({"reward": "accuracy"}, "reward = 'accuracy' is none of exact_match, f1, format, math, paper;"),
        ({"reward": "own_parts:lenght"}, "own_parts has no function or class lenght; did you mean own_parts:length?"),
        ({"reward": "own_part:length"}, "there is no module own_part; its file must lie in the current folder"),
        ({"tools": ["order_status"]}, "tools = 'order_status' must read my_module:name"),
        ({"tools": ["own_parts:Desk"]}, "tools = 'own_parts:Desk' is a class; name its instance, or give environment"),
        ({"environment": "own_parts:Tool"}, "environment = 'own_parts:Tool' has no method reset(self, **row)"),
        ({"tool_protocol": "nonsense"}, "tool_protocol must be one of chat_template, tags, got 'nonsense'."),
        ({"held_out": 1}, "held_out must lie in [0, 1), got 1"),
        ({"system": 5}, "system must be a text, got 5"),
        ({"eval_file": "none.csv"}, "eval_file: there is no file none.csv"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(file, changes, sentence):
    with pytest.raises(ValueError) as error:
        made(file, **changes).dataset(1, 0)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_all_mistakes_are_told_at_once(file):
    with pytest.raises(ValueError) as caught:
        made(file, prompt="ticket", answer="state", tools=["own_parts:nobody"], reward="accuracy")
    said = str(caught.value)
    assert said.count("; also: ") == 3
    for mistake in ("tools = 'own_parts:nobody'", "reward = 'accuracy' is", "prompt = 'ticket'", "answer = 'state'"):
        assert mistake in said


def test_a_mistake_that_the_file_shows_says_that_it_is_in_the_tasks_arguments(tmp_path):
    args = {"file": "none.csv", "prompt": "q", "answer": "a", "reward": "f1"}
    context = Context("train", RunConfig("rows", task_args=args), APPOConfig(str(tmp_path), use_cpu=True), None)
    with pytest.raises(ValueError, match=r"^task_args: file: there is no file none.csv"):
        context.give("rows")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"q": "a?", "a": None}], "answer = 'a' is empty in every row; name the column that holds the answers"),
        ([{"q": "", "a": "x"}, {"q": "b?", "a": "y"}], "1 row cannot be read; line 1: its column 'q' is empty"),
        ([{"q": "a?", "a": True}], "an answer must be a text or a number, not True"),
        ([{"q": "a?", "a": "x", "answer": "y"}], "has a column 'answer' too, which rewards would read; rename it"),
        ([{"q": "a?", "a": "x", "n": 10**30}], "column 'n' holds a whole number beyond 64 bits"),
        ([{"q": "a?", "a": 10**400}], "column 'a' holds a whole number beyond 64 bits"),
        ([{"q": "a?", "a": "x", "n": "\ud800"}], "column 'n' holds a text that is no Unicode"),
        ([{"q": "a?", "a": "x", "prompt": "p"}], "has a column 'prompt', which would be lost; rename it"),
        ([{"q": "a?", "a": "x", "completions": "y"}], "has a column 'completions', which means something else"),
        (
            [{"q": "a?", "a": "x", "n": 1}, {"q": "b?", "a": "x", "n": "one"}],
            "column 'n' holds values of several kinds",
        ),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(ValueError) as error:
        rows_task(write(tmp_path / "a.jsonl", rows), "q", "a", reward="f1", held_out=0).dataset(1, 0)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("part", [{"tools": ["own_parts:order_status"]}, {"environment": "own_parts:Desk"}])
def test_the_papers_reward_has_no_other_tools_in_tags(file, part):
    with pytest.raises(ValueError, match=r"reward = 'paper' takes calls of (order_status|ask) for a broken format"):
        made(file, reward="paper", tool_protocol="tags", **part)
    row = made(file, reward="paper", **part).dataset(1, 0)[0]
    assert row["prompt"][0]["content"] == system_prompt([])  # the chat template tells of the tools


def test_a_fault_in_the_users_module_keeps_its_traceback(file, tmp_path):
    (tmp_path / "faulty_parts.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        made(file, tools=["faulty_parts:tool"])


# ---- what is told ----


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("a?", "x"), ("b?", ""), ("c?", "y")], "left out 1 row(s) without an answer: row 2."),
        ([("a?", "x"), ("b?", "X")], "answer = 'a' is 'x' in all 2 rows: a model that always says so is right."),
        ([("a?", "x"), ("A?", "y")], "1 prompt(s) have other answers in other rows, such as 'a?'."),
        ([("a?", "x"), ("a?", "y")], "prompt = 'q' is the same in all 2 rows; name a column."),
        ([("a?", "nan"), ("b?", "y")], "1 answers read 'nan', as programs write where there is none"),
        (
            [("a?", "3.0"), ("b?", "12.0")],
            "the answers are whole numbers such as 3.0; they are read without the point",
        ),
    ],
)
def test_what_may_be_a_mistake_is_told(tmp_path, caplog, rows, sentence):
    file = write(tmp_path / "a.csv", [{"q": q, "a": a} for q, a in rows])
    with caplog.at_level(logging.WARNING):
        data = rows_task(file, "q", "a", reward="f1", held_out=0).dataset(9, 0)
    assert sentence in caplog.text
    assert isinstance(data, Dataset) and not any("." in answer for answer in data["answer"])


def test_decimals_keep_their_points(tmp_path):
    file = write(tmp_path / "a.csv", [{"q": "a?", "a": "3.0"}, {"q": "b?", "a": "2.5"}])
    assert set(rows_task(file, "q", "a", reward="f1", held_out=0).dataset(2, 0)["answer"]) == {"3.0", "2.5"}


def test_the_rewards_by_name_are_those_of_the_package():
    assert set(REWARDS) == {"exact_match", "f1", "format", "math", "paper"}


# ---- an agent in place of tools ----


@pytest.fixture
def agent_file(file, tmp_path):
    with (tmp_path / "own_parts.py").open("a") as parts:
        parts.write("async def run(row, base_url, api_key):\n    return 1.0\n")
    return file


def test_an_agent_needs_neither_prompt_nor_reward_and_gets_the_files_columns(agent_file):
    task = rows_task(agent_file, agent="own_parts:run")
    assert task.agent.name == "run" and task.writes_prompts
    assert (task.tools, task.reward_funcs, task.environment_factory) == ([], [], None)
    row = task.dataset(1, seed=0)[0]
    assert set(row) == {"ticket_text", "status", "prompt"} and row["prompt"] == [{"role": "user", "content": ""}]
    assert task.for_trainer()["agent"] is task.agent


def test_a_command_is_an_agent_and_its_bounds_are_the_recipes(file):
    task = made(file, command=["my-agent", "{ticket_text}"], agent_timeout=5, agents_at_once=2)
    assert task.agent.command == ["my-agent", "{ticket_text}"]
    assert (task.agent.timeout, task.agent.at_once) == (5, 2)
    assert task.reward_funcs == [exact_match_reward_func]
    assert task.dataset(1, seed=0)[0]["prompt"][0]["role"] == "user"  # the agent brings its system message


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"agent": "own_parts:run", "command": ["x"]}, "agent and command are two ways to name an agent; give one"),
        ({"agent": "own_parts:run", "environment": "own_parts:Desk"}, "agent = run brings its own tools"),
        ({"agent": "own_parts:walk"}, "agent = 'own_parts:walk': own_parts has no function or class walk"),
        ({"agent": "own_parts:length"}, "the agent, length, must take row, base_url, api_key"),
        ({"command": "python agent.py"}, "is the text 'python agent.py'; give a command as a list of words"),
        ({"agent": "own_parts:run", "agent_timeout": 0}, "timeout of the agent must be a positive number"),
    ],
)
def test_agents_that_cannot_be_meant_are_refused(agent_file, changes, sentence):
    with pytest.raises(appo.errors.UserError) as error:
        made(agent_file, **changes)
    assert sentence in str(error.value)


def test_tools_beside_an_agent_are_for_the_cold_start_alone(agent_file):
    task = rows_task(agent_file, agent="own_parts:run", tools="own_parts:order_status")
    assert [tool.__name__ for tool in tools_of(task)] == ["order_status"]
    assert task.for_trainer()["tools"] == []


def test_rows_of_an_agent_are_told_apart_by_all_that_they_hold(agent_file):
    task = rows_task(agent_file, agent="own_parts:run", held_out=0.5)
    train = {row["ticket_text"] for row in task.dataset(60, seed=0)}
    held = {row["ticket_text"] for row in task.questions(60, seed=0)}
    assert len(train) > 40 and len(held) > 40 and not train & held
