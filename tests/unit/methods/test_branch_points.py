"""Branch points of a task from scores and a budget, and tokens that may not be branched at."""

import itertools
import math

import pytest
import torch
from method_parts import add_branch, rollout_of, tree_with_turns

from appo.methods.branch_points import choose_branch_points, eligible_tokens

LENGTH = 8
SCORES = [[0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.0, 0.4], [0.5, 0.0, 0.6, 0.1, 0.9, 0.2, 0.8, 0.3]]


def make_tree(size=2, lengths=(LENGTH, LENGTH)):
    return tree_with_turns(*(rollout_of(lengths[n]) for n in range(size)))


def points_of(tree, scores=SCORES, mask=None, seed=0, **options):
    scores = torch.tensor(scores)
    mask = torch.ones_like(scores) if mask is None else torch.tensor(mask)
    options = {
        "num_points": 3,
        "budget": 6,
        "in_random_order": False,
        "min_distance": 1,
        "after_token": False,
        **options,
    }
    generator = torch.Generator().manual_seed(seed)
    return choose_branch_points(tree, scores, mask, generator=generator, **options)


def choose(*args, **options):
    return [(point.rollout, point.position) for point in points_of(*args, **options)]


def test_the_highest_scores_of_each_rollout_are_taken():
    assert sorted(choose(make_tree())) == [(0, 1), (0, 3), (0, 5), (1, 2), (1, 4), (1, 6)]


def test_points_are_of_the_tree_and_know_their_score_and_its_rank():
    tree = make_tree()
    points = points_of(tree, num_points=2, budget=4)
    assert all(point.tree is tree for point in points)
    found = {(p.rollout, p.position): (round(p.score, 5), p.rank) for p in points}
    assert found == {(0, 1): (0.9, 1), (0, 3): (0.8, 2), (1, 4): (0.9, 1), (1, 6): (0.8, 2)}


def test_the_rank_is_among_all_policy_tokens_also_those_that_may_not_be_branched_at():
    nan = math.nan
    scores = [[0.9, nan, 0.8, nan, 0.7, nan, 0.6, nan]]
    tree = make_tree(size=1)
    add_branch(tree, 0, 0)
    scores.append([nan] * 8)
    (point,) = points_of(tree, scores, [[1, 0] * 4, [1] + [0] * 7], num_points=1, budget=1)
    assert (point.rollout, point.position, point.rank) == (0, 2, 2)


def test_tool_results_are_never_branched_at():
    mask = [[1, 0, 1, 0, 1, 1, 1, 1], [1] * 8]
    assert sorted(p for n, p in choose(make_tree(), mask=mask) if n == 0) == [4, 5, 7]


def test_a_short_rollouts_budget_goes_to_the_others():
    tree = make_tree(lengths=(1, LENGTH))
    mask = [[1] + [0] * 7, [1] * 8]
    points = choose(tree, mask=mask)
    assert len(points) == len(set(points)) == 6
    assert [n for n, _ in points].count(0) == 1


def test_points_keep_their_distance():
    points = choose(make_tree(), min_distance=3)
    for n in (0, 1):
        positions = sorted(p for m, p in points if m == n)
        assert len(positions) > 1
        assert all(b - a >= 3 for a, b in itertools.pairwise(positions))


def test_after_token_starts_one_token_later_and_never_at_the_end():
    points = choose(make_tree(), after_token=True)
    assert sorted(points) == [(0, 2), (0, 4), (0, 6), (1, 3), (1, 5), (1, 7)]
    best_at_the_end = [[0.0] * 7 + [9.0]] * 2
    assert LENGTH not in {p for _, p in choose(make_tree(), best_at_the_end, after_token=True)}


def test_after_token_the_score_is_that_of_the_token_that_was_chosen():
    points = points_of(make_tree(size=1), SCORES[:1], num_points=1, budget=1, after_token=True)
    assert [(p.position, round(p.score, 5), p.rank) for p in points] == [(2, 0.9, 1)]


def test_a_branch_offers_its_own_tokens_only_and_no_token_twice():
    tree = make_tree()
    add_branch(tree, 0, 3, length=5)
    eligible = eligible_tokens(tree, torch.ones(3, LENGTH), after_token=False)
    assert eligible.tolist() == [[1, 1, 1, 0, 1, 1, 1, 1], [1] * 8, [0, 0, 0, 1, 1, 1, 1, 1]]


def test_after_token_the_token_before_a_branch_is_not_taken_again():
    tree = make_tree()
    add_branch(tree, 0, 3, length=5)
    eligible = eligible_tokens(tree, torch.ones(3, LENGTH), after_token=True)
    assert eligible.tolist() == [[1, 1, 0, 1, 1, 1, 1, 0], [1] * 7 + [0], [0, 0, 0, 1, 1, 1, 1, 0]]


def test_what_may_be_branched_at_is_a_mask_of_its_own():
    mask = torch.ones(2, LENGTH)
    eligible_tokens(make_tree(), mask, after_token=True)
    assert mask.all()


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_no_more_points_than_the_budget(budget):
    assert len(choose(make_tree(), budget=budget)) == budget


def test_without_regular_points_a_rollout_takes_what_the_budget_gives():
    assert choose(make_tree(), num_points=0, budget=0) == []


def test_in_random_order_as_many_rollouts_are_taken_as_the_budget_needs():
    tree, scores = make_tree(size=6, lengths=(LENGTH,) * 6), SCORES * 3
    options = {"num_points": 2, "budget": 2, "in_random_order": True}
    points = [choose(tree, scores, seed=seed, **options) for seed in range(20)]
    assert all(len({n for n, _ in own}) == 1 and len(set(own)) == 2 for own in points)
    assert len({own[0][0] for own in points}) > 2
    assert points == [choose(tree, scores, seed=seed, **options) for seed in range(20)]
    # A point has the score of its own rollout, whatever the order.
    for point in points_of(tree, scores, seed=3, **options):
        assert point.score == pytest.approx(scores[point.rollout][point.position])
