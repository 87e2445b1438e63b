"""Choice of branch points: greedy order, the paper's candidates, the task's budget."""

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from appo.algorithm import allocate_budget, branching_priority, branching_score

NAN = math.nan


def top(score_BT, mask_BT, num_points, min_distance=1):
    """The best positions of each row: what `allocate_budget` gives rows that are tasks of their own."""
    rows = [
        allocate_budget(
            score_BT[row : row + 1],
            mask_BT[row : row + 1],
            num_points=num_points,
            budget=num_points,
            min_distance=min_distance,
        )
        for row in range(len(score_BT))
    ]
    return [[index for _, index in row] for row in rows]


def branch_points(omega_BT, entropy_BT, mask_BT, num_points, min_distance=1, **options):
    return top(branching_priority(omega_BT, entropy_BT, mask_BT, **options), mask_BT, num_points, min_distance)


def brute_top(keys, num_points, min_distance):
    """`keys`: position -> sort key. Greedy, best first, the earliest of equals."""
    chosen = []
    for position in sorted(keys, key=lambda p: (keys[p], -p), reverse=True):
        if len(chosen) < num_points and all(abs(position - other) >= min_distance for other in chosen):
            chosen.append(position)
    return chosen


def brute_z(values):
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / std if std > 1e-9 else 0.0 for value in values]


def brute_keys(omega, entropy, mask, require_positive):
    """Section 8 of the paper notes, told with tuples: candidates by product, then the others by Z(H)."""
    positions = [i for i, m in enumerate(mask) if m]
    if not positions:
        return {}
    z_omega = brute_z([min(max(omega[i], 1.0), 1.2) for i in positions])
    z_entropy = brute_z([entropy[i] for i in positions])
    if not any(z_omega):
        return {i: (0, h) for i, h in zip(positions, z_entropy, strict=True)}
    keys = {}
    for i, o, h in zip(positions, z_omega, z_entropy, strict=True):
        keys[i] = (1, o * h) if not require_positive or (o > 0 and h > 0) else (0, h)
    return keys


def random_inputs(seed, rows, length, density):
    generator = torch.Generator().manual_seed(seed)
    omega_BT = torch.exp(0.2 * torch.randn(rows, length, generator=generator, dtype=torch.float64))
    entropy_BT = 3 * torch.rand(rows, length, generator=generator, dtype=torch.float64)
    return omega_BT, entropy_BT, torch.rand(rows, length, generator=generator) < density


shapes = {
    "seed": st.integers(0, 2**31),
    "rows": st.integers(0, 3),
    "length": st.integers(0, 30),
    "density": st.sampled_from([0.0, 0.2, 0.8, 1.0]),
    "num_points": st.integers(0, 6),
    "min_distance": st.integers(1, 5),
}


def test_the_greedy_choice_hand_computed():
    score_BT = torch.tensor([[1.0, 5.0, 4.0, NAN, 9.0, 4.0], [-math.inf, 2.0, 2.0, 2.0, NAN, 1.0]])
    mask_BT = torch.tensor([[1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0]])
    assert top(score_BT, mask_BT, num_points=3) == [[1, 2, 5], [1, 2, 3]]
    assert top(score_BT, mask_BT, num_points=3, min_distance=2) == [[1, 5], [1, 3]]
    assert top(score_BT, mask_BT, num_points=9) == [[1, 2, 5, 0], [1, 2, 3, 0]]
    assert top(score_BT, mask_BT, num_points=0) == [[], []]
    assert top(score_BT, 0 * mask_BT, num_points=2) == [[], []]
    assert top(torch.zeros(2, 0), torch.zeros(2, 0), num_points=2) == [[], []]


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_the_greedy_choice_brute_force(seed, rows, length, density, num_points, min_distance):
    generator = torch.Generator().manual_seed(seed)
    score_BT = torch.randint(-4, 4, (rows, length), generator=generator).double()  # many ties
    score_BT[torch.rand(rows, length, generator=generator) < 0.1] = NAN
    mask_BT = torch.rand(rows, length, generator=generator) < density
    before = score_BT.clone()
    expected = []
    for score, mask in zip(score_BT.tolist(), mask_BT.tolist(), strict=True):
        keys = {i: s for i, (s, m) in enumerate(zip(score, mask, strict=True)) if m and not math.isnan(s)}
        expected.append(brute_top(keys, num_points, min_distance))
    assert top(score_BT, mask_BT, num_points, min_distance) == expected
    assert score_BT.nan_to_num(nan=99).equal(before.nan_to_num(nan=99))


@settings(max_examples=80, deadline=None)
@given(require_positive=st.booleans(), flat_omega=st.booleans(), **shapes)
def test_branch_points_brute_force(
    require_positive, flat_omega, seed, rows, length, density, num_points, min_distance
):
    omega_BT, entropy_BT, mask_BT = random_inputs(seed, rows, length, density)
    if flat_omega:
        omega_BT = torch.ones_like(omega_BT)
    expected = [
        brute_top(brute_keys(*row, require_positive), num_points, min_distance)
        for row in zip(omega_BT.tolist(), entropy_BT.tolist(), mask_BT.tolist(), strict=True)
    ]
    actual = branch_points(omega_BT, entropy_BT, mask_BT, num_points, min_distance, require_positive=require_positive)
    assert actual == expected


def test_omega_without_variance_leaves_entropy():
    entropy_BT = torch.tensor([[1.0, 5.0, 3.0, 2.0], [1.0, 5.0, 3.0, 2.0]])
    omega_BT = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.2, 1.0, 1.0, 1.2]])
    for require_positive in (True, False):
        points = branch_points(omega_BT, entropy_BT, torch.ones(2, 4), num_points=4, require_positive=require_positive)
        assert points[0] == [1, 2, 3, 0]
        assert points[1] != points[0] or require_positive


def test_mistake_7_two_negatives_do_not_make_a_branch_point():
    # Token 0 is low in both factors: the bare product is the largest of all. Token 3 is the only true candidate.
    omega_BT = torch.tensor([[1.00, 1.15, 1.05, 1.20, 1.20]])
    entropy_BT = torch.tensor([[0.0, 1.8, 3.0, 2.5, 1.9]])
    mask_BT = torch.ones(1, 5)
    assert branching_score(omega_BT, entropy_BT, mask_BT)[0].argmax() == 0
    bare = branch_points(omega_BT, entropy_BT, mask_BT, num_points=1, require_positive=False)
    assert bare == [[0]]
    # The rest is filled by entropy, the double negative last, and nothing comes twice.
    points = branch_points(omega_BT, entropy_BT, mask_BT, num_points=9)
    assert points == [[3, 4, 2, 1, 0]]


def test_mistake_7_points_keep_their_distance_in_the_fall_back_too():
    omega_BT, entropy_BT, mask_BT = random_inputs(3, 8, 60, 0.7)
    for points in branch_points(omega_BT, entropy_BT, mask_BT, num_points=20, min_distance=4):
        assert len(points) >= 8
        assert all(abs(a - b) >= 4 for i, a in enumerate(points) for b in points[:i])


def test_mistake_7_every_rollout_gets_its_points():
    # All high scores sit in one rollout; points are still taken per rollout, not per task.
    priority_NT = torch.tensor([[9.0, 8.0, 7.0], [0.3, 0.2, 0.1]])
    assert allocate_budget(priority_NT, torch.ones(2, 3), num_points=1, budget=2) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_priority_keeps_candidates_above_the_rest_across_rollouts(dtype):
    omega_BT, entropy_BT, mask_BT = random_inputs(5, 6, 400, 0.9)
    entropy_BT[:, :3] = 1e4  # a huge Z(H) outside the candidates stays below the smallest of them
    omega_BT[:, :3] = 1.0
    priority_BT = branching_priority(omega_BT.to(dtype), entropy_BT.to(dtype), mask_BT)
    assert priority_BT.dtype == dtype
    assert priority_BT.isnan().equal(~mask_BT)
    score_BT = branching_score(omega_BT.to(dtype), entropy_BT.to(dtype), mask_BT)
    positive_BT = priority_BT > 0
    assert priority_BT[positive_BT].equal(score_BT[positive_BT])
    assert (priority_BT[mask_BT & ~positive_BT] < 0).all()


def test_priority_hand_computed():
    # A clip that leaves Omega alone: Z is -1.2, 0, 1.2 (of 1, 2, 3). Entropies: mean 2 and mean 1.
    omega_BT, mask_BT, clip = torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.ones(2, 3), (0.0, 9.0)
    entropy_BT = torch.tensor([[0.0, 5.0, 1.0], [0.0, 2.0, 1.0]])
    z_BT = torch.tensor([[-2.0, 3.0, -1.0], [-1.0, 1.0, 0.0]]) / torch.tensor([[14 / 3], [2 / 3]]).sqrt()
    # A factor of exactly 0 is not positive, so there is no candidate: softsign(Z(H)) - 1 ranks all of them.
    fill_BT = z_BT / (1 + z_BT.abs()) - 1
    torch.testing.assert_close(branching_priority(omega_BT, entropy_BT, mask_BT, clip=clip), fill_BT)
    bare_BT = branching_priority(omega_BT, entropy_BT, mask_BT, clip=clip, require_positive=False)
    torch.testing.assert_close(bare_BT, z_BT * torch.tensor([-1.5, 0.0, 1.5]).sign() * 1.5**0.5)
    # With the paper's clip Omega is 1, 1.2 and 1.2: Z -1.41, .71 and .71, so that token 1 is a candidate.
    expected_B = z_BT[:, 1] / 2**0.5
    torch.testing.assert_close(branching_priority(omega_BT, entropy_BT, mask_BT)[:, 1], expected_B)


def test_priority_can_be_ranked_within_fewer_tokens():
    omega_BT, entropy_BT, mask_BT = random_inputs(6, 1, 50, 1.0)
    priority_BT = branching_priority(omega_BT, entropy_BT, mask_BT)
    first, second, third = top(priority_BT, mask_BT, num_points=3)[0]
    mask_BT[0, first] = False
    assert top(priority_BT, mask_BT, num_points=2) == [[second, third]]


def test_allocate_budget_hand_computed():
    priority_NT = torch.tensor([[1.0, 2.0, 3.0, 4.0], [9.0, NAN, NAN, NAN], [5.0, 6.0, 7.0, 8.0]])
    mask_NT = torch.ones(3, 4)

    def allocate(num_points, budget, **options):
        return allocate_budget(priority_NT, mask_NT, num_points=num_points, budget=budget, **options)

    # All best points, all second best; the point that rollout 1 lacks goes to the best score left, (2, 1).
    regular = [(0, 3), (1, 0), (2, 3), (0, 2), (2, 2)]
    assert allocate(2, 6) == [*regular, (2, 1)]
    assert allocate(2, 7) == [*regular, (2, 1), (2, 0)]
    assert allocate(2, 99) == [*regular, (2, 1), (2, 0), (0, 1), (0, 0)]
    assert allocate(2, 4) == regular[:4]
    assert allocate(0, 2) == [(1, 0), (2, 3)]
    assert allocate(3, 0) == []
    assert allocate(2, 99, min_distance=3) == [(0, 3), (1, 0), (2, 3), (0, 0), (2, 0)]


@settings(max_examples=60, deadline=None)
@given(budget=st.integers(0, 20), **shapes)
def test_allocate_budget_properties(budget, seed, rows, length, density, num_points, min_distance):
    priority_NT, _, mask_NT = random_inputs(seed, rows, length, density)
    options = {"num_points": num_points, "min_distance": min_distance}
    points = allocate_budget(priority_NT, mask_NT, budget=budget, **options)
    everything = top(priority_NT, mask_NT, num_points=length, min_distance=min_distance)
    assert len(points) == len(set(points)) == min(budget, sum(map(len, everything)))
    regular = top(priority_NT, mask_NT, **options)
    by_rank = [(n, r[rank]) for rank in range(num_points) for n, r in enumerate(regular) if rank < len(r)]
    assert points[: len(by_rank)] == by_rank[:budget]
    further = [priority_NT[point].item() for point in points[len(by_rank) :]]
    assert further == sorted(further, reverse=True)
    assert all(mask_NT[point] for point in points)
    for rollout, greedy in enumerate(everything):
        mine = [index for n, index in points if n == rollout]
        assert mine == greedy[: len(mine)]


def test_mistake_13_longest_rollout():
    length = 131_072
    omega_BT, entropy_BT, mask_BT = random_inputs(7, 2, length, 0.9)
    start = time.thread_time()
    points = branch_points(omega_BT, entropy_BT, mask_BT, num_points=3, min_distance=100)
    assert time.thread_time() - start < 60  # well under 1; a pass per point and token would take hours
    assert [len(row) for row in points] == [3, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, m: branching_priority(s, s[:1], m), "entropy_BT has shape"),
        (lambda s, m: branching_priority(s, s, m[:1]), "mask_BT has shape"),
        (lambda s, m: branching_priority(s, s, m, clip=(1.2, 1.0)), "clip must be"),
        (lambda s, m: allocate_budget(s[0], m, num_points=1, budget=1), "priority_NT must have two dimensions"),
        (lambda s, m: allocate_budget(s, m[:1], num_points=1, budget=1), "mask_NT has shape"),
        (lambda s, m: allocate_budget(s, -m, num_points=1, budget=1), "mask_NT .* negative"),
        (
            lambda s, m: allocate_budget(s, m, num_points=1, budget=1, min_distance=0),
            "min_distance must be at least 1",
        ),
        (lambda s, m: allocate_budget(s, m, num_points=1, budget=-1), "budget must be at least 0"),
        (lambda s, m: allocate_budget(s, m, num_points=-1, budget=1), "num_points must be at least 0"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 3), torch.ones(2, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu():
    omega_BT, entropy_BT, mask_BT = random_inputs(0, 4, 500, 0.7)
    cpu = branch_points(omega_BT, entropy_BT, mask_BT, num_points=20, min_distance=2)
    cuda = branch_points(omega_BT.cuda(), entropy_BT.cuda(), mask_BT.cuda(), num_points=20, min_distance=2)
    assert cuda == cpu
    ties = torch.zeros(2, 5000, device="cuda")
    assert top(ties, ties + 1, num_points=3) == [[0, 1, 2]] * 2
