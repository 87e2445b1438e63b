"""Credit of a task's rollouts, by hand."""

import pytest
import torch

from appo import APPOConfig
from appo.credit import token_advantages
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout


def make_args(**options):
    options = {"num_generations": 4, "num_initial_rollouts": 2, "num_branch_points": 1, **options}
    return APPOConfig("out", bf16=False, report_to="none", **options)


def make_tree(initial, branches, position=2):
    """Rollouts of 4 tokens; branch k leaves rollout k at `position`."""
    tree = RolloutTree({})
    for reward in initial:
        rollout = Rollout([1], reward=reward)
        rollout.append([5, 6, 7, 8], [-1.0] * 4)
        tree.add_initial(rollout)
    for k, reward in enumerate(branches):
        branch = tree.rollouts[k].prefix(position)
        branch.append([9], [-1.0])
        branch.reward = reward
        tree.add_branch(branch, k, position)
    return tree


def test_dual_group_by_hand():
    # initial 1, 0: mean .5, std .5 -> +1, -1; branches 1, 0, so that 1 -> +1 and 0 -> -1 as well; b * 1 = .5
    advantages = token_advantages([make_tree([1.0, 0.0], [1.0, 0.0])], torch.ones(2, 4), make_args())
    torch.testing.assert_close(advantages, torch.tensor([[1.5] * 4, [-1.5] * 4]))


def test_equal_branches_leave_half_of_the_initial_term():
    advantages = token_advantages([make_tree([1.0, 0.0], [1.0, 1.0])], torch.ones(2, 4), make_args(future_weight=0.0))
    torch.testing.assert_close(advantages, torch.tensor([[0.5] * 4, [-0.5] * 4]))


def test_omega_scales_within_its_clip():
    omega = torch.tensor([[0.5, 1.1, 1.2, 9.0], [1.0] * 4])
    advantages = token_advantages([make_tree([1.0, 0.0], [1.0, 0.0])], omega, make_args())
    torch.testing.assert_close(advantages[0], torch.tensor([1.5, 1.55, 1.6, 1.6]))


def test_prefix_credits_the_tokens_that_a_branch_shares():
    # rewards 1, 0, 0, 0: mean .25, std sqrt(3)/4; z = sqrt(3) and -1/sqrt(3)
    tree = make_tree([1.0, 0.0], [0.0, 0.0])
    advantages = token_advantages([tree], torch.ones(2, 4), make_args(advantage="prefix", future_weight=0.0))
    high, low = 3**0.5, -(3**-0.5)
    expected = torch.tensor([[high + low] * 2 + [high] * 2, [2 * low] * 2 + [low] * 2])
    torch.testing.assert_close(advantages, expected)


def test_an_unscored_rollout_gets_nothing_and_biases_nobody():
    tree = make_tree([1.0, None, 0.0], [])
    advantages = token_advantages([tree], torch.ones(3, 4), make_args(advantage="group", future_weight=0.0))
    torch.testing.assert_close(advantages[:, 0], torch.tensor([1.0, 0.0, -1.0]))


@pytest.mark.parametrize("advantage", ["dual_group", "pooled", "prefix", "group"])
def test_equal_rewards_give_no_signal(advantage):
    tree = make_tree([0.1, 0.1], [0.1, 0.1])
    assert not token_advantages([tree], torch.ones(2, 4), make_args(advantage=advantage)).any()
