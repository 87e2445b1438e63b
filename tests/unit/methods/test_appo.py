"""APPO: scores and rounds of branching, Eq. 6 and 7 in factors, and its ablations, by hand."""

import itertools

import pytest
import torch
from method_parts import (
    ScriptedWriter,
    add_branch,
    log_ratios,
    make_method,
    make_scores,
    rollout_of,
    tree_with_turns,
)

from appo.errors import UserError
from appo.methods import Needs
from appo.methods.appo import BRANCHING

LENGTH = 8
ENTROPY = [[0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.0, 0.4], [0.5, 0.0, 0.6, 0.1, 0.9, 0.2, 0.8, 0.3]]


def make(rollouts=8, **options):
    options = {"num_initial_rollouts": 2, "num_branch_points": 3, **options}
    return make_method("appo", options, num_generations=rollouts)


def make_tree(size=2, lengths=(LENGTH, LENGTH)):
    return tree_with_turns(*(rollout_of(lengths[n]) for n in range(size)))


# ---- Eq. 5 and its rivals ----


def choose(tree, method, entropy, omega=None, mask=None, round_index=0, seed=0):
    entropy = torch.tensor(entropy)
    omega = torch.ones_like(entropy) if omega is None else torch.tensor(omega)
    mask = torch.ones_like(entropy) if mask is None else torch.tensor(mask)
    generator = torch.Generator().manual_seed(seed)
    scores = method.branching_scores(None, omega, entropy, mask, generator)
    points = method.choose(tree, scores, mask, round_index, generator)
    assert all(point.tree is tree for point in points)
    return [(point.rollout, point.position) for point in points]


def test_without_drift_the_highest_entropies_are_taken():
    assert sorted(choose(make_tree(), make(), ENTROPY)) == [(0, 1), (0, 3), (0, 5), (1, 2), (1, 4), (1, 6)]


def test_branch_points_are_the_largest_products_of_two_positive_factors():
    # Row 0: means 1.05 and .3. Token 1 has .15 x .2 and token 3 has .05 x .3, though 1.1 x .6 > 1.2 x .5; no other is
    # high in both, and 4 has the highest entropy left. Row 1: .7 and 1.5 are clipped, so that Omega is high at the odd
    # tokens; of them 5 alone has more entropy than the mean of .425. Then by entropy: 6, 2.
    omega = [[1.0, 1.2, 1.0, 1.1, 1.0, 1.1, 1.0, 1.0], [1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 0.7, 1.5]]
    entropy = [[0.0, 0.5, 0.0, 0.6, 0.9, 0.2, 0.2, 0.0], [0.5, 0.0, 0.6, 0.1, 0.2, 0.9, 0.8, 0.3]]
    assert choose(make_tree(), make(), entropy, omega) == [(0, 1), (1, 5), (0, 3), (1, 6), (0, 4), (1, 2)]


def test_without_the_sign_condition_two_low_factors_are_a_branch_point():
    omega, entropy = [[1.2, 1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.0]] * 2, [[0.6, 0.5, 0.6, 0.5, 0.6, 0.5, 0.6, 0.0]] * 2
    method = make(4, num_branch_points=1, require_positive=False)
    assert choose(make_tree(), method, entropy, omega) == [(0, 7), (1, 7)]


def test_scores_of_different_rollouts_are_compared_in_standard_deviations():
    # Rollout 0 is empty, so that its point goes to the best further one. In rollout 1, token 7 is 1.43 deviations of
    # entropy above the mean; in the others, with ten times the entropy, the second best is .94 above it.
    tree = make_tree(size=4, lengths=(0, LENGTH, LENGTH, LENGTH))
    low, high = [0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.7], [0.0, 10.0, 0.0, 9.0, 0.0, 9.0, 0.0, 9.0]
    omega = [[1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.0, 1.2]] * 4
    method = make(num_initial_rollouts=4, num_branch_points=1)
    points = choose(tree, method, [low, low, high, high], omega, [[0] * 8, *[[1] * 8] * 3])
    assert points == [(1, 5), (2, 1), (3, 1), (1, 7)]


@pytest.mark.parametrize("name", BRANCHING)
def test_every_score_ranks_policy_tokens_only(name):
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1.0]])
    omega, entropy = torch.rand(1, 8) + 0.5, torch.rand(1, 8)
    score = make(branching=name).branching_scores(None, omega, entropy, mask, torch.Generator().manual_seed(0))
    assert score.isnan().tolist() == [[m == 0 for m in mask[0].tolist()]]


def test_each_score_has_its_own_best_token():
    # Tokens: one of the highest entropy, one of the highest Omega, one high in both; a result ends before the last.
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 1.0]])
    entropy = torch.tensor([[2.0, 0.2, 1.2, 0.0, 9.0, 0.1]])
    omega = torch.tensor([[1.0, 1.2, 1.15, 1.0, 1.0, 1.0]])

    def best(name):
        score = make(branching=name).branching_scores(None, omega, entropy, mask, torch.Generator())
        return score[0].nan_to_num(-9.0).argmax().item()

    assert [best(name) for name in ("entropy", "future_value", "branching_score", "weighted_sum")] == [0, 1, 2, 2]
    assert best("tool_boundary") in (0, 5)  # the first token of a turn


def test_points_keep_their_distance_and_start_after_the_token_where_asked():
    near = choose(make_tree(size=1), make(min_branch_distance=3), ENTROPY[:1])
    positions = sorted(position for _, position in near)
    assert len(positions) > 1
    assert min(b - a for a, b in itertools.pairwise(positions)) >= 3
    after = choose(make_tree(), make(resample="after_token"), ENTROPY)
    assert sorted(after) == [(0, 2), (0, 4), (0, 6), (1, 3), (1, 5), (1, 7)]


# ---- rounds ----


def test_the_last_round_takes_more_points_per_rollout_where_earlier_ones_left_some():
    method = make(num_branch_points=1, num_branch_rounds=2)
    assert len(choose(make_tree(), method, ENTROPY, round_index=0)) == 2
    assert len(choose(make_tree(), method, ENTROPY, round_index=1)) == 6


@pytest.mark.parametrize("branching", ["entropy", "random"])
def test_rounds_take_rollouts_in_an_order_drawn_by_the_generator(branching):
    method = make(num_branch_points=2, num_branch_rounds=2, branching=branching)
    tree = make_tree(size=6, lengths=(LENGTH,) * 6)
    # Two points are left, and a rollout takes both.
    points = [choose(tree, method, ENTROPY * 3, round_index=1, seed=seed) for seed in range(20)]
    assert all(len({n for n, _ in own}) == 1 and len(set(own)) == 2 for own in points)
    assert len({own[0][0] for own in points}) > 2
    assert points == [choose(tree, method, ENTROPY * 3, round_index=1, seed=seed) for seed in range(20)]


def test_a_full_tree_is_not_branched():
    assert choose(make_tree(size=8, lengths=(LENGTH,) * 8), make(), ENTROPY * 4) == []


def test_the_last_round_uses_the_budget_up():
    method, tree = make(num_branch_points=1, num_branch_rounds=2), make_tree()
    first = choose(tree, method, ENTROPY, round_index=0)
    assert sorted(n for n, _ in first) == [0, 1]
    for n, position in first:
        add_branch(tree, n, position, length=LENGTH - position)
    second = choose(tree, method, ENTROPY * 2, round_index=1)
    assert len(second) == 4
    assert not set(first) & set(second)


def fill(rollout):
    """To the end with policy tokens."""
    rollout.append([90] * (LENGTH - len(rollout.completion_ids)), [-1.0] * (LENGTH - len(rollout.completion_ids)))
    rollout.reward = 1.0


def test_one_round_branches_the_initial_rollouts_at_their_scores():
    tree, writer = make_tree(), ScriptedWriter(fill)
    make(branching="entropy").branch([tree], make_scores([tree], entropies=ENTROPY), writer)
    ((points, stream, branches_branch, counted),) = writer.calls("branch")
    assert sorted(points) == [(0, 1), (0, 3), (0, 5), (1, 2), (1, 4), (1, 6)]
    assert (stream, branches_branch, counted) == (1, False, True)
    assert len(tree.rollouts) == 8
    assert writer.calls("score") == []
    best = next(b for b in tree.branches if (b.parent, b.branch_position) == (0, 1))
    assert (best.branch_score, best.branch_rank) == (pytest.approx(0.9), 1)


def test_omega_of_the_present_policy_chooses_where_it_has_moved():
    # Entropies are equal: of two tokens with Omega at the clip, and all others at 1, those two are taken.
    tree, writer = make_tree(size=1), ScriptedWriter(fill)
    omega = [[1.0, 1.0, 1.2, 1.0, 1.0, 1.2, 1.0, 1.0]]
    method = make(3, num_initial_rollouts=1, num_branch_points=2, branching="future_value")
    method.branch([tree], make_scores([tree], log_ratio=log_ratios(omega)), writer)
    assert sorted(writer.points) == [(0, 2), (0, 5)]


def test_each_task_is_branched_at_its_own_rows():
    trees, writer = [make_tree(), make_tree()], ScriptedWriter(fill)
    flipped = [row[::-1] for row in ENTROPY]
    method = make(4, num_branch_points=1, branching="entropy")
    method.branch(trees, make_scores(trees, entropies=ENTROPY + flipped), writer)
    assert [[(b.parent, b.branch_position) for b in tree.branches] for tree in trees] == [
        [(0, 1), (1, 4)],
        [(0, 6), (1, 3)],
    ]


def test_branches_of_an_earlier_pass_are_dropped_first():
    tree, writer = make_tree(), ScriptedWriter(fill)
    stale = add_branch(tree, 0, 1)
    scores = make_scores([tree], entropies=ENTROPY)
    make(4, num_branch_points=1, branching="entropy").branch([tree], scores, writer)
    # The best token may be taken again.
    assert [(b.parent, b.branch_position) for b in tree.branches] == [(0, 1), (1, 4)]
    assert all(branch is not stale for branch in tree.branches)


def test_a_second_round_scores_all_rollouts_and_branches_branches():
    tree = make_tree()
    writer = ScriptedWriter(fill, entropy=lambda r: [float(i == 7) if r.parent is not None else 0.0 for i in range(8)])
    method = make(6, num_branch_points=1, num_branch_rounds=2, branching="entropy")
    method.branch([tree], make_scores([tree], entropies=ENTROPY), writer)
    first, second = writer.calls("branch")
    assert (sorted(first[0]), first[1:]) == ([(0, 1), (1, 4)], (1, True, True))
    assert (len(second[0]), second[1:]) == (2, (2, True, True))
    assert writer.calls("score") == [(4, False)]
    # Each of the two rollouts that were drawn gives its best own token: 7 in a branch.
    assert all(position == 7 for rollout, position in second[0] if rollout >= 2)
    assert len(set(first[0] + second[0])) == 4


def test_a_branch_has_its_parents_ratios_up_to_where_it_left_it_in_the_next_round():
    """With the discount nearly gone, Omega is the ratio itself: 1.2 at tokens 2 and 5 of the parent."""
    tree, writer = make_tree(size=1), ScriptedWriter(fill)
    seen = []
    method = make(3, num_initial_rollouts=1, num_branch_points=1, num_branch_rounds=2, half_life=0.01)
    original = method.branching_scores
    method.branching_scores = lambda tree, omega, *rest: (seen.append(omega), original(tree, omega, *rest))[1]
    omega = [[1.0, 1.0, 1.2, 1.0, 1.0, 1.2, 1.0, 1.0]]
    entropy = [[0.0, 0.0, 0.1, 0.0, 0.0, 0.9, 0.0, 0.0]]
    method.branch([tree], make_scores([tree], log_ratio=log_ratios(omega, 0.01), entropies=entropy), writer)
    assert writer.points[0] == (0, 5)
    torch.testing.assert_close(seen[0], torch.tensor(omega))
    # The branch shares tokens 0 to 4; what it wrote itself is the present policy's own.
    torch.testing.assert_close(seen[1], torch.tensor([*omega, [1.0, 1.0, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0]]))


def test_random_branching_follows_the_writers_random_numbers():
    trees, points = [make_tree(), make_tree()], []
    for tree in trees:
        writer = ScriptedWriter(fill)
        make(branching="random").branch([tree], make_scores([tree]), writer)
        points.append(writer.points)
        assert writer.calls("generator") == [(0,)]
    assert points[0] == points[1]
    assert len(set(points[0])) == 6


# ---- what it needs, and its settings ----


@pytest.mark.parametrize(
    ("options", "scored"),
    [
        ({}, True),
        ({"future_weight": 0.0}, True),
        ({"branching": "random"}, True),
        ({"branching": "random", "future_weight": 0.0}, False),
        ({"num_initial_rollouts": 8, "num_branch_points": 0}, True),
        ({"num_initial_rollouts": 8, "num_branch_points": 0, "future_weight": 0.0}, False),
    ],
)
def test_the_present_policy_scores_where_a_score_or_omega_is_used(options, scored):
    assert make(**options).needs == Needs(current_scores=scored)


def test_the_defaults_are_the_papers():
    method = make_method("appo", num_generations=16)
    options = method.options
    assert (method.num_initial, options.num_branch_points, options.num_branch_rounds) == (4, 3, 1)
    assert (options.future_weight, options.future_clip, options.half_life) == (0.5, [1.0, 1.2], 32.0)
    assert (options.branching, options.advantage, options.resample) == ("branching_score", "dual_group", "token")
    assert (options.discount_over, options.require_positive, options.min_branch_distance) == ("all", True, 1)
    assert options.token_weight == "uniform"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_initial_rollouts": 5},
            r"num_initial_rollouts \* \(num_branch_points \+ 1\) must equal num_generations",
        ),
        ({"num_branch_rounds": 2, "num_initial_rollouts": 16}, "num_branch_rounds = 2 needs num_initial_rollouts < "),
        (
            {"num_branch_rounds": 2, "num_branch_points": 0},
            "num_branch_rounds = 2 needs .* num_branch_points >= 1, got",
        ),
        ({"num_branch_rounds": 0}, "num_branch_rounds must be a number of at least 1, got 0"),
        ({"future_clip": [1.2, 1.0]}, "future_clip must be two bounds"),
        ({"future_clip": [1.0]}, "future_clip must be two bounds"),
        ({"future_clip": [0.0, 1.0]}, "future_clip must be two bounds"),
        ({"future_clip": [1.0, float("nan")]}, "future_clip must be a finite number, got nan"),
        ({"half_life": 0}, "half_life must be a positive"),
        ({"half_life": float("inf")}, "half_life must be a finite number, got inf"),
        ({"future_weight": -1}, "future_weight must be a number of at least 0, got -1"),
        ({"min_branch_distance": 0}, "min_branch_distance must be a number of at least 1, got 0"),
        ({"branching": "bs"}, "branching must be one of branching_score, entropy"),
        ({"advantage": "gae"}, "advantage must be one of dual_group"),
        ({"advantage": "tree"}, "advantage must be one of dual_group"),
        ({"discount_over": "words"}, "discount_over must be one of all, policy"),
        ({"resample": "before"}, "resample must be one of token, after_token"),
    ],
)
def test_contradictions_are_one_sentence(options, message):
    with pytest.raises(UserError, match=message) as error:
        make_method("appo", options, num_generations=16)
    assert "\n" not in str(error.value)


def test_rounds_make_their_own_sizes():
    method = make_method("appo", {"num_branch_rounds": 2, "num_initial_rollouts": 5}, num_generations=16)
    assert method.num_initial == 5


@pytest.mark.parametrize("branching", ["branching_score", "future_value", "weighted_sum"])
def test_the_clip_of_the_options_is_that_of_the_scores(branching):
    # Between the bounds token 1 has the highest Omega; where 2 is the most, 1 and 3 are alike and the entropy of 3, or
    # the first of equals, decides.
    omega, entropy = torch.tensor([[1.0, 9.0, 1.0, 3.0]]), torch.tensor([[0.0, 0.5, 0.0, 0.6]])
    mask = torch.ones(1, 4, dtype=torch.long)
    found = {}
    for high in (2.0, 10.0):
        method = make(branching=branching, future_clip=[1.0, high])
        found[high] = method.branching_scores(None, omega, entropy, mask, torch.Generator())[0]
    assert found[10.0].nan_to_num(-9).argmax() == 1
    assert found[2.0][3] >= found[2.0][1]
