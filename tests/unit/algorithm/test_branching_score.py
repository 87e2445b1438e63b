"""Eq. 5 and its rivals against hand-computed numbers and Python's statistics module."""

import inspect
import math
import statistics
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from appo import algorithm
from appo.algorithm import (
    branching_score,
    entropy_score,
    future_factor,
    future_value_score,
    random_score,
    tool_boundary_score,
    weighted_sum_score,
)
from appo.algorithm.branching_score import z_scores

NAN = math.nan


def brute_z(values, mask):
    chosen = [value for value, m in zip(values, mask, strict=True) if m]
    std = statistics.pstdev(chosen) if chosen else 0.0
    mean = statistics.fmean(chosen) if chosen else 0.0
    return [(value - mean) / std if std else 0.0 for value in values]


def brute_scores(omega_BT, entropy_BT, mask_BT, clip, combine):
    rows = []
    for omega, entropy, mask in zip(omega_BT.tolist(), entropy_BT.tolist(), mask_BT.tolist(), strict=True):
        z_omega = brute_z([min(max(o, clip[0]), clip[1]) for o in omega], mask)
        z_entropy = brute_z(entropy, mask)
        rows.append([combine(a, b) if m else NAN for a, b, m in zip(z_omega, z_entropy, mask, strict=True)])
    return torch.tensor(rows, dtype=torch.float64).reshape(omega_BT.shape)


def assert_scores(actual, expected, **tolerance):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), equal_nan=True, **tolerance)


def random_inputs(seed, rows, length, density):
    generator = torch.Generator().manual_seed(seed)
    omega_BT = torch.exp(0.2 * torch.randn(rows, length, generator=generator, dtype=torch.float64))
    entropy_BT = 3 * torch.rand(rows, length, generator=generator, dtype=torch.float64)
    return omega_BT, entropy_BT, torch.rand(rows, length, generator=generator) < density


def test_hand_computed():
    # Clipped Omega 1, 1.2, 1.2, 1 -> z -1, 1, 1, -1. Entropy 1, 1, 3, 3 -> z -1, -1, 1, 1. The last token is masked.
    omega_BT = torch.tensor([[0.3, 1.2, 7.0, 1.0, 5.0]])
    entropy_BT = torch.tensor([[1.0, 1.0, 3.0, 3.0, 99.0]])
    mask_BT = torch.tensor([[1, 1, 1, 1, 0]])
    assert_scores(branching_score(omega_BT, entropy_BT, mask_BT), [[1.0, -1.0, 1.0, -1.0, NAN]])
    assert_scores(weighted_sum_score(omega_BT, entropy_BT, mask_BT), [[-1.0, 0.0, 1.0, 0.0, NAN]])
    assert_scores(weighted_sum_score(omega_BT, entropy_BT, mask_BT, weight=1.0), [[-1.0, 1.0, 1.0, -1.0, NAN]])
    assert_scores(weighted_sum_score(omega_BT, entropy_BT, mask_BT, weight=0.0), [[-1.0, -1.0, 1.0, 1.0, NAN]])
    assert_scores(weighted_sum_score(omega_BT, entropy_BT, mask_BT, weight=0.25), [[-1.0, -0.5, 1.0, 0.5, NAN]])
    assert_scores(entropy_score(entropy_BT, mask_BT), [[1.0, 1.0, 3.0, 3.0, NAN]])
    assert_scores(future_value_score(omega_BT, mask_BT), [[1.0, 1.2, 1.2, 1.0, NAN]])
    assert_scores(future_value_score(omega_BT, mask_BT, clip=(0.5, 6.0)), [[0.5, 1.2, 6.0, 1.0, NAN]])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 3),
    length=st.integers(0, 40),
    density=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    clip=st.sampled_from([(1.0, 1.2), (0.8, 1.2), (0.0, math.inf)]),
)
def test_brute_force(seed, rows, length, density, clip):
    omega_BT, entropy_BT, mask_BT = random_inputs(seed, rows, length, density)
    expected = brute_scores(omega_BT, entropy_BT, mask_BT, clip, lambda a, b: a * b)
    assert_scores(branching_score(omega_BT, entropy_BT, mask_BT, clip=clip), expected)
    score_BT = branching_score(omega_BT.float(), entropy_BT.float(), mask_BT.long(), clip=clip)
    assert score_BT.dtype == torch.float32
    assert_scores(score_BT, expected, rtol=1e-4, atol=1e-4)
    expected = brute_scores(omega_BT, entropy_BT, mask_BT, clip, lambda a, b: 0.3 * a + 0.7 * b)
    assert_scores(weighted_sum_score(omega_BT, entropy_BT, mask_BT, weight=0.3, clip=clip), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_factor_without_variance_is_zero(dtype):
    # 0.1 and 1.1 are not exact in binary: their sums leave rounding noise that must not become a signal.
    constant_BT = torch.full((1, 1001), 1.1, dtype=dtype)
    varied_BT = torch.rand(1, 1001, dtype=dtype) + 1
    mask_BT = torch.ones(1, 1001)
    assert (branching_score(constant_BT, varied_BT, mask_BT) == 0).all()
    assert (branching_score(varied_BT, constant_BT - 1, mask_BT) == 0).all()
    assert (branching_score(varied_BT, 1e6 * constant_BT, mask_BT) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_have_the_dtype_of_what_they_are_made_of(dtype):
    value_BT = torch.rand(1, 3, dtype=dtype)
    scores = (branching_score, weighted_sum_score, future_value_score, entropy_score, tool_boundary_score)
    for score in scores:
        values = [value_BT] * (2 if score in scores[:2] else 1)
        assert score(*values, torch.ones(1, 3)).dtype == dtype


def test_row_without_policy_tokens_is_all_nan_and_silent():
    omega_BT, entropy_BT, _ = random_inputs(0, 2, 5, 1.0)
    mask_BT = torch.tensor([[0] * 5, [1] * 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_BT = branching_score(omega_BT, entropy_BT, mask_BT)
    assert score_BT[0].isnan().all()
    assert not score_BT[1].isnan().any()
    assert (z_scores(omega_BT, mask_BT.bool())[0] == 0).all()


def test_junk_outside_the_mask_is_harmless():
    omega_BT, entropy_BT, mask_BT = random_inputs(1, 3, 20, 0.5)
    dirty_omega_BT = omega_BT.masked_fill(~mask_BT, NAN)
    dirty_entropy_BT = entropy_BT.masked_fill(~mask_BT, math.inf)
    for score in (branching_score, weighted_sum_score):
        assert_scores(score(dirty_omega_BT, dirty_entropy_BT, mask_BT), score(omega_BT, entropy_BT, mask_BT))
    assert_scores(tool_boundary_score(dirty_entropy_BT, mask_BT), tool_boundary_score(entropy_BT, mask_BT))


def test_random_score_follows_its_generator():
    mask_BT = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]])
    first, again, other = (random_score(mask_BT, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert_scores(first, again)
    assert not first.nan_to_num().equal(other.nan_to_num())
    assert first.isnan().equal(mask_BT == 0)
    assert first.dtype == torch.float32


def test_tool_boundary_score():
    # Boundaries are tokens 1 (the rollout's first), 4 and 6; the others follow by entropy.
    entropy_BT = torch.tensor([[9.0, 0.5, 2.0, 9.0, 0.0, 9.0, 1.0, 7.0, 3.0]])
    mask_BT = torch.tensor([[0, 1, 1, 0, 1, 0, 1, 1, 1]])
    score_BT = tool_boundary_score(entropy_BT, mask_BT)
    assert score_BT.isnan().equal(mask_BT == 0)
    assert score_BT.nan_to_num(nan=-math.inf).argsort(descending=True)[0, :6].tolist() == [6, 1, 4, 7, 8, 2]
    assert_scores(score_BT[0, [6, 1, 4]], [1.0, 0.5, 0.0])
    assert_scores(score_BT[0, [7, 8, 2]], [-1 / 8, -1 / 4, -1 / 3])
    assert tool_boundary_score(entropy_BT, torch.ones(1, 9))[0, 0] == 9


def test_mistake_6_branching_and_loss_share_one_clip():
    clips = {
        name: inspect.signature(getattr(algorithm, name)).parameters["clip"].default
        for name in algorithm.__all__
        if callable(getattr(algorithm, name)) and "clip" in inspect.signature(getattr(algorithm, name)).parameters
    }
    assert {"branching_score", "branching_priority", "future_factor"} <= clips.keys()
    assert set(clips.values()) == {(1.0, 1.2)}
    # Below 1 nothing is told apart, neither in branching nor in the loss.
    omega_BT, entropy_BT, mask_BT = torch.tensor([[0.8, 0.9, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3)
    assert (branching_score(omega_BT, entropy_BT, mask_BT) == 0).all()
    assert future_factor(omega_BT).tolist() == [[1.5, 1.5, 1.5]]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (branching_score, ("omega_BT", "entropy_BT")),
        (weighted_sum_score, ("omega_BT", "entropy_BT")),
        (future_value_score, ("omega_BT",)),
        (entropy_score, ("entropy_BT",)),
        (tool_boundary_score, ("entropy_BT",)),
    ],
)
def test_errors_name_the_argument(function, names):
    values = [torch.rand(2, 3) for _ in names]
    with pytest.raises(ValueError, match=f"{names[0]} must have two dimensions"):
        function(*(value[0] for value in values), torch.ones(3))
    with pytest.raises(ValueError, match="mask_BT has shape"):
        function(*values, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"mask_BT .* negative"):
        function(*values, -torch.ones(2, 3))
    if len(names) == 2:
        with pytest.raises(ValueError, match="entropy_BT has shape"):
            function(values[0], torch.rand(2, 4), torch.ones(2, 3))
    if "omega_BT" in names:
        with pytest.raises(ValueError, match="clip must be"):
            function(*values, torch.ones(2, 3), clip=(1.2, 1.0))


def test_more_errors():
    with pytest.raises(ValueError, match=r"mask_BT .* negative"):
        random_score(torch.tensor([[-1]]), generator=torch.Generator())
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\]"):
        weighted_sum_score(torch.rand(1, 2), torch.rand(1, 2), torch.ones(1, 2), weight=1.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu():
    omega_BT, entropy_BT, mask_BT = (tensor.cuda() for tensor in random_inputs(0, 3, 500, 0.7))
    assert_scores(
        branching_score(omega_BT, entropy_BT, mask_BT).cpu(),
        branching_score(omega_BT.cpu(), entropy_BT.cpu(), mask_BT.cpu()),
    )
    cuda, cpu = (random_score(m, generator=torch.Generator().manual_seed(0)) for m in (mask_BT, mask_BT.cpu()))
    assert_scores(cuda.cpu(), cpu)
