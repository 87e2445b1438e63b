"""What an evaluation comes to, from the outcomes of its questions."""

import math

import pytest

from appo.evaluation.success import _Outcome, _summary, wilson_interval


def outcome(index, reward):
    return _Outcome(index, reward is not None and reward >= 1, reward, 2, 1, 10 * (index + 1), index == 0)


def test_a_rollout_without_a_reward_is_in_no_share_of_success():
    found = _summary([outcome(0, 1.0), outcome(1, None), outcome(2, 0.0), outcome(3, 0.5)])
    assert (found.questions, found.unscored) == (4, 1)
    assert found.success == pytest.approx(1 / 3)
    assert (found.low, found.high) == pytest.approx(wilson_interval(1, 3))
    assert found.reward == pytest.approx(0.5)
    assert (found.tool_calls, found.tool_failures, found.tokens, found.truncated) == (2, 1, 25, 0.25)
    assert str(found).endswith("of 4 questions (1 without a reward left out)")


def test_nothing_scored_says_nothing_of_success():
    found = _summary([outcome(0, None)])
    assert math.isnan(found.success) and math.isnan(found.reward)
    assert (found.low, found.high) == (0.0, 1.0)
