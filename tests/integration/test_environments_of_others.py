"""Environments of other packages, by TRL's conventions, are tasks: they train, and branch from states of their own.

OpenReward and OpenEnv ask for versions that exclude each other, so that each is tested where it is installed, against
a real server on this machine (`tests/with_environments`): a counter that is kept there alone. Harbor's own sandboxes
need a container service; here TRL's `HarborSpec` has an agent that works in a folder.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from taught_model import END, THINKING, taught, turns_of
from trl.experimental.harbor import HarborEnv, HarborSpec

from appo import APPOConfig, APPOTrainer, Task
from appo.environments.base import tool_methods
from appo.rollout.loop import snapshot
from appo.rollout.records import read_records
from appo.rollout.tree import BranchPoint
from appo.tools.described import tool_problems

TESTS = Path(__file__).parents[1]
OPTIONS = {
    "chat_template_kwargs": THINKING,
    "method_args": {"num_initial_rollouts": 4, "num_branch_points": 1},
    "num_generations": 8,
    "per_device_train_batch_size": 16,
    "steps_per_generation": 1,
    "max_steps": 1,
    "max_completion_length": 120,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "save_report": False,
    "disable_tqdm": True,
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
}


def needs(package, least):
    """Skips a test where a package is missing or older."""
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        found = "0"
    old = [int(part) for part in found.split(".")[:3]] < [int(part) for part in least.split(".")]
    return pytest.mark.skipif(
        old, reason=f"needs {package}>={least}, which has an environment of its own (here: {found})"
    )


@contextmanager
def server(program):
    """The address of a server, which is a program of `tests/with_environments`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, TESTS / "with_environments" / program, str(port)], stdout=subprocess.DEVNULL
    )
    url = f"http://localhost:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health").close()
                break
            except OSError:
                assert process.poll() is None, f"{program} has ended"
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


# ---- what is the same for all: a counter that is to come to 3 or to 4, and is kept elsewhere ----


def question(target):
    return f"Increment the counter to {target}."


def episode(target, steps, tool):
    """(what precedes, what is written) of each turn: one call after the other, then "Done."."""
    turns, count, before = [], 0, ""
    for step in steps:
        count += step
        (start, text), (behind, _) = turns_of(question(target), [("increment", {"step": step})], [count], [tool])
        before = before or start
        turns.append((before, text))
        before += text + "\n" + behind[behind.rindex("<|im_start|>user") :]
    return [*turns, (before, "Done." + END)]


def taught_to_increment(task):
    """A model that takes a right or a wrong second step, and its tokenizer."""
    (tool,) = tool_methods(task.environment_factory())
    assert list(tool_problems(tool, "chat_template")) == []
    return taught([turn for target in (3, 4) for last in (2, 3) for turn in episode(target, (1, last), tool)])


def check_counts(calls):
    """That each result is the sum of the steps so far: that no other rollout moved this one's counter."""
    count = 0
    for call in calls:
        if call["error"] is None:
            count += call["arguments"]["step"]
            assert call["result"] == str(count)


def check_trains_and_branches(task, directory):
    model, tokenizer = taught_to_increment(task)
    trainer = APPOTrainer(
        model,
        task.reward_funcs,
        APPOConfig(str(directory), **OPTIONS),
        task.dataset(2, seed=0),
        processing_class=tokenizer,
        environment_factory=task.environment_factory,
    )
    trainer.train()
    records = list(read_records(directory))
    assert len(records) == 16
    assert any(record["parent"] is not None for record in records)
    assert {record["reward"] for record in records} == {0.0, 1.0}
    for record in records:
        check_counts(record["tool_calls"])

    trainer.model.train()  # or no environment would be kept
    (tree,) = trainer.writer.write([task.dataset(1, seed=0)[0]], 8)
    parent = next(rollout for rollout in tree.initial if len(valid(rollout)) == 2)
    assert snapshot(parent.environment) is None
    second_turn = BranchPoint(tree, tree.initial.index(parent), parent.answered_turns()[0])
    trainer.writer.branch([tree], [second_turn] * 8, stream=1)
    assert len(tree.branches) == 8
    assert max(len(valid(branch)) for branch in tree.branches) > 1  # went on counting
    for branch in tree.branches:
        assert branch.environment is not parent.environment
        check_counts([vars(call) for call in branch.tool_calls])
    assert task.reward_funcs[0](environments=[parent.environment]) == [parent.reward]
    assert trainer.counters.totals()["branches/left_out"] == 0


def valid(rollout):
    return [call for call in rollout.tool_calls if call.error is None]


# ---- Harbor ----


class FolderAgent(HarborEnv):
    """In place of a sandbox a folder, which holds the counter; a verifier reads the task's file."""

    async def _start(self, task_dir):
        self._task, self._env = Path(task_dir), Path(tempfile.mkdtemp(prefix="counter"))
        (self._env / "count").write_text("0")
        return (self._task / "instruction.md").read_text()

    async def _stop(self):
        self._env = None

    def __del__(self):  # TRL's waits for a thread, which at the interpreter's end is no longer there
        if "_loop" in vars(self):  # a copy that failed has none
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _verify(self):
        target = tomllib.loads((self._task / "task.toml").read_text())["metadata"]["gold_answer"]
        return float((self._env / "count").read_text() == target)

    async def _add(self, step):
        count = int((self._env / "count").read_text()) + step
        (self._env / "count").write_text(str(count))
        return str(count)

    def increment(self, step: int) -> str:
        """
        Adds to the counter.

        Args:
            step: What is added.

        Returns:
            The counter.
        """
        return self._run(self._add(step))


def make_suite(directory):
    for target in (3, 4):
        task = directory / "tasks" / f"reach-{target}"
        task.mkdir(parents=True)
        (task / "instruction.md").write_text(question(target))
        (task / "task.toml").write_text(f'[metadata]\ngold_answer = "{target}"\n')
    return str(directory)


def test_a_suite_of_harbors_trains_and_branches_by_replay(tmp_path):
    spec = HarborSpec(make_suite(tmp_path / "suite"), agent=FolderAgent)
    check_trains_and_branches(Task.from_spec(spec, held_out=0), tmp_path / "run")


def test_harbors_own_agent_says_what_a_policy_has_to_know(tmp_path):
    task = Task.from_spec(HarborSpec(make_suite(tmp_path), agent="bash"))
    (bash,) = tool_methods(task.environment_factory())
    assert bash.__name__ == "bash"
    assert list(tool_problems(bash, "chat_template")) == []


MODULE = """
from test_environments_of_others import FolderAgent
from trl.experimental.harbor import HarborEnv, HarborSpec

from appo import Task


class Agent(FolderAgent):
    __del__ = HarborEnv.__del__  # waits for a thread of the environment's own


TASK = Task.from_spec(HarborSpec("suite", agent=Agent), held_out=0)
"""


def test_a_recipe_names_a_spec_in_a_module_and_the_command_comes_to_its_end(tmp_path):
    for part in taught_to_increment(Task.from_spec(HarborSpec(make_suite(tmp_path / "suite"), agent=FolderAgent))):
        part.save_pretrained(tmp_path / "model")
    recipe = {**OPTIONS, "task": "my_suite", "model": "model", "output_dir": "run", "train_size": 2, "eval_size": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "my_suite.py").write_text(MODULE)
    paths = [str(TESTS.parent / "src"), str(TESTS), str(TESTS / "integration")]
    subprocess.run(
        [sys.executable, "-m", "appo", "train", "recipe.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        timeout=600,  # else it would wait for ever
    )
    assert len(list(read_records(tmp_path / "run"))) == 16


# ---- OpenReward ----


@needs("openreward", "0.1.109")
def test_an_environment_of_openreward_trains_and_branches_by_replay(tmp_path, monkeypatch):
    from trl.experimental.openreward import OpenRewardSpec

    with server("open_reward_server.py") as url:
        for name in ("OPENREWARD_API_URL", "OPENREWARD_SESSION_URL"):  # else the package asks api.localhost
            monkeypatch.setenv(name, url)
        check_trains_and_branches(Task.from_spec(OpenRewardSpec(url), held_out=0), tmp_path)


# ---- OpenEnv ----


@needs("openenv", "0.3.1")
def test_an_environment_of_openenv_trains_and_branches_by_replay(tmp_path):
    client = pytest.importorskip("openenv.core").GenericEnvClient

    with server("open_env_server.py") as url:

        class CounterEnv:
            """As in TRL's documentation of OpenEnv: a client, and a method for each action."""

            def __init__(self):
                self.client = client(base_url=url).sync()
                self.reward = 0.0

            def reset(self, seed, **kwargs) -> str | None:
                self.client.reset(seed=seed)
                self.reward = 0.0
                return question(seed)

            def increment(self, step: int) -> str:
                """
                Adds to the counter.

                Args:
                    step: What is added.

                Returns:
                    The counter.
                """
                result = self.client.step({"step": step})
                self.reward = result.reward
                return str(result.observation["count"])

        def reward_func(environments, **kwargs):
            return [environment.reward for environment in environments]

        rows = Dataset.from_list([{"prompt": [{"role": "user", "content": ""}], "seed": seed} for seed in (3, 4)])
        parts = {"train_dataset": rows, "environment_factory": CounterEnv, "reward_funcs": reward_func}
        check_trains_and_branches(Task.from_spec(parts, held_out=0), tmp_path)
