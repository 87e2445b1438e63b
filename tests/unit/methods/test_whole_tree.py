"""Credit from the whole tree, by hand: branches carry loss on their own tokens."""

import pytest
import torch
from method_parts import ScriptedWriter, add_branch, log_ratios, make_method, make_scores, make_tree

from appo.errors import UserError
from appo.methods import Needs


def whole(tree, omega=None, **options):
    options = {"num_initial_rollouts": 2, "num_branch_points": 1, **options}
    scores = make_scores([tree], "all", log_ratio=0.0 if omega is None else log_ratios(omega))
    return make_method("whole_tree", options).credit([tree], scores).advantages_BT


def test_whole_trees_by_hand():
    # Mean 1/3, std sqrt(2)/3. The two tokens that 0 shares with its branch have V = 1/2; then 1 and 0 part.
    shared, own, other = 1 / 6 + 1 / 6, 2 / 3 + 1 / 2, -1 / 3 - 1 / 2
    expected = torch.tensor([[shared, shared, own, own], [-2 / 3] * 4, [shared, shared, other, other]])
    torch.testing.assert_close(whole(make_tree([1.0, 0.0], [(0, 2, 0.0)])), expected * 3 / 2**0.5)


def test_a_branch_at_the_start_shares_nothing():
    # As three rollouts: 1, 0, 0 with mean 1/3 and std sqrt(2)/3, and both differences are the same.
    expected = torch.tensor([[4 / 3] * 4, [-2 / 3] * 4, [-2 / 3] * 4])
    torch.testing.assert_close(whole(make_tree([1.0, 0.0], [(0, 0, 0.0)])), expected * 3 / 2**0.5)


def test_the_local_weight_is_that_of_the_settings():
    expected = torch.tensor([[1 / 6, 1 / 6, 2 / 3, 2 / 3], [-1 / 3] * 4, [1 / 6, 1 / 6, -1 / 3, -1 / 3]])
    actual = whole(make_tree([1.0, 0.0], [(0, 2, 0.0)]), local_weight=0.0)
    torch.testing.assert_close(actual, expected * 3 / 2**0.5)


def test_omega_scales_branches_too():
    tree, omega = make_tree([1.0, 0.0]), [[1.0] * 4, [1.0] * 4, [1.0, 1.0, 1.1, 9.0]]
    add_branch(tree, 0, 2, 0.0, length=2)
    plain = whole(tree, omega)  # by default the future scales nothing
    torch.testing.assert_close(plain, whole(tree))
    scaled = whole(tree, omega, future_weight=0.5)
    torch.testing.assert_close(scaled[2] / plain[2], torch.tensor([1.5, 1.5, 1.55, 1.6]))


def test_trees_of_a_mini_batch_are_credited_apart():
    one, two = make_tree([1.0, 0.0], [(0, 2, 0.0)]), make_tree([0.0, 5.0])
    method = make_method("whole_tree", {"num_initial_rollouts": 2, "num_branch_points": 1})
    both = method.credit([one, two], make_scores([one, two], "all")).advantages_BT
    torch.testing.assert_close(both, torch.cat([whole(one), whole(two)]))
    torch.testing.assert_close(both[3:, 0], torch.tensor([-2.0, 2.0]))


def test_an_unscored_rollout_gets_nothing_and_biases_nobody():
    expected = torch.tensor([[2.0] * 4, [0.0] * 4, [-2.0] * 4])
    torch.testing.assert_close(whole(make_tree([1.0, None, 0.0])), expected)


def test_an_unscored_rollout_has_the_credit_of_the_tokens_that_a_scored_branch_shares():
    # Scored: 0 and the branch of the unscored rollout, 1. Mean and std 1/2; the shared tokens have V = 1.
    tree = make_tree([None, 0.0], [(0, 2, 1.0)])
    torch.testing.assert_close(whole(tree), torch.tensor([[2.0, 2.0, 0.0, 0.0], [-2.0] * 4, [2.0, 2.0, 1.0, 1.0]]))


@pytest.mark.parametrize("reward", [0.1, None])
def test_a_tree_without_spread_gives_no_signal(reward):
    assert not whole(make_tree([reward] * 2, [(0, 2, reward), (1, 2, reward)])).any()


def test_every_rollout_carries_loss_on_its_own_tokens_once():
    tree = make_tree([1.0, 0.0], [(0, 2, 0.0), (2, 3, 0.0)])
    method = make_method("whole_tree", {"num_initial_rollouts": 2, "num_branch_points": 1})
    credit = method.credit([tree], make_scores([tree], "all"))
    assert credit.loss_mask_BT.tolist() == [[1] * 4, [1] * 4, [0, 0, 1, 0], [0, 0, 0, 1]]


def test_it_branches_as_appo_does_at_random_tokens():
    tree, writer = make_tree([1.0, 0.0]), ScriptedWriter()
    options = {"num_initial_rollouts": 2, "num_branch_points": 1}
    make_method("whole_tree", options).branch([tree], make_scores([tree], "all"), writer)
    assert [rollout for rollout, _ in writer.points] == [0, 1]
    by_score = ScriptedWriter()
    method = make_method("whole_tree", {**options, "branching": "entropy"})
    method.branch([tree], make_scores([make_tree([1.0, 0.0])], entropies=[[0.1, 0.2, 0.9, 0.3]]), by_score)
    assert by_score.points == [(0, 2), (1, 2)]


@pytest.mark.parametrize("options", [{}, {"future_weight": 0.5}, {"branching": "entropy"}])
def test_the_present_policy_always_scores_so_that_a_branch_has_its_parents_ratios(options):
    method = make_method("whole_tree", options, num_generations=16)
    assert method.needs == Needs(trains="all", current_scores=True)


def test_omega_is_measured_where_it_is_used_and_no_score_of_rows_that_were_not_ranked():
    tree = make_tree([1.0, 0.0], [(0, 2, 0.0)])
    options = {"num_initial_rollouts": 2, "num_branch_points": 1, "branching": "entropy"}
    credit = make_method("whole_tree", options).credit([tree], make_scores([tree], "all"))
    assert set(credit.measured) == {"omega"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "dual_group"}, "advantage must be one of tree, got 'dual_group'"),
        ({"local_weight": -1.0}, "local_weight must be a number of at least 0, got -1.0"),
    ],
)
def test_other_advantages_and_negative_weights_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_method("whole_tree", options, num_generations=16)
