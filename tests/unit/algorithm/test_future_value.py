"""Eq. 4 against hand-computed numbers and a double loop in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from appo.algorithm import clip_future_value, future_value, half_life_to_gamma


class LargestTensor(TorchDispatchMode):
    """Records the element count of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def brute_force(log_ratio_BT, mask_BT, gamma, discount_over):
    omega = []
    for x, m in zip(log_ratio_BT.tolist(), mask_BT.tolist(), strict=True):
        row = []
        for i in range(len(x)):
            total = 0.0
            for j in range(i, len(x)):
                steps = j - i if discount_over == "all" else sum(bool(k) for k in m[i + 1 : j + 1])
                total += gamma**steps * x[j] if m[j] else 0.0
            row.append(math.exp(max(-20.0, min(20.0, total))))
        omega.append(row)
    return torch.tensor(omega, dtype=torch.float64).reshape(log_ratio_BT.shape)


def exact_sum(log_ratio_BT, gamma):
    """Backwards recursion in Python floats."""
    rows = []
    for x in log_ratio_BT.double().tolist():
        total, row = 0.0, []
        for value in reversed(x):
            total = value + gamma * total
            row.append(total)
        rows.append(row[::-1])
    return torch.tensor(rows, dtype=torch.float64)


def test_half_life_to_gamma():
    assert half_life_to_gamma(32) == 2 ** (-1 / 32)
    assert half_life_to_gamma(1) == 0.5
    for bad in (0, -1, math.nan):
        with pytest.raises(ValueError, match="half_life must be positive"):
            half_life_to_gamma(bad)


def test_hand_computed():
    log_ratio_BT = torch.tensor([[0.1, -0.2, 0.4, 0.8]], dtype=torch.float64)
    omega_BT = future_value(log_ratio_BT, torch.ones(1, 4), gamma=0.5)
    # 0.8; 0.4 + 0.4; -0.2 + 0.4; 0.1 + 0.1
    torch.testing.assert_close(omega_BT.log(), torch.tensor([[0.2, 0.2, 0.8, 0.8]], dtype=torch.float64))


def test_result_tokens_add_nothing_and_count_as_positions_only_over_all():
    log_ratio_BT = torch.tensor([[0.1, 9.0, 9.0, 0.8, 9.0]], dtype=torch.float64)
    mask_BT = torch.tensor([[1, 0, 0, 1, 0]])
    over_all = future_value(log_ratio_BT, mask_BT, gamma=0.5).log()
    torch.testing.assert_close(over_all, torch.tensor([[0.2, 0.2, 0.4, 0.8, 0.0]], dtype=torch.float64))
    over_policy = future_value(log_ratio_BT, mask_BT, gamma=0.5, discount_over="policy").log()
    torch.testing.assert_close(over_policy, torch.tensor([[0.5, 0.4, 0.4, 0.8, 0.0]], dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 3),
    length=st.integers(0, 40),
    density=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    gamma=st.sampled_from([1.0, 0.978, 0.5, 1e-3]),
    discount_over=st.sampled_from(["all", "policy"]),
    mask_dtype=st.sampled_from([torch.bool, torch.long, torch.float32]),
)
def test_brute_force(seed, rows, length, density, gamma, discount_over, mask_dtype):
    generator = torch.Generator().manual_seed(seed)
    log_ratio_BT = torch.randn(rows, length, generator=generator, dtype=torch.float64)
    mask_BT = (torch.rand(rows, length, generator=generator) < density).to(mask_dtype)
    expected = brute_force(log_ratio_BT, mask_BT, gamma, discount_over)
    omega_BT = future_value(log_ratio_BT, mask_BT, gamma=gamma, discount_over=discount_over)
    torch.testing.assert_close(omega_BT, expected, rtol=1e-10, atol=0)
    omega_BT = future_value(log_ratio_BT.float(), mask_BT, gamma=gamma, discount_over=discount_over)
    assert omega_BT.dtype == torch.float32
    torch.testing.assert_close(omega_BT.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("gamma", [1.0, half_life_to_gamma(32), 0.999])
def test_relative_error_at_8192(gamma):
    log_ratio_BT = 0.05 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    expected = exact_sum(log_ratio_BT, gamma).clamp(-20, 20).exp()
    for discount_over in ("all", "policy"):
        omega_BT = future_value(log_ratio_BT, torch.ones(2, 8192), gamma=gamma, discount_over=discount_over)
        # 1e-4 is what is promised; summing in float64 leaves only the rounding of the result.
        assert ((omega_BT.double() - expected).abs() / expected).max() < 2e-7


def test_junk_outside_the_mask_is_harmless():
    log_ratio_BT = torch.tensor([[0.1, math.nan, math.inf, 0.8, -math.inf]])
    mask_BT = torch.tensor([[True, False, False, True, False]])
    clean_BT = log_ratio_BT.masked_fill(~mask_BT, 0.0)
    assert future_value(log_ratio_BT, mask_BT, gamma=0.5).equal(future_value(clean_BT, mask_BT, gamma=0.5))


def test_policy_distance_is_small_however_long_a_result_is():
    # Over all positions the last token is 0.001^40 away; of the policy's tokens it is the next.
    log_ratio_BT, mask_BT = torch.zeros(1, 41), torch.zeros(1, 41)
    log_ratio_BT[0, 40], mask_BT[0, [0, 40]] = 10.0, 1.0
    values = {over: future_value(log_ratio_BT, mask_BT, gamma=0.001, discount_over=over) for over in ("all", "policy")}
    assert values["all"][0, 0] == 1.0
    assert values["policy"][0, 0].item() == pytest.approx(math.exp(0.01))


def test_exponent_is_clamped_and_on_policy_is_exactly_one():
    omega_BT = future_value(torch.tensor([[500.0], [-500.0], [0.0]]), torch.ones(3, 1), gamma=1.0)
    torch.testing.assert_close(omega_BT, torch.tensor([[math.exp(20)], [math.exp(-20)], [1.0]]), atol=0, rtol=1e-5)
    sums_BT = future_value(torch.tensor([[-900.0, 900.0, 0.0]]), torch.ones(1, 3), gamma=0.5)
    torch.testing.assert_close(sums_BT, torch.tensor([[math.exp(-20), math.exp(20), 1.0]]), atol=0, rtol=1e-5)
    assert (future_value(torch.zeros(2, 77), torch.ones(2, 77), gamma=0.9) == 1).all()


def test_input_is_neither_changed_nor_differentiated():
    log_ratio_BT = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    before = log_ratio_BT.detach().clone()
    assert not future_value(log_ratio_BT, torch.ones(2, 9), gamma=0.9).requires_grad
    assert log_ratio_BT.equal(before)


def test_mistake_5_the_future_fades_with_the_papers_half_life():
    # An undiscounted sum of 4096 small drifts ends at the clamp; the discounted one stays a mild preference.
    gamma = half_life_to_gamma(32)
    drift_BT = torch.full((1, 4096), 0.01, dtype=torch.float64)
    omega = future_value(drift_BT, torch.ones(1, 4096), gamma=gamma)[0, 0]
    torch.testing.assert_close(omega.log().item(), 0.01 / (1 - gamma))
    # One event weighs half as much 32 tokens earlier (a half-life of 64 would give 0.71), a quarter at 64.
    event_BT = torch.zeros(1, 100, dtype=torch.float64)
    event_BT[0, 80] = 1.0
    log_omega_T = future_value(event_BT, torch.ones(1, 100), gamma=gamma)[0].log()
    torch.testing.assert_close(log_omega_T[[80, 48, 16, 81]], torch.tensor([1.0, 0.5, 0.25, 0.0]).double())


@pytest.mark.parametrize("discount_over", ["all", "policy"])
def test_mistake_13_no_matrix_of_t_by_t(discount_over):
    rows, length = 2, 2048
    with LargestTensor() as largest:
        future_value(torch.randn(rows, length), torch.ones(rows, length), gamma=0.99, discount_over=discount_over)
    assert rows * length <= largest.numel < 2 * rows * length


@pytest.mark.parametrize("discount_over", ["all", "policy"])
def test_longest_rollout(discount_over):
    length = 131_072
    log_ratio_BT = torch.zeros(1, length)
    log_ratio_BT[0, -1] = 1.0
    omega_BT = future_value(log_ratio_BT, torch.ones(1, length), gamma=0.9999, discount_over=discount_over)
    expected = 0.9999 ** torch.arange(length - 1, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(omega_BT[0].double(), expected.exp(), rtol=1e-6, atol=0)


def test_clip_future_value():
    assert clip_future_value(torch.tensor([[0.5, 2.0]]), (1.0, 1.0)).tolist() == [[1.0, 1.0]]
    omega_BT = torch.tensor([[0.5, 1.1, 3.0]])
    torch.testing.assert_close(clip_future_value(omega_BT), torch.tensor([[1.0, 1.1, 1.2]]))
    torch.testing.assert_close(clip_future_value(omega_BT, (0.8, 1.2)), torch.tensor([[0.8, 1.1, 1.2]]))
    for bad in ((1.2, 1.0), (math.nan, 1.2)):
        with pytest.raises(ValueError, match="clip must be"):
            clip_future_value(omega_BT, bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_ratio_BT": torch.zeros(3)}, "log_ratio_BT must have two dimensions"),
        ({"log_ratio_BT": torch.zeros(2, 3, dtype=torch.long)}, "log_ratio_BT must be a floating-point"),
        ({"mask_BT": torch.ones(2, 4)}, r"mask_BT has shape \(2, 4\)"),
        ({"mask_BT": torch.tensor([[1, 1, -1], [1, 1, 1]])}, "mask_BT .* negative"),
        ({"mask_BT": torch.full((2, 3), math.nan)}, "mask_BT .* NaN"),
        ({"gamma": 0.0}, r"gamma must be in \(0, 1\], got 0.0"),
        ({"gamma": 1.01}, "gamma must be in"),
        ({"gamma": math.nan}, "gamma must be in"),
        ({"discount_over": "tokens"}, "discount_over must be"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    valid = {"log_ratio_BT": torch.zeros(2, 3), "mask_BT": torch.ones(2, 3), "gamma": 0.9}
    future_value(**valid)
    with pytest.raises(ValueError, match=message):
        future_value(**(valid | arguments))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu():
    log_ratio_BT, mask_BT = torch.randn(3, 1000), torch.rand(3, 1000) < 0.8
    for discount_over in ("all", "policy"):
        cpu = future_value(log_ratio_BT, mask_BT, gamma=0.99, discount_over=discount_over)
        cuda = future_value(log_ratio_BT.cuda(), mask_BT.cuda(), gamma=0.99, discount_over=discount_over)
        torch.testing.assert_close(cuda.cpu(), cpu)
