"""What an evaluation comes to, from the outcomes of its questions."""

import math

import pytest

from appo.evaluation.success import _Outcome, _summary, wilson_interval
from appo.rollout.zeros import Ending


def outcome(index, reward):
    ending = Ending("length" if index == 0 else "stop", 10 * (index + 1), [None, "timeout"])
    return _Outcome(index, reward is not None and reward >= 1, reward, ending)


def test_a_rollout_without_a_reward_is_in_no_share_of_success():
    found = _summary([outcome(0, 1.0), outcome(1, None), outcome(2, 0.0), outcome(3, 0.5)], with_tools=True)
    assert (found.questions, found.unscored) == (4, 1)
    assert found.success == pytest.approx(1 / 3)
    assert (found.low, found.high) == pytest.approx(wilson_interval(1, 3))
    assert found.reward == pytest.approx(0.5)
    assert (found.tool_calls, found.tool_failures, found.tokens, found.truncated) == (2, 1, 25, 0.25)
    assert str(found).endswith("of 4 questions (1 without a reward left out)")


def test_nothing_scored_says_nothing_of_success():
    found = _summary([outcome(0, None)], with_tools=True)
    assert math.isnan(found.success) and math.isnan(found.reward)
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_success_of_zero_says_what_is_likely_wrong():
    cut = [_Outcome(index, False, 0.0, Ending("length", 64, [])) for index in range(4)]
    found = _summary(cut, with_tools=True)
    assert str(found).endswith("of 4 questions (all 4 samples reached the token limit)")
    assert _summary([*cut, outcome(4, 1.0)], with_tools=True).why_zero is None
