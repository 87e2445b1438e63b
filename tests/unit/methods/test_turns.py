"""Turns by position: where one starts and ends, what it answers, and numbers spread over them."""

import pytest
import torch
from method_parts import rollout_with_turns

from appo.methods.turns import result_at, spread, turn_end
from appo.rollout.types import ToolCall

LENGTH = 7


def test_credits_are_spread_from_each_turns_start_to_the_next():
    rollouts = [rollout_with_turns(["a"]), rollout_with_turns(["a"])]
    expected = torch.tensor([[1.0] * 4 + [2.0] * 3, [0.0] * LENGTH])
    assert torch.equal(spread(rollouts, [[1.0, 2.0], None], LENGTH), expected)


def test_a_rollout_that_ends_with_a_result_has_a_last_turn_of_padding():
    rollout = rollout_with_turns(["a"], last=0)
    assert spread([rollout], [[1.0, 2.0]], 5).tolist() == [[1.0] * 4 + [2.0]]


@pytest.mark.parametrize("credits", [[[1.0, 2.0]], [[1.0, 2.0], [1.0]], [[1.0, 2.0], [1.0, 2.0, 3.0]]])
def test_credits_of_another_number_are_refused(credits):
    with pytest.raises(ValueError, match="zip"):
        spread([rollout_with_turns(["a"]), rollout_with_turns(["a"])], credits, LENGTH)


def test_results_and_turns_are_found_by_position():
    rollout = rollout_with_turns(["same"])
    rollout.tool_calls.append(ToolCall("search", "y", 1, 2, "more", None, 2, 4))
    assert (result_at(rollout, 4), result_at(rollout, 3)) == ("same more", "")
    assert [turn_end(rollout, start) for start in (0, 2, 4)] == [2, 6, 6]
