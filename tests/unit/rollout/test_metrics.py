"""What a step logs of its rollouts, by hand."""

import math

import pytest

from appo.rollout.metrics import generation_metrics, reward_differences, rollout_metrics
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout


def make_tree(*rewards):
    tree = RolloutTree({})
    for reward in rewards:
        rollout = Rollout([1], reward=reward)
        rollout.append([5, 6], [-1.0] * 2)
        tree.add_initial(rollout)
    return tree


def test_unscored_rollouts_are_in_no_mean():
    trees = [make_tree(1.0, None, 0.0), make_tree(1.0, None, 1.0), make_tree(None, None, None)]
    values = generation_metrics(trees, [])
    # 1, 0, 1, 1: mean 3/4, sample variance (3/16 + 9/16) / 3.
    assert (values["reward"], values["reward_std"]) == pytest.approx((0.75, 0.5))
    # Of two tasks with rewards, one has equal ones; nothing is known of the third.
    assert values["frac_reward_zero_std"] == 0.5
    assert rollout_metrics([r for tree in trees for r in tree.initial], 1.0)["success"] == 0.75
    assert reward_differences(trees[0]) == [0.5, 0.0, -0.5]


def test_without_any_reward_there_is_no_number():
    values = generation_metrics([make_tree(None)], [])
    assert all(math.isnan(values[name]) for name in ("reward", "reward_std", "frac_reward_zero_std"))
