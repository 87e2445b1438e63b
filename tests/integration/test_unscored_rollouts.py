"""Rollouts that no reward function scored are no failures: in real training, in a control and in evaluations.

What each method makes of them is in `tests/unit/methods`.
"""

import pytest
from method_parts import make_tree
from training_parts import make_trainer as make

from appo.methods import METHODS
from appo.rollout.records import read_records


def some_reward(completion_ids, **kwargs):
    """None or 1: no two scored rollouts differ."""
    return [1.0 if sum(ids) % 2 else None for ids in completion_ids]


def make_trainer(directory, **options):
    options = {"steps_per_generation": 1, "max_steps": 1, "max_completion_length": 16, **options}
    return make(directory, reward=some_reward, **options)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("raft", "appo_rescue")])
def test_where_no_two_scored_rollouts_differ_no_method_learns(tmp_path, method):
    trainer = make_trainer(tmp_path, method=method, loss_type="dapo", save_strategy="no")
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    records = list(read_records(tmp_path))
    assert {record["reward"] for record in records} == {None, 1.0}
    assert all((p == b).all() for p, b in zip(trainer.model.parameters(), before, strict=True))


@pytest.mark.parametrize("method", ["raft", "appo_rescue"])
def test_raft_learns_from_those_that_are_scored_alone(tmp_path, method):
    make_trainer(tmp_path, method=method).train()
    for record in read_records(tmp_path):
        own = [a for a, m in zip(record["advantages"], record["policy_mask"], strict=True) if m]
        assert set(own) <= {float(record["reward"] is not None)}


def test_sampling_replaces_tasks_whose_scored_rewards_are_all_equal(tmp_path):
    trainer = make_trainer(tmp_path, method="dapo", loss_type="dapo")
    trainer.train()
    # Two tasks of 8 rollouts, and in three further rounds two others each: none has any spread.
    assert trainer.counters.totals()["rollouts/generated"] == 4 * 2 * 8


@pytest.mark.parametrize("part", [0, 1])
def test_the_loss_of_an_evaluation_leaves_them_out(tmp_path, monkeypatch, part):
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=3, num_generations_eval=3)
    rewards = [[1.0, None, 0.0], [None, None, 1.0]][part]

    def write(rows, size, stream):
        tree = make_tree(rewards)
        tree.row = rows[0]
        return [tree]

    monkeypatch.setattr(trainer.writer, "write", write)
    trainer.model.eval()
    inputs = trainer.prepare_inputs([trainer.train_dataset[0]] * 3)
    assert inputs["advantages"].tolist() == [[1.0, 0.0, -1.0], [0.0] * 3][part]
