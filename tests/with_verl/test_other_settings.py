"""What else a verl script may have set: another method, verl's own reward manager, validation, epochs, corrections."""

import json
import shutil
from pathlib import Path

import kinship_run
import pytest

from appo.rollout.records import read_records

REWARD = str(Path(__file__).with_name("verl_reward.py"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory, policy):
    directory = tmp_path_factory.mktemp("verl")
    shutil.copytree(policy, directory / "policy")
    changes = {
        "+trainer.v1.appo.method": "raft",
        "+trainer.v1.appo.method_args": None,
        "+trainer.v1.appo.reward_funcs": None,
        "reward.custom_reward_function.path": REWARD,
        "reward.custom_reward_function.name": "score_answer",
        "algorithm.rollout_correction.rollout_is": "token",
        "actor_rollout_ref.actor.ppo_epochs": 2,
        "trainer.val_before_train": True,
        "trainer.n_gpus_per_node": 1,
        "trainer.total_training_steps": 1,
    }
    finished = kinship_run.run(directory, changes)
    assert finished.returncode == 0, (directory / "log").read_text()[-5000:]
    return directory


@pytest.fixture(scope="module")
def records(directory):
    return list(read_records(directory / "checkpoints" / "records"))


def logged(directory):
    found = {}
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        found.update(json.loads(line)["data"])
    return found


def test_epochs_are_passes_over_the_generation(records):
    by_step = {step: [r["completion_ids"] for r in records if r["step"] == step] for step in (1, 2, 3, 4)}
    assert all(len(rollouts) == 2 * kinship_run.INITIAL for rollouts in by_step.values())
    assert by_step[1] == by_step[3] and by_step[2] == by_step[4] and by_step[1] != by_step[2]


def test_a_method_without_branches_credits_what_verls_reward_manager_rewards(records):
    assert {record["reward"] for record in records} == {0.0, 1.0}
    for record in records:
        assert record["parent"] is None
        for mask, advantage in zip(record["policy_mask"], record["advantages"], strict=True):
            assert not mask or advantage == record["reward"]  # RAFT: 1 for a success, else 0


def test_importance_weights_of_verl_are_there(directory):
    metrics = logged(directory)
    assert metrics["rollout_corr/rollout_is_mean"] == pytest.approx(1, abs=1e-4)
    assert metrics["actor/grad_norm"] > 0


def test_a_validation_is_scored(directory):
    assert 0 < logged(directory)["val-core/kinship/acc/mean@1"] < 1
