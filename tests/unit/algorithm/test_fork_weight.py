"""Fork weight by hand: p = (0.9, 0.1) has H = 0.32508, sum p^2 = 0.82, so a gap of 0.12663 and a weight of 0.41169."""

import math

import pytest
import torch

from appo.algorithm import fork_weight


def measures(*rows):
    """(H, log sum p^2) of distributions, each of shape (1, len(rows))."""
    entropy = [-sum(p * math.log(p) for p in row if p) for row in rows]
    collision = [math.log(sum(p * p for p in row)) for row in rows]
    return torch.tensor([entropy]), torch.tensor([collision])


def test_nine_to_one_by_hand():
    weight = fork_weight(*measures([0.9, 0.1]), floor=0.0)
    torch.testing.assert_close(weight, torch.tensor([[0.41169]]), atol=1e-5, rtol=0)


def test_the_floor_is_added_to_what_is_left_of_1():
    weight = fork_weight(*measures([0.9, 0.1]), floor=0.5)
    torch.testing.assert_close(weight, torch.tensor([[0.5 + 0.5 * 0.41169]]), atol=1e-5, rtol=0)


def test_a_floor_of_1_weighs_all_tokens_alike():
    assert fork_weight(*measures([0.9, 0.1], [1.0]), floor=1.0).tolist() == [[1.0, 1.0]]


def test_certain_and_indifferent_tokens_get_the_floor():
    weight = fork_weight(*measures([1.0], [0.25] * 4, [1 / 24] * 24), floor=0.1)
    torch.testing.assert_close(weight, torch.full((1, 3), 0.1), atol=1e-5, rtol=0)


def test_more_alternatives_count_more_and_none_more_than_1():
    # 0.9 and 5 x 0.02: H = 0.48603, sum p^2 = 0.812, so 4.5 x 0.27777 x 0.61507; 0.85 and 100 x 0.0015 is over 1
    weight = fork_weight(*measures([0.9, *[0.02] * 5], [0.85, *[0.0015] * 100]), floor=0.0)
    torch.testing.assert_close(weight, torch.tensor([[0.76882, 1.0]]), atol=1e-5, rtol=0)


def test_rounding_that_puts_h2_above_h_does_not_undercut_the_floor():
    weight = fork_weight(torch.tensor([[1.0]]), torch.tensor([[-1.001]]), floor=0.2)
    assert weight.item() == pytest.approx(0.2)


def test_no_gradient_passes():
    entropy, collision = (value.requires_grad_() for value in measures([0.9, 0.1]))
    assert not fork_weight(entropy, collision, floor=0.1).requires_grad


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_outside_0_to_1_is_named(floor):
    with pytest.raises(ValueError, match=r"floor must be in \[0, 1\]"):
        fork_weight(*measures([0.9, 0.1]), floor=floor)


def test_shapes_have_to_agree():
    with pytest.raises(ValueError, match="log_sum_sq_probs_BT has shape"):
        fork_weight(torch.zeros(1, 2), torch.zeros(1, 3), floor=0.1)
