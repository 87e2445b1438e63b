"""What is loaded by what answers at once: help, data, tools, types. Each in a Python of its own."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "trl", "datasets", "pyarrow", "pandas", "matplotlib", "openai")


def loaded(code: str) -> list[str]:
    """The heavy packages that are there after the code has run."""
    code = f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "name", ["appo", "appo.data", "appo.errors", "appo.rewards", "appo.tools", "appo.tools.search"]
)
def test_importing_it_loads_nothing_heavy(name: str) -> None:
    assert loaded(f"import {name}") == ["[]"]


@pytest.mark.parametrize("name", ["appo.algorithm", "appo.rollout.types", "appo.rollout.tree"])
def test_what_a_method_is_made_of_loads_torch_at_most(name: str) -> None:
    assert loaded(f"import {name}") in (["[]"], ["['torch']"])


@pytest.mark.parametrize(
    "name",
    [
        "appo.engines.remote",
        "appo.environments.kinship",
        "appo.methods",
        "appo.protocols.instruct",
        "appo.protocols.tags",
        "appo.rewards.checked",
        "appo.rollout.batches",
        "appo.rollout.environments",
        "appo.rollout.loop",
        "appo.rollout.records",
        "appo.rollout.scoring",
    ],
)
def test_what_runs_beside_other_trainers_loads_no_trl(name: str) -> None:
    assert "'trl'" not in loaded(f"import {name}")[0]


def test_help_loads_nothing_heavy() -> None:
    assert loaded("from appo.cli.main import main; main(['--help'])") == ["[]"]


def test_what_reads_records_in_a_terminal_loads_no_torch() -> None:
    assert loaded("import appo.cli.records, appo.cli.show") == ["['pyarrow']"]


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "--help-all"], ["benchmark", "--help"]])
def test_help_of_a_command_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded(f"from appo.cli.main import main; main({arguments})") == ["[]"]


def test_the_doctor_loads_torch_alone() -> None:
    assert loaded("from appo.doctor.report import main; main([])") == ["['torch']"]


def test_what_is_heavy_is_seen() -> None:
    assert loaded("import appo.data, datasets") == ["['datasets', 'pyarrow', 'pandas']"]
