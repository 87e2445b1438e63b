"""GPPO: the clip's size as a factor, against hand-computed numbers and the paper's loss."""

import math

import pytest
import torch
from method_parts import make_method, make_scores, make_tree

from appo.errors import UserError
from appo.methods import Needs
from appo.methods.gppo import gppo_coefficient

NAN = math.nan


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_gppo_hand_computed():
    log_ratio_BT = double([[0.5, 1.0, 1.2, 2.0]]).log().repeat(2, 1)
    advantages_BT = double([[1.0] * 4, [-3.0] * 4])
    expected = double([[0.5, 1.0, 1.2, 1.28], [0.8, 1.0, 1.2, 2.0]])
    torch.testing.assert_close(gppo_coefficient(log_ratio_BT, advantages_BT, low=0.2, high=0.28), expected)


def test_gppo_bounds_may_be_as_wide_and_as_narrow_as_there_are():
    log_ratio_BT, advantages_BT = double([[0.5, 1.5]]).log().repeat(2, 1), double([[1.0] * 2, [-1.0] * 2])
    narrow, wide = (
        gppo_coefficient(log_ratio_BT, advantages_BT, low=low, high=high) for low, high in ((0, 0), (1, 1))
    )
    torch.testing.assert_close(narrow, double([[0.5, 1.0], [1.0, 1.5]]))
    torch.testing.assert_close(wide, double([[0.5, 1.5], [0.5, 1.5]]))


def test_gppo_is_bounded_at_extremes():
    # e^200 is no float32, e^-200 is 0 in it: the clipped sides stay finite and above 0. A = 0 counts as positive.
    log_ratio_BT, advantages_BT = torch.tensor([[200.0, -200.0, 200.0]]), torch.tensor([[2.0, -2.0, 0.0]])
    expected = torch.tensor([[1.3, 0.9, 1.3]])
    torch.testing.assert_close(gppo_coefficient(log_ratio_BT, advantages_BT, low=0.1, high=0.3), expected)


def test_gppo_is_the_gradient_of_the_papers_loss():
    # The paper's surrogate: min(r A, clip A), where a clipped ratio is bound / sg(r) * r.
    generator = torch.Generator().manual_seed(0)
    log_ratio_BT = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    advantages_BT = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.detach().clamp(0.8, 1.28) / ratio_BT.detach() * ratio_BT
    torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT).sum().backward()
    coefficient_BT = gppo_coefficient(log_ratio_BT, advantages_BT, low=0.2, high=0.28)
    torch.testing.assert_close(coefficient_BT * advantages_BT, log_ratio_BT.grad)


def test_gppo_errors():
    one_BT = torch.rand(2, 3)
    with pytest.raises(ValueError, match="advantages_BT has shape"):
        gppo_coefficient(one_BT, one_BT[:1], low=0.2, high=0.2)
    with pytest.raises(ValueError, match=r"low must be in \[0, 1\]"):
        gppo_coefficient(one_BT, one_BT, low=1.5, high=0.2)
    with pytest.raises(ValueError, match="high must be at least 0"):
        gppo_coefficient(one_BT, one_BT, low=0.2, high=NAN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_no_gradient_flows(dtype):
    one_BT = torch.rand(2, 3, dtype=dtype, requires_grad=True)
    result = gppo_coefficient(one_BT, one_BT, low=0.2, high=0.2)
    assert result.dtype == dtype
    assert not result.requires_grad


# ---- credit ----

RATIOS = torch.tensor([[0.5, 1.0, 1.25, 2.0]]).log()


def credited(options=None, **settings):
    """Two rollouts with advantages 1 and -1, and the same ratios."""
    trees = [make_tree([1.0, 0.0])]
    scores = make_scores(trees, log_ratio=RATIOS, entropies=1.0, collisions=-1.0)
    return scores, make_method("gppo", options, **settings).credit(trees, scores)


def test_what_the_clip_leaves_of_the_ratio_is_a_factor_of_the_advantage():
    _, credit = credited()
    expected = torch.tensor([[0.5, 1.0, 1.25, 1.28], [0.8, 1.0, 1.25, 2.0]])
    torch.testing.assert_close(credit.factors["clipped_ratio"], expected)
    torch.testing.assert_close(credit.base_BT, torch.tensor([[1.0] * 4, [-1.0] * 4]))
    torch.testing.assert_close(credit.advantages_BT, expected * torch.tensor([[1.0], [-1.0]]))


def test_without_an_upper_clip_of_its_own_the_lower_one_counts():
    _, credit = credited(epsilon=0.1, epsilon_high=None)
    expected = torch.tensor([[0.5, 1.0, 1.1, 1.1], [0.9, 1.0, 1.25, 2.0]])
    torch.testing.assert_close(credit.factors["clipped_ratio"], expected)


def test_the_loss_sees_a_ratio_of_1():
    scores, credit = credited()
    assert credit.old_logps_BT is scores.current.logps_BT


def test_the_clip_comes_on_top_of_other_factors():
    _, credit = credited({"token_weight": "fork", "weight_floor": 0.5})  # no fork: the floor
    assert list(credit.factors) == ["token_weight", "clipped_ratio"]
    torch.testing.assert_close(credit.advantages_BT[0], torch.tensor([0.25, 0.5, 0.625, 0.64]))


def test_it_needs_the_present_policys_scores():
    assert make_method("gppo").needs == Needs(current_scores=True)


@pytest.mark.parametrize("settings", [{"epsilon": 2.0}, {"epsilon_high": -1.0}])
def test_clips_that_the_equation_does_not_take_are_refused_before_anything_runs(settings):
    with pytest.raises(UserError, match="method = 'gppo' needs epsilon in"):
        make_method("gppo", **settings)


def test_an_upper_clip_of_zero_is_one():
    method = make_method("gppo", epsilon_high=0.0)
    trees = [make_tree([1.0, 0.0])]
    credit = method.credit(trees, make_scores(trees, log_ratio=0.5))
    assert credit.factors["clipped_ratio"][0].tolist() == [1.0] * 4
