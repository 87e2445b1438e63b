"""docs/your_data.md and examples/tickets: the page's parts make a run, and the example's files are what it says."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from appo import rows_task
from appo.cli.main import main
from appo.sft.traces import read_traces

REPOSITORY = Path(__file__).parents[3]
TICKETS = REPOSITORY / "examples" / "tickets"
PAGE = (REPOSITORY / "docs" / "your_data.md").read_text()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the example's tables that is the current one and on Python's path."""
    for name in ("tickets.csv", "orders.csv"):
        (tmp_path / name).write_text((TICKETS / name).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_tools", raising=False)
    yield tmp_path
    sys.modules.pop("my_tools", None)


def block(kind, number=0):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[number]


def test_the_table_on_the_page_is_the_examples(here):
    assert (here / "tickets.csv").read_text().startswith(block("", 0))


def test_the_pages_parts_make_a_run_without_mistakes(here, capsys):
    (here / "my_tools.py").write_text(block("python"))
    (here / "recipe.yaml").write_text(block("yaml"))
    code = main(["train", "recipe.yaml", "--dry-run"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "order_status; protocol chat_template" in out


def test_the_examples_recipe_is_a_run_without_mistakes(monkeypatch, capsys):
    pytest.importorskip("gguf", reason="needs pip install 'appo[smollm2]'")
    monkeypatch.chdir(TICKETS)
    monkeypatch.syspath_prepend(TICKETS)
    monkeypatch.delitem(sys.modules, "my_tools", raising=False)
    code = main(["train", "recipe.yaml", "--dry-run"])
    out = capsys.readouterr().out
    assert code == 0, out
    sys.modules.pop("my_tools", None)


def test_the_script_makes_the_examples_files(tmp_path, monkeypatch):
    copy = tmp_path / "make_tickets.py"
    copy.write_text((TICKETS / "make_tickets.py").read_text())
    runpy.run_path(str(copy), run_name="__main__")
    for name in ("tickets.csv", "orders.csv", "traces.jsonl"):
        assert (tmp_path / name).read_bytes() == (TICKETS / name).read_bytes(), name


def test_the_traces_begin_as_the_prompts_do_and_are_about_other_orders():
    recipe = yaml.safe_load((TICKETS / "recipe.yaml").read_text())
    args = {**recipe["task_args"], "file": TICKETS / "tickets.csv", "tools": [], "reward": "f1"}
    first = rows_task(**args).dataset(1, 0)[0]["prompt"][0]
    orders = {line.split(",")[0] for line in (TICKETS / "orders.csv").read_text().splitlines()[1:]}
    for trace in read_traces([str(TICKETS / "traces.jsonl")]):
        assert trace.prompt[0] == first
        assert not any(order in trace.prompt[-1]["content"] for order in orders)
