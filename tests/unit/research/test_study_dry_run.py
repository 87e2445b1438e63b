"""`appo study --dry-run`: the plan by hand, every mistake with its place, and every study of the repository."""

from pathlib import Path

import pytest
import yaml

from appo.cli.main import main
from appo.research.dry_run import runs_of
from appo.research.plan import read_study

ROOT = Path(__file__).parents[3]
STUDIES = sorted(path.name for path in (ROOT / "studies").glob("*.yaml"))

RECIPE = {
    "task": "kinship",
    "demonstrations": 64,
    "train_size": 64,
    "cold_start": {"max_steps": 5, "learning_rate": 1e-3},
    "num_generations": 4,
    "method_args": {"num_initial_rollouts": 2, "num_branch_points": 1},
    "per_device_train_batch_size": 8,
    "max_completion_length": 32,
    "tool_protocol": "tags",
    "bf16": False,
    "use_cpu": True,
}
STUDY = {
    "output_dir": "out",
    "testbeds": {"small": {}, "large": {"questions": 9, "generated_tokens": 1000}},
    "arms": {"appo": {}, "grpo": {"method": "grpo", "learning_rates": [3e-4]}},
    "generated_tokens": 800,
    "questions": 5,
    "evaluations": 2,
    "learning_rates": [1e-4, 2e-4],
    "test_seeds": 3,
    "cold_starts": 2,
}


@pytest.fixture
def study(tmp_path):
    """Writes a study and its recipe with some fields changed; returns its path."""

    def write(recipe=None, **changes):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **(recipe or {})}))
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"recipe": "recipe.yaml", **STUDY, **changes}, sort_keys=False))
        return str(path)

    return write


def planned(capsys):
    out = capsys.readouterr().out
    return {line[2:].split("  ")[0]: line.split("  ")[-1] for line in out.splitlines() if line.startswith("  ")}, out


def test_runs_and_tokens_by_hand(study):
    lines = dict(runs_of(read_study(study())))
    assert lines["cold starts"] == "4"  # 2 testbeds x 2
    # Of appo alone, as grpo has one rate: 2 seeds x 2 rates x (800 + 1000); each run asks 3 times 5, or 9, questions.
    assert lines["validation"] == "8 runs; 7,200 generated tokens, and 168 rollouts of measurements"
    # 3 seeds x 2 arms x (800 + 1000)
    assert lines["test"] == "12 runs; 10,800 generated tokens, and 252 rollouts of measurements"
    assert dict(runs_of(read_study(study(learning_rates=[1e-4]))))["validation"] == "none"


def test_updates_in_the_budget_by_hand(study, capsys):
    methods = {"raft": "raft", "rescue": "appo_rescue"}
    arms = {"appo": {}, **{name: {"method": kind, "num_iterations": 2} for name, kind in methods.items()}}
    assert main(["study", study(arms=arms), "--dry-run"]) == 0
    plan, out = planned(capsys)
    # 2 tasks x 4 rollouts x 32 tokens = 256: 800 / 256 = 3.1; in two passes over one generation half of that.
    assert "2 tasks x 4 rollouts of at most 32 tokens; 800 tokens are 4 updates or more" in plan["small, appo"]
    assert "800 tokens are 7 updates or more" in plan["small, raft"]
    assert "800 tokens are 7 updates or more" in plan["small, rescue"]  # its branches are trained on twice, too
    assert "1,000 tokens are 4 updates or more" in plan["large, appo"]
    assert plan["small, cold start"].startswith("64 demonstrations of the task; batches of 8")
    assert out.endswith("No mistakes found.\n")


def test_nothing_is_written(study, tmp_path, capsys):
    assert main(["study", study(), "--dry-run", "--test_seeds", "2"]) == 0
    assert "8 runs; 7,200 generated tokens" in planned(capsys)[0]["test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "study.yaml"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": {"a": {}, "b": {"train_size": 1}}}, "small, b and 1 more: data: 1 tasks do not fill a generation"),
        ({"testbeds": {"small": {}, "other": {"task": "no.module"}}}, "other, cold start and 2 more: task"),
        (
            {"testbeds": {"small": {}, "far": {"model": "/no/model"}}},
            "far, cold start and 2 more: model = '/no/model'",
        ),
    ],
)
def test_a_mistake_is_told_once_with_its_place(study, capsys, changes, told):
    assert main(["study", study(**changes), "--dry-run"]) == 2
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("mistake: ")]
    assert line.startswith(f"mistake: {told}") and out.endswith("1 mistake(s).\n")


def test_settings_that_contradict_each_other_are_one_sentence(study, capsys):
    assert main(["study", study(arms={"a": {"method": "nothing"}}), "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("appo: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_of_the_repository_passes(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["study", f"studies/{name}", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"plan of appo study studies/{name}") and out.endswith("No mistakes found.\n")
