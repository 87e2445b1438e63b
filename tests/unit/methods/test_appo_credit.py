"""Credit of APPO, by hand: Eq. 6 and 7 in factors, the ablations of both, and what is measured for the records."""

import pytest
import torch
from method_parts import ScriptedWriter, add_branch, log_ratios, make_method, make_scores, rollout_of, tree_with_turns
from method_parts import make_tree as tree_of

from appo.methods.appo import ADVANTAGES


def make(rollouts=4, **options):
    options = {"num_initial_rollouts": 2, "num_branch_points": 1, **options}
    return make_method("appo", options, num_generations=rollouts)


def credited(tree, omega=None, **options):
    method = make_method("appo", {"num_initial_rollouts": 2, "num_branch_points": 1, **options})
    ratios = 0.0 if omega is None else log_ratios(omega)
    return method.credit([tree], make_scores([tree], log_ratio=ratios))


def advantages(tree, omega=None, **options):
    return credited(tree, omega, **options).advantages_BT


def make_pairs(initial, branches):
    """Rollouts of 4 tokens; branch k leaves rollout k at token 2."""
    return tree_of(initial, [(k, 2, reward) for k, reward in enumerate(branches)])


def test_dual_group_by_hand():
    # initial 1, 0: mean .5, std .5 -> +1, -1; branches 1, 0, so that 1 -> +1 and 0 -> -1 as well; b * 1 = .5
    found = advantages(make_pairs([1.0, 0.0], [1.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([[1.5] * 4, [-1.5] * 4]))


def test_equal_branches_leave_half_of_the_initial_term():
    found = advantages(make_pairs([1.0, 0.0], [1.0, 1.0]), future_weight=0.0)
    torch.testing.assert_close(found, torch.tensor([[0.5] * 4, [-0.5] * 4]))


def test_omega_scales_within_its_clip():
    omega = [[0.5, 1.1, 1.2, 9.0], [1.0] * 4]
    found = advantages(make_pairs([1.0, 0.0], [1.0, 0.0]), omega)
    torch.testing.assert_close(found[0], torch.tensor([1.5, 1.55, 1.6, 1.6]))


def test_the_clip_is_that_of_the_settings():
    omega = [[0.1, 1.1, 1.9, 9.0], [1.0] * 4]
    found = advantages(make_pairs([1.0, 0.0], [1.0, 0.0]), omega, future_clip=[0.5, 2.0])
    torch.testing.assert_close(found[0], torch.tensor([1.25, 1.55, 1.95, 2.0]))


def test_credit_is_a_base_and_what_it_is_multiplied_with():
    credit = credited(make_pairs([1.0, 0.0], [1.0, 0.0]), [[1.0, 1.1, 1.2, 1.0], [1.0] * 4])
    torch.testing.assert_close(credit.base_BT, torch.tensor([[1.0] * 4, [-1.0] * 4]))
    assert list(credit.factors) == ["future_factor"]
    torch.testing.assert_close(credit.factors["future_factor"], torch.tensor([[1.5, 1.55, 1.6, 1.5], [1.5] * 4]))
    assert credited(make_pairs([1.0, 0.0], [1.0, 0.0]), future_weight=0.0).factors == {}


def test_fork_weights_come_on_top_of_the_future():
    tree = make_pairs([1.0, 0.0], [1.0, 0.0])
    options = {"num_initial_rollouts": 2, "num_branch_points": 1, "token_weight": "fork", "weight_floor": 0.5}
    scores = make_scores([tree], entropies=1.0, collisions=-1.0)  # no fork: the floor
    credit = make_method("appo", options).credit([tree], scores)
    assert list(credit.factors) == ["future_factor", "token_weight"]
    torch.testing.assert_close(credit.advantages_BT, torch.tensor([[0.75] * 4, [-0.75] * 4]))


def test_the_future_counts_tokens_as_the_settings_say():
    # One result token between two policy tokens, gamma 1/2: the second's ratio counts a quarter, or a half.
    tree = tree_with_turns(rollout_of(1, 1.0), rollout_of(1, 0.0))
    for rollout in tree.initial:
        rollout.append([7], None)
        rollout.append([8], [-1.0])
    log_ratio = torch.tensor([[0.0, 9.0, 0.16]])  # a result's is anything
    for discount_over, share in (("all", 0.25), ("policy", 0.5)):
        options = {"num_initial_rollouts": 2, "num_branch_points": 1, "half_life": 1.0, "discount_over": discount_over}
        credit = make_method("appo", options).credit([tree], make_scores([tree], log_ratio=log_ratio))
        expected = torch.tensor(share * 0.16).exp()
        torch.testing.assert_close(credit.measured["omega"][0, 0], expected)


def test_prefix_credits_the_tokens_that_a_branch_shares():
    # rewards 1, 0, 0, 0: mean .25, std sqrt(3)/4; z = sqrt(3) and -1/sqrt(3)
    found = advantages(make_pairs([1.0, 0.0], [0.0, 0.0]), advantage="prefix", future_weight=0.0)
    high, low = 3**0.5, -(3**-0.5)
    expected = torch.tensor([[high + low] * 2 + [high] * 2, [2 * low] * 2 + [low] * 2])
    torch.testing.assert_close(found, expected)


def test_a_branch_of_a_branch_counts_where_it_left_its_root():
    # rewards 1, 0, 0, 0 as above; the branch at 3 of the branch at 1 shares only token 0 with its root, as its parent.
    tree = tree_of([1.0, 0.0])
    add_branch(tree, 0, 1, 0.0, length=3)
    add_branch(tree, 2, 3, 0.0)
    found = advantages(tree, advantage="prefix", future_weight=0.0)
    high, low = 3**0.5, -(3**-0.5)
    torch.testing.assert_close(found, torch.tensor([[high + low, high, high, high], [low] * 4]))


def test_an_unscored_rollout_gets_nothing_and_biases_nobody():
    found = advantages(tree_of([1.0, None, 0.0]), advantage="group", future_weight=0.0)
    torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 0.0, -1.0]))


def test_pooled_and_group_by_hand():
    # Of 1, 0 and the branches' 1, 1: mean 3/4, std sqrt(3)/4. Of 1 and 0 alone: 1/2 and 1/2.
    for advantage, expected in (("pooled", (3**-0.5, -(3**0.5))), ("group", (1.0, -1.0))):
        found = advantages(make_pairs([1.0, 0.0], [1.0, 1.0]), advantage=advantage, future_weight=0.0)
        torch.testing.assert_close(found, torch.tensor(expected)[:, None].expand(-1, 4))


def test_prefix_leaves_out_branches_of_unscored_rollouts_and_needs_none():
    options = {"advantage": "prefix", "future_weight": 0.0}
    tree = tree_of([1.0, None, 0.0], [(1, 2, 1.0)])
    expected = torch.tensor([[1.0] * 4, [0.0] * 4, [-1.0] * 4])
    torch.testing.assert_close(advantages(tree, **options), expected)
    torch.testing.assert_close(advantages(tree_of([1.0, 0.0]), **options), expected[[0, 2]])


@pytest.mark.parametrize("advantage", ADVANTAGES)
@pytest.mark.parametrize("reward", [0.1, None])
def test_a_task_without_spread_gives_no_signal(advantage, reward):
    assert not advantages(make_pairs([reward] * 2, [reward] * 2), advantage=advantage).any()


def test_trees_of_a_mini_batch_are_credited_apart():
    one, two = make_pairs([1.0, 0.0], [1.0, 0.0]), make_pairs([0.0, 5.0], [5.0, 0.0])
    both = make(4, num_branch_points=1).credit([one, two], make_scores([one, two])).advantages_BT
    torch.testing.assert_close(both, torch.cat([advantages(one), advantages(two)]))
    torch.testing.assert_close(both[2:, 0], torch.tensor([-1.5, 1.5]))


def test_initial_rollouts_alone_carry_loss():
    credit = credited(make_pairs([1.0, 0.0], [1.0, 0.0]))
    assert credit.loss_mask_BT.tolist() == [[1] * 4] * 2


# ---- what it measures ----


def test_omega_and_the_branching_score_are_measured_for_the_records():
    tree, omega = make_pairs([1.0, 0.0], []), [[1.0, 1.1, 1.2, 1.0], [1.0] * 4]
    method = make(4, num_branch_points=1, branching="entropy")
    scores = make_scores([tree], log_ratio=log_ratios(omega), entropies=[[0.1, 0.2, 0.3, 0.4]])
    method.branch([tree], scores, ScriptedWriter())
    credit = method.credit([tree], scores)
    torch.testing.assert_close(credit.measured["omega"], torch.tensor(omega))
    torch.testing.assert_close(credit.measured["score"][0], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    logged = method.metrics(credit, scores)
    # Eight tokens, mean 8.3 / 8; none lies outside of 1 to 1.2 but by rounding.
    assert logged["omega/mean"] == pytest.approx(8.3 / 8, abs=1e-6)
    assert set(logged) == {"omega/mean", "omega/std", "omega/clipped"}


def test_where_no_branch_was_chosen_there_is_no_score():
    assert set(credited(make_pairs([1.0, 0.0], []), branching="random").measured) == {"omega"}


def test_where_nothing_is_scored_nothing_is_measured_or_logged():
    method = make_method("appo", {"num_initial_rollouts": 4, "num_branch_points": 0, "future_weight": 0.0})
    trees = [tree_of([1.0, 0.0, 0.0, 1.0])]
    scores = make_scores(trees)
    credit = method.credit(trees, scores)
    assert (credit.measured, method.metrics(credit, scores)) == ({}, {})


def test_the_weight_of_the_future_is_that_of_the_options():
    # 1 + 2 x 1.1.
    credit = credited(make_pairs([1.0, 0.0], [1.0, 0.0]), [[1.1] * 4] * 2, future_weight=2.0)
    torch.testing.assert_close(credit.factors["future_factor"], torch.full((2, 4), 3.2))
