"""Turns of a rollout: what methods that credit steps have to know of them.

Left out on purpose: values and advantages of steps, which are each method's own.
"""

from itertools import pairwise

import torch

from appo.rollout.types import Rollout

# Shapes: R rollouts of a task, T completion tokens.


def spread(rollouts: list[Rollout], credits: list[list[float] | None], length: int) -> torch.Tensor:
    """Advantages (R, T) from one number per turn; None: 0 everywhere."""
    advantages_RT = torch.zeros(len(rollouts), length)
    for row, (rollout, values) in enumerate(zip(rollouts, credits, strict=True)):
        starts = [0, *rollout.answered_turns(), length]
        values = [0.0] * (len(starts) - 1) if values is None else values
        for value, (start, end) in zip(values, pairwise(starts), strict=True):
            advantages_RT[row, start:end] = value
    return advantages_RT


def result_at(rollout: Rollout, end: int) -> str:
    """The text of the results that end at a position."""
    return " ".join(call.result for call in rollout.tool_calls if call.result_end == end)


def turn_end(rollout: Rollout, start: int) -> int:
    """Position after the last policy token of the turn that starts at `start`."""
    ends = [call.result_start for call in rollout.tool_calls if call.result_start > start]
    return min(ends, default=len(rollout.completion_ids))
