"""Credit of a task's rollouts, by hand."""

import pytest
import torch

from appo import APPOConfig
from appo.credit import busy_rows, group_credit, loss_mask, token_advantages, without_idle_rows
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


def test_the_clip_is_that_of_the_settings():
    args = make_args(future_clip=[0.5, 2.0])
    omega = torch.tensor([[0.1, 1.1, 1.9, 9.0], [1.0] * 4])
    advantages = token_advantages([make_tree([1.0, 0.0], [1.0, 0.0])], omega, args)
    torch.testing.assert_close(advantages[0], torch.tensor([1.25, 1.55, 1.95, 2.0]))


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


def test_pooled_and_group_by_hand():
    # Of 1, 0 and the branches' 1, 1: mean 3/4, std sqrt(3)/4. Of 1 and 0 alone: 1/2 and 1/2.
    for advantage, expected in (("pooled", (3**-0.5, -(3**0.5))), ("group", (1.0, -1.0))):
        args = make_args(advantage=advantage, future_weight=0.0)
        advantages = token_advantages([make_tree([1.0, 0.0], [1.0, 1.0])], torch.ones(2, 4), args)
        torch.testing.assert_close(advantages, torch.tensor(expected)[:, None].expand(-1, 4))


def test_prefix_leaves_out_branches_of_unscored_rollouts_and_needs_none():
    args = make_args(advantage="prefix", future_weight=0.0)
    tree = make_tree([1.0, None, 0.0], [])
    branch = tree.rollouts[1].prefix(2)
    branch.reward = 1.0
    tree.add_branch(branch, 1, 2)
    expected = torch.tensor([[1.0] * 4, [0.0] * 4, [-1.0] * 4])
    torch.testing.assert_close(token_advantages([tree], torch.ones(3, 4), args), expected)
    tree = make_tree([1.0, 0.0], [])
    torch.testing.assert_close(token_advantages([tree], torch.ones(2, 4), args), expected[[0, 2]])


@pytest.mark.parametrize("advantage", ["dual_group", "pooled", "prefix", "group"])
def test_equal_rewards_give_no_signal(advantage):
    tree = make_tree([0.1, 0.1], [0.1, 0.1])
    assert not token_advantages([tree], torch.ones(2, 4), make_args(advantage=advantage)).any()


def whole(tree, advantage="tree", **options):
    args = make_args(train_on="all", advantage=advantage, **{"future_weight": 0.0, **options})
    return token_advantages([tree], torch.ones(len(tree.rollouts), 4), args)


def test_whole_trees_by_hand():
    # Mean 1/3, std sqrt(2)/3. The two tokens that 0 shares with its branch have V = 1/2; then 1 and 0 part.
    shared, own, other = 1 / 6 + 1 / 6, 2 / 3 + 1 / 2, -1 / 3 - 1 / 2
    expected = torch.tensor([[shared, shared, own, own], [-2 / 3] * 4, [shared, shared, other, other]])
    torch.testing.assert_close(whole(make_tree([1.0, 0.0], [0.0])), expected * 3 / 2**0.5)


def test_a_branch_at_the_start_shares_nothing():
    tree = make_tree([1.0, 0.0], [0.0], position=0)
    # As three rollouts: 1, 0, 0 with mean 1/3 and std sqrt(2)/3, and both differences are the same.
    expected = torch.tensor([[4 / 3] * 4, [-2 / 3] * 4, [-2 / 3] * 4])
    torch.testing.assert_close(whole(tree), expected * 3 / 2**0.5)


def test_the_local_weight_is_that_of_the_settings():
    expected = torch.tensor([[1 / 6, 1 / 6, 2 / 3, 2 / 3], [-1 / 3] * 4, [1 / 6, 1 / 6, -1 / 3, -1 / 3]])
    actual = whole(make_tree([1.0, 0.0], [0.0]), local_weight=0.0)
    torch.testing.assert_close(actual, expected * 3 / 2**0.5)


def test_omega_scales_branches_too():
    tree, omega = make_tree([1.0, 0.0], [0.0]), torch.tensor([[1.0] * 4, [1.0] * 4, [1.0, 1.0, 1.1, 9.0]])
    plain = whole(tree)
    args = make_args(train_on="all", advantage="tree", future_weight=0.5)
    scaled = token_advantages([tree], omega, args)
    torch.testing.assert_close(scaled[2] / plain[2], torch.tensor([1.5, 1.5, 1.55, 1.6]))


def test_a_group_of_all_rollouts_is_normalised_together():
    # 1, 0, 0: mean 1/3, std sqrt(2)/3
    expected = torch.tensor([[2.0] * 4, [-1.0] * 4, [-1.0] * 4]) / 2**0.5
    torch.testing.assert_close(whole(make_tree([1.0, 0.0], [0.0]), "group"), expected)


def test_trees_of_a_mini_batch_are_credited_apart():
    one, two = make_tree([1.0, 0.0], [0.0]), make_tree([0.0, 5.0], [])
    args = make_args(train_on="all", advantage="tree", future_weight=0.0)
    both = token_advantages([one, two], torch.ones(5, 4), args)
    torch.testing.assert_close(both, torch.cat([whole(one), whole(two)]))
    torch.testing.assert_close(both[3:, 0], torch.tensor([-2.0, 2.0]))


@pytest.mark.parametrize(("advantage", "size"), [("group", 1.0), ("tree", 2.0)])
def test_an_unscored_rollout_of_a_whole_tree_gets_nothing_and_biases_nobody(advantage, size):
    expected = torch.tensor([[size] * 4, [0.0] * 4, [-size] * 4])
    torch.testing.assert_close(whole(make_tree([1.0, None, 0.0], []), advantage), expected)


def test_an_unscored_rollout_has_the_credit_of_the_tokens_that_a_scored_branch_shares():
    # Scored: 0 and the branch of the unscored rollout, 1. Mean and std 1/2; the shared tokens have V = 1.
    tree = make_tree([None, 0.0], [1.0])
    torch.testing.assert_close(whole(tree), torch.tensor([[2.0, 2.0, 0.0, 0.0], [-2.0] * 4, [2.0, 2.0, 1.0, 1.0]]))
    torch.testing.assert_close(whole(tree, "group"), torch.tensor([[0.0] * 4, [-1.0] * 4, [1.0] * 4]))


@pytest.mark.parametrize("advantage", ["group", "tree"])
@pytest.mark.parametrize("reward", [0.1, None])
def test_a_whole_tree_without_spread_gives_no_signal(advantage, reward):
    assert not whole(make_tree([reward] * 2, [reward] * 2), advantage).any()


def test_success_credits_what_succeeds_and_nothing_else():
    # success is a total reward of 0.75 or more; an easy task, where all succeed, still teaches
    args = make_args(
        advantage="success", success_reward=0.75, future_weight=0.0, num_initial_rollouts=4, num_branch_points=0
    )
    mixed, easy = make_tree([1.0, 0.7, None, 0.75], []), make_tree([1.0, 0.9], [])
    advantages = token_advantages([mixed, easy], torch.ones(6, 2), args)
    assert advantages.tolist() == [[1.0] * 2, [0.0] * 2, [0.0] * 2, [1.0] * 2, [1.0] * 2, [1.0] * 2]


def test_idle_rows_are_left_out_and_the_mean_stays_that_of_all():
    advantages = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0], [1.0, 1.0], [0.5, 0.5]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1]])  # row 2 has its only credit outside the mask
    found = without_idle_rows({"advantages": advantages, "tool_mask": mask, "row": torch.arange(5)}, size=4)
    # Three rows carry loss, and the first idle one fills up. A mean over 4 of 4/5 is the sum over 5.
    assert found["row"].tolist() == [0, 1, 3, 4]
    torch.testing.assert_close(found["advantages"], advantages[[0, 1, 3, 4]] * 0.8)


def test_a_row_is_busy_where_a_token_of_the_loss_has_an_advantage():
    advantages, mask = torch.tensor([[0.0, -1.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1, 1], [0, 1], [1, 1]])
    assert busy_rows({"advantages": advantages, "tool_mask": mask}).tolist() == [True, False, False]


def test_a_group_leaves_out_what_is_not_scored():
    # 1, 0, 0, 1 of five: mean 1/2, standard deviation 1/2.
    rollouts = [Rollout([1], reward=reward) for reward in (1.0, 0.0, None, 0.0, 1.0)]
    assert group_credit(rollouts).tolist() == [1.0, -1.0, 0.0, -1.0, 1.0]
    assert group_credit([Rollout([1])]).tolist() == [0.0]


POLICY_MASK = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1]])


def mask_of_a_branch(on_prefixes=False, on_truncated=True):
    """The loss mask of a rollout, and of its truncated branch from token 1."""
    tree = RolloutTree({})
    parent = Rollout([1], finish_reason="stop")
    parent.append([5, 6, 7, 8], [-1.0] * 4)
    tree.add_initial(parent)
    branch = parent.prefix(1)
    branch.append([6, 7, 8], [-1.0] * 3)
    branch.finish_reason = "length"
    tree.add_branch(branch, 0, 1)
    return loss_mask(tree.rollouts, POLICY_MASK, on_prefixes=on_prefixes, on_truncated=on_truncated).tolist()


def test_loss_is_on_the_policys_tokens_and_on_shared_ones_once():
    assert mask_of_a_branch() == [[1, 1, 0, 1], [0, 1, 0, 1]]
    assert mask_of_a_branch(on_prefixes=True) == POLICY_MASK.tolist()


def test_a_truncated_rollout_may_be_left_out_of_the_loss():
    assert mask_of_a_branch(on_truncated=False) == [[1, 1, 0, 1], [0, 0, 0, 0]]


def test_the_policys_mask_is_not_written_to():
    before = POLICY_MASK.clone()
    mask_of_a_branch(on_truncated=False)
    assert torch.equal(POLICY_MASK, before)
