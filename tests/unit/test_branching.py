"""Branch points of a task: budget, rounds, and tokens that may not be branched at."""

import itertools

import pytest
import torch

from appo import APPOConfig
from appo.branching import PRIORITIES, choose_branch_points, eligible_tokens
from appo.config import CHOICES
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout

LENGTH = 8


def make_args(**options):
    options = {"num_generations": 8, "num_initial_rollouts": 2, "num_branch_points": 3, **options}
    return APPOConfig("out", bf16=False, report_to="none", **options)


def make_tree(size=2, lengths=(LENGTH, LENGTH)):
    tree = RolloutTree({})
    for n in range(size):
        rollout = Rollout([1])
        rollout.append(list(range(10 * n, 10 * n + lengths[n])), [-1.0] * lengths[n])
        tree.add_initial(rollout)
    return tree


def choose(tree, args, entropy, omega=None, mask=None, round_index=0, seed=0):
    entropy = torch.tensor(entropy)
    omega = torch.ones_like(entropy) if omega is None else torch.tensor(omega)
    mask = torch.ones_like(entropy) if mask is None else torch.tensor(mask)
    generator = torch.Generator().manual_seed(seed)
    points = choose_branch_points(tree, omega, entropy, mask, args, round_index=round_index, generator=generator)
    assert all(point.tree is tree for point in points)
    return [(point.rollout, point.position) for point in points]


ENTROPY = [[0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.0, 0.4], [0.5, 0.0, 0.6, 0.1, 0.9, 0.2, 0.8, 0.3]]


def test_without_drift_the_highest_entropies_are_taken():
    assert sorted(choose(make_tree(), make_args(), ENTROPY)) == [(0, 1), (0, 3), (0, 5), (1, 2), (1, 4), (1, 6)]


def test_branch_points_are_the_largest_products_of_two_positive_factors():
    # Row 0: means 1.05 and .3. Token 1 has .15 x .2 and token 3 has .05 x .3, though 1.1 x .6 > 1.2 x .5; no other is
    # high in both, and 4 has the highest entropy left. Row 1: .7 and 1.5 are clipped, so that Omega is high at the odd
    # tokens; of them 5 alone has more entropy than the mean of .425. Then by entropy: 6, 2.
    omega = [[1.0, 1.2, 1.0, 1.1, 1.0, 1.1, 1.0, 1.0], [1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 0.7, 1.5]]
    entropy = [[0.0, 0.5, 0.0, 0.6, 0.9, 0.2, 0.2, 0.0], [0.5, 0.0, 0.6, 0.1, 0.2, 0.9, 0.8, 0.3]]
    assert choose(make_tree(), make_args(), entropy, omega) == [(0, 1), (1, 5), (0, 3), (1, 6), (0, 4), (1, 2)]


def test_without_the_sign_condition_two_low_factors_are_a_branch_point():
    omega, entropy = [[1.2, 1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.0]] * 2, [[0.6, 0.5, 0.6, 0.5, 0.6, 0.5, 0.6, 0.0]] * 2
    args = make_args(num_generations=4, num_branch_points=1, require_positive=False)
    assert choose(make_tree(), args, entropy, omega) == [(0, 7), (1, 7)]


def test_scores_of_different_rollouts_are_compared_in_standard_deviations():
    # Rollout 0 is empty, so that its point goes to the best further one. In rollout 1, token 7 is 1.43 deviations of
    # entropy above the mean; in the others, with ten times the entropy, the second best is .94 above it.
    tree = make_tree(size=4, lengths=(0, LENGTH, LENGTH, LENGTH))
    low, high = [0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.7], [0.0, 10.0, 0.0, 9.0, 0.0, 9.0, 0.0, 9.0]
    omega = [[1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.0, 1.2]] * 4
    args = make_args(num_initial_rollouts=4, num_branch_points=1)
    points = choose(tree, args, [low, low, high, high], omega, [[0] * 8, *[[1] * 8] * 3])
    assert points == [(1, 5), (2, 1), (3, 1), (1, 7)]


def test_tool_results_are_never_branched_at():
    mask = [[1, 0, 1, 0, 1, 1, 1, 1], [1] * 8]
    assert sorted(p for n, p in choose(make_tree(), make_args(), ENTROPY, mask=mask) if n == 0) == [4, 5, 7]


def test_a_short_rollouts_budget_goes_to_the_others():
    tree = make_tree(lengths=(1, LENGTH))
    mask = [[1] + [0] * 7, [1] * 8]
    points = choose(tree, make_args(), ENTROPY, mask=mask)
    assert len(points) == len(set(points)) == 6
    assert [n for n, _ in points].count(0) == 1


def test_points_keep_their_distance():
    points = choose(make_tree(), make_args(min_branch_distance=3), ENTROPY)
    for n in (0, 1):
        positions = sorted(p for m, p in points if m == n)
        assert all(b - a >= 3 for a, b in itertools.pairwise(positions))


def test_after_token_starts_one_token_later_and_never_at_the_end():
    points = choose(make_tree(), make_args(resample="after_token"), ENTROPY)
    assert sorted(points) == [(0, 2), (0, 4), (0, 6), (1, 3), (1, 5), (1, 7)]
    entropy = [[0.0] * 7 + [9.0]] * 2
    assert LENGTH not in {p for _, p in choose(make_tree(), make_args(resample="after_token"), entropy)}


def test_a_branch_offers_its_own_tokens_only_and_no_token_twice():
    tree = make_tree()
    branch = tree.rollouts[0].prefix(3)
    branch.append([99] * 5, [-1.0] * 5)
    tree.add_branch(branch, 0, 3)
    eligible = eligible_tokens(tree, torch.ones(3, LENGTH), make_args())
    assert eligible[0].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert eligible[2].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_after_token_the_token_before_a_branch_is_not_taken_again():
    tree = make_tree()
    branch = tree.rollouts[0].prefix(3)
    branch.append([99] * 5, [-1.0] * 5)
    tree.add_branch(branch, 0, 3)
    eligible = eligible_tokens(tree, torch.ones(3, LENGTH), make_args(resample="after_token"))
    assert eligible.tolist() == [[1, 1, 0, 1, 1, 1, 1, 0], [1] * 7 + [0], [0, 0, 0, 1, 1, 1, 1, 0]]


def test_the_last_round_takes_more_points_per_rollout_where_earlier_ones_left_some():
    args = make_args(num_branch_points=1, num_branch_rounds=2)
    assert len(choose(make_tree(), args, ENTROPY, round_index=0)) == 2
    assert len(choose(make_tree(), args, ENTROPY, round_index=1)) == 6


@pytest.mark.parametrize("branching", ["entropy", "random"])
def test_rounds_take_rollouts_in_an_order_drawn_by_the_generator(branching):
    args = make_args(num_branch_points=2, num_branch_rounds=2, branching=branching)
    tree = make_tree(size=6, lengths=(LENGTH,) * 6)
    entropy = (ENTROPY * 3)[:6]
    # Two points are left, and a rollout takes both.
    points = [choose(tree, args, entropy, round_index=1, seed=seed) for seed in range(20)]
    assert all(len({n for n, _ in own}) == 1 and len(set(own)) == 2 for own in points)
    assert len({own[0][0] for own in points}) > 2
    assert points == [choose(tree, args, entropy, round_index=1, seed=seed) for seed in range(20)]


def test_a_full_tree_is_not_branched():
    assert choose(make_tree(size=8, lengths=(LENGTH,) * 8), make_args(), ENTROPY * 4) == []


def test_the_last_round_uses_the_budget_up():
    args = make_args(num_branch_points=1, num_branch_rounds=2)
    tree = make_tree()
    first = choose(tree, args, ENTROPY, round_index=0)
    assert sorted(n for n, _ in first) == [0, 1]
    for n, position in first:
        branch = tree.rollouts[n].prefix(position)
        branch.append([99] * (LENGTH - position), [-1.0] * (LENGTH - position))
        tree.add_branch(branch, n, position)
    second = choose(tree, args, ENTROPY * 2, round_index=1)
    assert len(second) == 4
    assert not set(first) & set(second)


@pytest.mark.parametrize("name", CHOICES["branching"])
def test_every_score_ranks_policy_tokens_only(name):
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1.0]])
    omega, entropy = torch.rand(1, 8) + 0.5, torch.rand(1, 8)
    score = PRIORITIES[name](omega, entropy, mask, make_args(), torch.Generator().manual_seed(0))
    assert score.isnan().tolist() == [[m == 0 for m in mask[0].tolist()]]
