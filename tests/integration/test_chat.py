"""`appo chat` from a pipe: a line is a question, tools are found, mistakes are sentences."""

import io
import json

import pytest
from rich.console import Console
from scripted_model import save_scripted

from appo.cli.chat import Chat, open_agent, read_flags, task_of
from appo.cli.main import main
from appo.cli.mistakes import RecipeError
from appo.files import write_json
from appo.models.usage import FILE

SCRIPT = {"\n": "<look>", "<look>": "x", "x": "</look>", "|": "<answer>", "<answer>": "4", "4": "</answer>"}
MODULE = '''
from datasets import Dataset

from appo import Task


def look(what: str) -> str:
    """Looks.

    Args:
        what: At what.
    """
    return "\\x1b[31mred " + what


def broken(what: str) -> str:
    return what


TASK = Task(dataset=lambda size, seed: Dataset.from_list([{"prompt": "Which?", "answer": "4"}] * size), tools=[look])
'''


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model in the directory of a run, whose task is a module of the user's."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "chat_task.py").write_text(MODULE)
    directory = save_scripted(tmp_path / "run" / "model", SCRIPT, tokens=["<look>", "</look>"])
    write_json(tmp_path / "run" / "run.json", {"settings": {"task": "chat_task", "task_args": None}})
    write_json(
        tmp_path / "run" / "model" / FILE, {"tool_protocol": "tags", "result_format": "[{}]|", "tools": ["look"]}
    )
    return directory


@pytest.fixture
def chat(model, monkeypatch, capsys):
    """Lines and flags -> (exit code, standard output, standard error)."""

    def run(lines, *flags, model=model):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        code = main(["chat", model, *flags])
        return (code, *capsys.readouterr())

    return run


def test_the_tools_of_the_runs_task_are_found_and_each_line_is_asked_by_itself(chat):
    code, out, err = chat("Who?\n\nWhere?\n")
    assert (code, err) == (0, "")
    block = ["<look>x</look>", "  look -> \ufffd[31mred x", "<answer>4</answer>", "answer: 4", "(6 tokens, 1 call)"]
    # What would colour the terminal does not.
    assert out.splitlines() == ["> Who?", *block, "> Where?", *block]


def test_tools_may_be_named_and_left_out(chat):
    code, out, _ = chat("Who?\n", "--tools", "none")
    assert code == 0 and "(3 tokens)" not in out and "look ->" not in out  # <look> is no tag any more
    code, out, _ = chat("Who?\n", "--tools", "chat_task:look", "--result_format", "({})|")
    assert code == 0 and "  look -> \ufffd[31mred x" in out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tools", "chat_task:broken"], "'chat_task:broken': "),
        (["--tools", "chat_task:absent"], "'chat_task:absent' is no function"),
        (["--temprature", "0"], "unknown option --temprature; did you mean --temperature?"),
        (["--temperature", "-1"], "temperature must be a finite number from 0 on"),
        (["--task", "no_such_task"], "task = 'no_such_task' is none of"),
    ],
)
def test_a_mistake_is_one_sentence(chat, flags, sentence):
    code, out, err = chat("Who?\n", *flags)
    assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1


def test_a_model_outside_of_a_run_needs_its_tools_named(chat, model, tmp_path):
    (tmp_path / "run" / "run.json").unlink()
    code, _, err = chat("Who?\n")
    assert code == 2 and "was trained with the tools look; give --tools or --task, or --tools none to do" in err


def test_commands_in_a_terminal(model):
    console = Console(file=io.StringIO(), markup=False, highlight=False, soft_wrap=True)
    sitting = Chat(*open_agent(read_flags([model])), console, live=True)
    assert [sitting.take(line) for line in ("/example", "/reset", "/help", "/quit")] == [True, True, True, False]
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "Which?" and "reference: 4" in lines
    assert lines[-2:] == ["a new conversation", "there is no /help; there are /reset, /example and /quit"]


def test_a_line_of_a_pipe_that_begins_with_a_slash_is_asked(chat):
    code, out, err = chat("/etc/hosts holds what?\n/quit\n")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line[:1] == ">"] == ["> /etc/hosts holds what?", "> /quit"]
    assert out.count("answer: 4") == 2


def test_a_line_that_cannot_be_asked_is_told_and_the_next_one_is(chat, tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "kinship")
    tokenizer.save_pretrained(tmp_path / "kinship")
    own = {"tool_protocol": "tags", "prompts": "text", "tools": ["search"], "max_completion_length": 4}
    write_json(tmp_path / "kinship" / FILE, own)
    row = json.dumps({"prompt": "start boss e1", "seed": 5})
    code, out, err = chat(f"start boss e1\n{row}\n", "--task", "kinship", model=str(tmp_path / "kinship"))
    assert code == 2 and err.count("\n") == 1 and "missing a required argument: 'seed'" in err
    assert out.splitlines()[-1].startswith("(4 tokens, 0 calls; cut off (max_completion_length = 4")


def test_a_run_that_names_no_task_gives_no_tools(model, tmp_path):
    for content in ('{"settings": {}}', "[]", "{"):
        (tmp_path / "run" / "run.json").write_text(content)
        assert task_of(read_flags([model])) is None


def test_a_command_line_without_a_model_is_told_what_there_is(capsys):
    assert main(["chat"]) == 2
    with pytest.raises(RecipeError, match="chat needs a model before its flags"):
        read_flags(["--temperature", "0"])
