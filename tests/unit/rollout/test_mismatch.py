"""Importance ratios between the trainer and the engine that wrote the tokens."""

import math

import pytest
import torch

from appo.rollout.mismatch import correct

NAN = math.nan
# Ratios 2, 1/2, (a tool's) and, in the second row, 4 and 1; the last token of each carries no loss.
TRAINER_BT = torch.tensor([[math.log(0.4), math.log(0.1), 0.0, -1.0], [math.log(0.8), -0.3, -0.7, -1.0]])
ENGINE_BT = torch.tensor([[math.log(0.2), math.log(0.2), NAN, -9.0], [math.log(0.2), -0.3, NAN, NAN]])
MASK_BT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])


def ratios(mode, clip_min=None, clip_max=None):
    return correct(TRAINER_BT, ENGINE_BT, MASK_BT, mode=mode, clip_min=clip_min, clip_max=clip_max)


def test_ratios_of_tokens_are_bounded_and_1_where_nothing_is_known():
    found = ratios("token_truncate", clip_max=2.5)
    torch.testing.assert_close(found.ratio_BU, torch.tensor([[2.0, 0.5, 1.0, 1.0], [2.5, 1.0, 1.0, 1.0]]))


def test_masked_ratios_are_0_outside_the_bounds():
    found = ratios("token_mask", clip_min=0.75, clip_max=2.5)
    torch.testing.assert_close(found.ratio_BU, torch.tensor([[2.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]]))


def test_ratios_of_rollouts_are_the_products_of_their_tokens():
    torch.testing.assert_close(ratios("sequence_truncate", clip_max=3.0).ratio_BU, torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(ratios("sequence_mask", clip_max=3.0).ratio_BU, torch.tensor([[1.0], [0.0]]))


def test_a_small_difference_per_token_makes_whole_long_rollouts_weightless_but_not_their_tokens():
    logps_BT = torch.full((1, 4096), -1.0)
    mask_BT = torch.ones(1, 4096)
    options = {"clip_min": None, "clip_max": 3.0}
    assert correct(logps_BT + 0.01, logps_BT, mask_BT, mode="sequence_mask", **options).ratio_BU.item() == 0.0
    tokens = correct(logps_BT + 0.01, logps_BT, mask_BT, mode="token_truncate", **options).ratio_BU
    torch.testing.assert_close(tokens, torch.full((1, 4096), math.exp(0.01)), rtol=1e-5, atol=0.0)


def test_metrics_look_at_tokens_that_carry_loss():
    logged = ratios("token_truncate", clip_max=2.5).metrics()
    # |log 2|, |log 1/2|, log 4 and 0; the fifth is not known.
    assert logged["sampling/sampling_logp_difference/mean"] == pytest.approx(math.log(2))
    assert logged["sampling/sampling_logp_difference/max"] == pytest.approx(math.log(4))
    assert logged["sampling/importance_sampling_ratio/mean"] == pytest.approx((2 + 0.5 + 2.5 + 1 + 1) / 5)
    assert logged["sampling/importance_sampling_ratio/clipped"] == pytest.approx(1 / 5)


def test_metrics_of_no_tokens_are_nan():
    found = correct(TRAINER_BT, ENGINE_BT, 0 * MASK_BT, mode="token_truncate", clip_min=None, clip_max=2.0)
    assert all(math.isnan(value) for value in found.metrics().values())
