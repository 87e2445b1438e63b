"""REINFORCE++ with baseline, by hand: its estimator, and the credit of a mini-batch."""

import math

import pytest
import torch
from method_parts import make_method, make_scores, make_tree

from appo.methods import Needs
from appo.methods.reinforce_pp import batch_advantage

NAN = math.nan


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_batch_advantage_hand_computed():
    # Mean 1/4, population std sqrt(3) / 4: (0 - 1/4) / std = -1 / sqrt(3), (1 - 1/4) / std = sqrt(3).
    expected = double([-1 / math.sqrt(3), -1 / math.sqrt(3), math.sqrt(3), -1 / math.sqrt(3)])
    torch.testing.assert_close(batch_advantage(double([0.0, 0.0, 1.0, 0.0])), expected)


def test_batch_advantage_with_baseline_hand_computed():
    # Centred: group 7 (mean 1/2) to -1/2, 1/2; group 3 (mean 3) to -1, 1. Variance (1/4 + 1/4 + 1 + 1) / 4 = 5/8.
    std = math.sqrt(5 / 8)
    group_B = torch.tensor([7, 3, 7, 3])
    expected = double([-0.5 / std, -1.0 / std, 0.5 / std, 1.0 / std])
    torch.testing.assert_close(batch_advantage(double([0.0, 2.0, 1.0, 4.0]), group_B), expected)


def test_a_deviation_of_exactly_eps_gives_no_signal():
    rewards_B = double([0.0, 2.0])
    assert batch_advantage(rewards_B, eps=1.0).tolist() == [0.0, 0.0]
    assert batch_advantage(rewards_B, eps=0.99).tolist() == [-1.0, 1.0]


def test_batch_advantage_without_variance_gives_no_signal():
    equal_B = torch.full((3,), 0.1)
    assert (batch_advantage(equal_B) == 0).all()
    # Groups that differ only in their means: nothing is left after centring.
    rewards_B, group_B = torch.tensor([0.1, 0.1, 0.7]), torch.tensor([0, 0, 1])
    assert (batch_advantage(rewards_B) != 0).any()
    assert (batch_advantage(rewards_B, group_B) == 0).all()
    assert (batch_advantage(torch.tensor([0.0, 1.0]), eps=0.6) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(1, 2),), "rewards_B must have one dimension"),
        ((torch.tensor([1, 2]),), "rewards_B must be a floating-point"),
        ((torch.tensor([0.0, NAN]),), r"rewards_B holds nan at \[1\]"),
        ((torch.rand(2), torch.tensor([0])), r"group_B must be an integer tensor of shape \(2,\), as rewards_B"),
        ((torch.rand(2), torch.rand(2)), "group_B must be an integer"),
    ],
)
def test_batch_advantage_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_advantage(*arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_no_gradient_flows(dtype):
    one_R = torch.rand(3, dtype=dtype, requires_grad=True)
    for result in (batch_advantage(one_R), batch_advantage(one_R, torch.zeros(3, dtype=torch.int32))):
        assert result.dtype == dtype
        assert not result.requires_grad


def advantages(*trees):
    return make_method("reinforce_pp").credit(list(trees), make_scores(trees)).advantages_BT


def test_the_whole_mini_batch_is_normalised_together():
    # Less their task's mean: 1/2, -1/2 and 2, -2. Variance (1/4 + 1/4 + 4 + 4) / 4 = 17/8: the larger scale counts.
    std = math.sqrt(17 / 8)
    expected = torch.tensor([0.5, -0.5, 2.0, -2.0]) / std
    found = advantages(make_tree([1.0, 0.0]), make_tree([4.0, 0.0]))
    torch.testing.assert_close(found, expected[:, None].expand(-1, 4))


def test_the_scored_rollouts_of_the_batch_are_normalised_and_others_get_nothing():
    # Less their task's mean: 1/2, -1/2 and 0, 0. Standard deviation sqrt(1/8).
    found = advantages(make_tree([1.0, None, 0.0]), make_tree([1.0, 1.0, None]))
    expected = torch.tensor([2**0.5, 0.0, -(2**0.5), 0.0, 0.0, 0.0])
    torch.testing.assert_close(found, expected[:, None].expand(-1, 4))


def test_without_any_reward_there_is_no_signal():
    assert not advantages(make_tree([None, None])).any()


def test_it_writes_plain_rollouts():
    method = make_method("reinforce_pp", num_generations=8)
    assert (method.needs, method.num_initial) == (Needs(), 8)
