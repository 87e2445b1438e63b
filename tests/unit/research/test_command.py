"""`python -m appo.research`, which `appo study` is another name for."""

import subprocess
import sys

import pytest

from appo.cli.main import main as appo
from appo.research.__main__ import main


def test_the_module_and_the_alias_show_the_same_help(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert appo(["study", "--help"]) == 0
    assert capsys.readouterr().out == shown
    assert shown.startswith("A study: which arms")


def test_a_mistake_is_one_sentence_and_code_2():
    done = subprocess.run([sys.executable, "-m", "appo.research", "none.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("appo: there is no recipe none.yaml;") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("run", [main, lambda arguments: appo(["study", *arguments])])
def test_the_missing_extra_is_named_before_anything_runs(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert run(["studies/smoke.yaml"]) == 2
    assert capsys.readouterr().err == "appo: a study needs the package scipy; run `pip install 'appo[research]'`.\n"
