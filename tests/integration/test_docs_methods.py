"""The code of docs/methods.md runs: both methods train a tiny model, and the page's own test passes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from appo import APPOConfig, APPOTrainer
from appo.environments import kinship

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
FILES = {
    block.partition("\n")[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def train(tiny, directory, method, **method_args):
    model, tokenizer = tiny
    args = APPOConfig(
        str(directory / "out"),
        method=method,
        method_args=method_args,
        num_generations=4,
        per_device_train_batch_size=8,
        steps_per_generation=2,
        max_steps=2,
        max_completion_length=24,
        tool_protocol="tags",
        result_format=" <result> {} </result> ",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
    )
    task = kinship.TASK
    trainer = APPOTrainer(
        model,
        list(task.reward_funcs),
        args,
        train_dataset=Dataset.from_list(list(task.dataset(8, 0))),
        processing_class=tokenizer,
        environment_factory=task.environment_factory,
    )
    trainer.train()
    return trainer


def test_the_branching_score_of_the_page_chooses_the_branch_points(tiny, written):
    options = {"omega_power": 2.0, "num_initial_rollouts": 2, "num_branch_points": 1}
    trainer = train(tiny, written, "surprise:SurpriseAPPO", **options)
    branches = [branch for part in trainer.mini_batches for tree in part.trees for branch in tree.branches]
    assert branches
    assert all(branch.branch_rank == 1 for branch in branches)  # the best token of its parent


def test_the_advantage_of_the_page_is_at_most_zero(tiny, written):
    trainer = train(tiny, written, "regret:Regret")
    advantages = [part["advantages"].max().item() for part in trainer._micro_batches]
    assert max(advantages) <= 0.0


def test_the_pages_own_test_passes(written):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_regret.py"],
        cwd=written,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["surprise.py", "regret.py"])
def test_a_walk_through_has_at_most_forty_lines(name):
    assert len(FILES[name].splitlines()) <= 40
