"""Eq. 6-7 and the rivals against hand-computed numbers and the statistics module."""

import math
import statistics
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from appo.algorithm import (
    dual_group_advantage,
    future_factor,
    group_advantage,
    pooled_advantage,
    prefix_advantage,
)

NAN = math.nan


def brute_z(reward, group):
    group = [value for value in group if not math.isnan(value)]
    std = statistics.pstdev(group) if group else 0.0
    return (reward - statistics.fmean(group)) / std if std > 1e-6 else 0.0


def brute_prefix(initial, branches, parents, positions, length):
    tree = [x for x in zip(branches, parents, positions, strict=True) if not math.isnan(x[0]) and x[1] >= 0]
    pool = initial + [reward for reward, _, _ in tree]
    rows = []
    for n, reward in enumerate(initial):
        row = []
        for i in range(length):
            sharing = [brute_z(r, pool) for r, parent, position in tree if parent == n and position > i]
            row.append(brute_z(reward, pool) + (statistics.fmean(sharing) if sharing else 0.0))
        rows.append(row)
    return rows


def random_rewards(seed, tasks, initial, branches):
    """Few distinct values, so that groups without variance occur, and missing branches."""
    generator = torch.Generator().manual_seed(seed)
    initial_GN = torch.randint(-1, 2, (tasks, initial), generator=generator).double()
    branch_GK = torch.randint(-1, 2, (tasks, branches), generator=generator).double()
    branch_GK[torch.rand(tasks, branches, generator=generator) < 0.3] = NAN
    return initial_GN, branch_GK, generator


sizes = {
    "seed": st.integers(0, 2**31),
    "tasks": st.integers(0, 3),
    "initial": st.integers(1, 5),
    "branches": st.integers(0, 6),
}


def test_dual_group_hand_computed():
    # Initial rewards: mean 0.5, std 0.5. Branches: mean 0.25, population std sqrt(3) / 4.
    initial_GN = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    branch_GK = torch.tensor([[0.0, 0.0, NAN, 0.0, 1.0]], dtype=torch.float64)
    low, high = (-1 - 1 / math.sqrt(3)) / 2, (1 + math.sqrt(3)) / 2
    expected = torch.tensor([[low, high, high, low]], dtype=torch.float64)
    torch.testing.assert_close(dual_group_advantage(initial_GN, branch_GK), expected)


def test_pooled_and_group_hand_computed():
    initial_GN = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    branch_GK = torch.tensor([[0.0, NAN, 0.0]], dtype=torch.float64)
    # The pool 0, 1, 0, 0: mean 1/4, std sqrt(3) / 4.
    expected = torch.tensor([[-1 / math.sqrt(3), math.sqrt(3)]], dtype=torch.float64)
    torch.testing.assert_close(pooled_advantage(initial_GN, branch_GK), expected)
    torch.testing.assert_close(group_advantage(initial_GN), torch.tensor([[-1.0, 1.0]], dtype=torch.float64))


def test_a_group_without_variance_gives_no_signal():
    equal_GN, mixed_GK = torch.full((1, 4), 0.1), torch.tensor([[0.1, 0.5]])
    # Only the branches differ: half of (0.1 - 0.3) / 0.2.
    torch.testing.assert_close(dual_group_advantage(equal_GN, mixed_GK), torch.full((1, 4), -0.5))
    assert (dual_group_advantage(equal_GN, torch.full((1, 3), 0.9)) == 0).all()
    assert (group_advantage(equal_GN) == 0).all()
    assert (pooled_advantage(equal_GN, torch.full((1, 3), 0.1)) == 0).all()


def test_eps_is_a_threshold_and_never_added():
    initial_GN, none_GK = torch.tensor([[0.0, 1e-3]], dtype=torch.float64), torch.zeros(1, 0)
    # Adding the default eps to a std of 5e-4 would shrink this by 0.2 %.
    expected = torch.tensor([[-0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(dual_group_advantage(initial_GN, none_GK), expected)
    assert (dual_group_advantage(initial_GN, none_GK, eps=5.1e-4) == 0).all()
    assert (pooled_advantage(initial_GN, none_GK, eps=5.1e-4) == 0).all()
    assert (group_advantage(initial_GN, eps=5.1e-4) == 0).all()
    assert (group_advantage(torch.tensor([[0.0, 2.0]]), eps=1.0) == 0).all()  # exactly eps


@settings(max_examples=60, deadline=None)
@given(**sizes)
def test_brute_force(seed, tasks, initial, branches):
    initial_GN, branch_GK, _ = random_rewards(seed, tasks, initial, branches)
    dual, pooled, group = [], [], []
    for rewards, others in zip(initial_GN.tolist(), branch_GK.tolist(), strict=True):
        dual.append([0.5 * (brute_z(r, rewards) + brute_z(r, others)) for r in rewards])
        pooled.append([brute_z(r, rewards + others) for r in rewards])
        group.append([brute_z(r, rewards) for r in rewards])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = (
            dual_group_advantage(initial_GN, branch_GK),
            pooled_advantage(initial_GN, branch_GK),
            group_advantage(initial_GN),
        )
    for value, expected in zip(actual, (dual, pooled, group), strict=True):
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64).reshape(tasks, initial))
    single = dual_group_advantage(initial_GN.float(), branch_GK.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), actual[0], rtol=1e-5, atol=1e-6)


def test_prefix_hand_computed():
    # The pool 0, 1, 1, 0 (the NaN and the orphan are absent): z = -1 or 1. Rollout 0 has branches at 2 (+1), 3 (-1).
    advantage_GNT = prefix_advantage(
        torch.tensor([[0.0, 1.0]]),
        torch.tensor([[1.0, 0.0, NAN, 5.0]]),
        torch.tensor([[0, 0, 1, -1]]),
        torch.tensor([[2, 3, 1, 4]]),
        length=4,
    )
    expected = torch.tensor([[[-1.0, -1.0, -2.0, -1.0], [1.0, 1.0, 1.0, 1.0]]])
    torch.testing.assert_close(advantage_GNT, expected)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 12), **sizes)
def test_prefix_brute_force(length, seed, tasks, initial, branches):
    initial_GN, branch_GK, generator = random_rewards(seed, tasks, initial, branches)
    parent_GK = torch.randint(-1, initial, (tasks, branches), generator=generator)
    position_GK = torch.randint(0, length + 1, (tasks, branches), generator=generator)
    rows = zip(initial_GN.tolist(), branch_GK.tolist(), parent_GK.tolist(), position_GK.tolist(), strict=True)
    expected = [brute_prefix(*row, length) for row in rows]
    actual = prefix_advantage(initial_GN, branch_GK, parent_GK, position_GK, length=length)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64).reshape(tasks, initial, length))


def test_prefix_of_the_longest_rollout():
    length = 131_072
    position_GK = torch.tensor([[100_000]])
    initial_GN, branch_GK = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0]])
    advantage_GNT = prefix_advantage(initial_GN, branch_GK, torch.tensor([[1]]), position_GK, length=length)
    assert advantage_GNT.dtype == torch.float32
    assert (advantage_GNT[0, 1] > 0).nonzero().max() == 99_999
    assert (advantage_GNT[0, 0] < 0).all()


def test_future_factor_hand_computed():
    omega_BT = torch.tensor([[0.2, 1.1, 9.0], [1.0, 1.2, 1.0]])
    torch.testing.assert_close(future_factor(omega_BT), torch.tensor([[1.5, 1.55, 1.6], [1.5, 1.6, 1.5]]))
    expected = torch.tensor([[1.2, 2.1, 5.0], [2.0, 2.2, 2.0]])
    torch.testing.assert_close(future_factor(omega_BT, b=1.0, clip=(0.2, 4.0)), expected)
    assert future_factor(omega_BT.double()).dtype == torch.float64


def test_without_a_weight_the_future_changes_nothing():
    assert future_factor(torch.tensor([[0.2, 1.1, 9.0]]), b=0.0).tolist() == [[1.0, 1.0, 1.0]]


def test_no_gradient_flows_through_an_advantage():
    omega_BT = torch.full((2, 3), 1.1, requires_grad=True)
    assert not future_factor(omega_BT).requires_grad
    rewards_GN = torch.rand(2, 3, requires_grad=True)
    assert not dual_group_advantage(rewards_GN, rewards_GN).requires_grad


@pytest.mark.parametrize("bad", [NAN, math.inf])
@pytest.mark.parametrize(
    "function", [group_advantage, dual_group_advantage, pooled_advantage, prefix_advantage], ids=lambda f: f.__name__
)
def test_bad_initial_rewards_are_named(function, bad):
    rest = [torch.rand(2, 1), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)]
    count = {group_advantage: 0, prefix_advantage: 3}.get(function, 1)
    options = {"length": 4} if function is prefix_advantage else {}
    initial_GN = torch.rand(2, 3)
    function(initial_GN, *rest[:count], **options)
    initial_GN[1, 2] = bad
    with pytest.raises(
        ValueError, match=rf"^initial_rewards_GN holds {bad} at \[1, 2\]; give every initial .* advantages\.$"
    ):
        function(initial_GN, *rest[:count], **options)


def test_errors_name_the_argument():
    rewards_GN, none_GK = torch.rand(2, 3), torch.zeros(2, 0)
    with pytest.raises(ValueError, match="initial_rewards_GN must have two dimensions"):
        group_advantage(rewards_GN[0])
    with pytest.raises(ValueError, match="initial_rewards_GN must be a floating-point"):
        group_advantage(rewards_GN.long())
    for function in (dual_group_advantage, pooled_advantage):
        with pytest.raises(ValueError, match="branch_rewards_GK has 1 tasks"):
            function(rewards_GN, none_GK[:1])
        with pytest.raises(ValueError, match="branch_rewards_GK must have two dimensions"):
            function(rewards_GN, none_GK[0])
        with pytest.raises(ValueError, match=r"^branch_rewards_GK holds an infinite .* missing branch\.$"):
            function(rewards_GN, torch.full((2, 1), math.inf))
    with pytest.raises(ValueError, match="omega_BT must have two dimensions"):
        future_factor(torch.rand(3))
    with pytest.raises(ValueError, match="omega_BT must be a floating-point"):
        future_factor(torch.ones(2, 3).long())
    with pytest.raises(ValueError, match="clip must be"):
        future_factor(torch.rand(2, 3), clip=(1.2, 1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"branch_rewards_GK": torch.tensor([[math.inf]])}, "branch_rewards_GK holds an infinite reward"),
        ({"branch_parent_GK": torch.tensor([[2]])}, r"branch_parent_GK must be in \[0, 2\)"),
        ({"branch_parent_GK": torch.tensor([[-2]])}, "branch_parent_GK must be in"),
        ({"branch_parent_GK": torch.tensor([[0.0]])}, "branch_parent_GK must be an integer"),
        ({"branch_position_GK": torch.tensor([[5]])}, r"branch_position_GK must be in \[0, 4\]"),
        ({"branch_position_GK": torch.tensor([[-1]])}, "branch_position_GK must be in"),
        ({"branch_position_GK": torch.tensor([[1, 2]])}, "branch_position_GK must be an integer tensor of shape"),
        ({"length": -1}, "length must be at least 0"),
    ],
)
def test_prefix_errors_name_the_argument(arguments, message):
    valid = {
        "branch_rewards_GK": torch.tensor([[1.0]]),
        "branch_parent_GK": torch.tensor([[1]]),
        "branch_position_GK": torch.tensor([[4]]),
        "length": 4,
    }
    prefix_advantage(torch.rand(1, 2), **valid)
    with pytest.raises(ValueError, match=message):
        prefix_advantage(torch.rand(1, 2), **(valid | arguments))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu():
    initial_GN, branch_GK, _ = random_rewards(0, 3, 4, 6)
    parent_GK, position_GK = torch.randint(-1, 4, (3, 6)), torch.randint(0, 9, (3, 6))
    cpu = [dual_group_advantage(initial_GN, branch_GK), pooled_advantage(initial_GN, branch_GK)]
    cpu.append(prefix_advantage(initial_GN, branch_GK, parent_GK, position_GK, length=8))
    initial_GN, branch_GK, parent_GK, position_GK = (t.cuda() for t in (initial_GN, branch_GK, parent_GK, position_GK))
    cuda = [dual_group_advantage(initial_GN, branch_GK), pooled_advantage(initial_GN, branch_GK)]
    cuda.append(prefix_advantage(initial_GN, branch_GK, parent_GK, position_GK, length=8))
    for actual, expected in zip(cuda, cpu, strict=True):
        torch.testing.assert_close(actual.cpu(), expected)
