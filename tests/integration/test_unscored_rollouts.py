"""Rollouts that no reward function scored are no failures: in the rivals, the controls and evaluations."""

import pytest
import torch

from appo.environments import kinship
from appo.rivals import RivalConfig, RivalTrainer
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout

PLAIN = {"num_initial_rollouts": 8, "num_branch_points": 0, "advantage": "group", "future_weight": 0.0}
LENGTH = 4


def some_reward(completion_ids, **kwargs):
    """None or 1: no two scored rollouts differ."""
    return [1.0 if sum(ids) % 2 else None for ids in completion_ids]


def make_trainer(tmp_path, **options):
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    options = {
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "num_initial_rollouts": 4,
        "num_branch_points": 1,
        "steps_per_generation": 1,
        "max_steps": 1,
        "max_completion_length": 16,
        "save_strategy": "no",
        "tool_protocol": "tags",
        **options,
    }
    args = RivalConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", disable_tqdm=True, **options)
    rows = kinship.make_dataset(16, seed=3)
    return RivalTrainer(model, some_reward, args, rows, processing_class=tokenizer)


def make_tree(rewards, branches=()):
    """Initial rollouts with these rewards, and branches (parent, reward) that leave at token 2."""
    tree = RolloutTree({})
    for reward in rewards:
        rollout = Rollout([1], reward=reward)
        rollout.append([5] * LENGTH, [-1.0] * LENGTH)
        tree.add_initial(rollout)
    for parent, reward in branches:
        branch = tree.rollouts[parent].prefix(2)
        branch.append([9] * 2, [-1.0] * 2)
        branch.reward = reward
        tree.add_branch(branch, parent, 2)
    return tree


def credit(trainer, *trees):
    rows = sum(len(tree.trained(trainer.args.train_on)) for tree in trees)
    return trainer._advantages(list(trees), torch.ones(rows, LENGTH))


def test_reinforce_normalises_the_scored_rollouts_of_the_batch(tmp_path):
    trainer = make_trainer(tmp_path, rival="reinforce++", **PLAIN)
    # Less their task's mean: 1/2, -1/2 and 0, 0. Standard deviation sqrt(1/8).
    actual = credit(trainer, make_tree([1.0, None, 0.0]), make_tree([1.0, 1.0, None]))
    expected = torch.tensor([2**0.5, 0.0, -(2**0.5), 0.0, 0.0, 0.0])
    torch.testing.assert_close(actual, expected[:, None].expand(-1, LENGTH))


def test_arpo_compares_the_scored_rollouts_of_the_task(tmp_path):
    trainer = make_trainer(tmp_path, rival="arpo")
    # 1, 0, 0: mean 1/3, standard deviation sqrt(2)/3.
    expected = torch.tensor([2**0.5, 0.0, -(2**-0.5), -(2**-0.5)])
    actual = credit(trainer, make_tree([1.0, None, 0.0], [(1, 0.0)]))
    torch.testing.assert_close(actual, expected[:, None].expand(-1, LENGTH))


def test_arpos_shared_tokens_have_the_mean_of_the_scored_rollouts(tmp_path):
    trainer = make_trainer(tmp_path, rival="arpo", shared_prefix="hard")
    actual = credit(trainer, make_tree([1.0, None], [(1, 0.0)]))
    expected = torch.tensor([[1.0] * 4, [-1.0, -1.0, 0.0, 0.0], [-1.0] * 4])
    torch.testing.assert_close(actual, expected)


def test_sampling_replaces_tasks_whose_scored_rewards_are_all_equal(tmp_path):
    trainer = make_trainer(tmp_path, dynamic_sampling=True, **PLAIN)
    trainer.train()
    # Two tasks of 8 rollouts, and in three further rounds two others each: none has any spread.
    assert trainer.counters.totals()["rollouts/generated"] == 4 * 2 * 8


def test_outcomes_vary_among_scored_continuations_only(tmp_path):
    trainer = make_trainer(tmp_path, control="outcome_variance", branching="entropy")
    trees = trainer.write_initial([trainer.train_dataset[0]], 4)
    _, current = trainer._score_rollouts(trees[0].initial)
    assert not trainer._variances(trees, current).any()


@pytest.mark.parametrize("part", [0, 1])
def test_the_loss_of_an_evaluation_leaves_them_out(tmp_path, monkeypatch, part):
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=3, num_generations_eval=3)
    rewards = [[1.0, None, 0.0], [None, None, 1.0]][part]

    def write_initial(rows, size, stream):
        tree = make_tree(rewards)
        tree.row = rows[0]
        return [tree]

    monkeypatch.setattr(trainer, "write_initial", write_initial)
    trainer.model.eval()
    inputs = trainer._prepare_inputs([trainer.train_dataset[0]] * 3)
    assert inputs["advantages"].tolist() == [[1.0, 0.0, -1.0], [0.0] * 3][part]
