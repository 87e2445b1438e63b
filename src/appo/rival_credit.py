"""Advantages of rivals from a task's tree: which rollouts and turns belong together, then `algorithm/rivals.py`.

A rollout that no reward function scored has advantage 0 and enters no mean, as in `credit.py`. Left out on purpose:
whatever needs a trainer (`rivals.py`).
"""

from itertools import pairwise

import torch

from appo.algorithm.rivals import step_group_advantage, tree_group_advantage, vine_advantage
from appo.rollout.metrics import mean
from appo.rollout.rewards import among_scored, rewards_of
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout

# Shapes: R rollouts of a task, T completion tokens.


def tree_credit(tree: RolloutTree, length: int) -> torch.Tensor:
    """Tree-GRPO: each initial rollout is the root of a tree."""
    root_R = torch.tensor([i if r.parent is None else tree.root_of(r)[0] for i, r in enumerate(tree.rollouts)])
    return among_scored(tree_group_advantage, rewards_of(tree.rollouts), root_R)[:, None].expand(-1, length)


def step_credit(tree: RolloutTree, length: int) -> torch.Tensor:
    """GiGPO: a step is a turn; its anchor is the tool result that it answers."""
    scored = [rollout for rollout in tree.initial if rollout.reward is not None]
    # None is the first state, which no result is, not even an empty one.
    anchors = [[None, *(result_at(rollout, start) for start in rollout.answered_turns())] for rollout in scored]
    credits = iter(step_group_advantage(rewards_of(scored), anchors))
    return spread(tree.initial, [None if r.reward is None else next(credits) for r in tree.initial], length)


def vine_credit(tree: RolloutTree, length: int) -> torch.Tensor:
    """VinePPO: a step is a turn; the value of its start is the mean reward of the rollouts that began there."""
    first = mean(rollout.reward for rollout in tree.initial)
    credits: list[list[float] | None] = []
    for index, rollout in enumerate(tree.initial):
        if rollout.reward is None:
            credits.append(None)
            continue
        values = [first]
        for start in rollout.answered_turns():
            values.append(mean(b.reward for b in tree.branches if (b.parent, b.branch_position) == (index, start)))
        credits.append(vine_advantage(torch.tensor(values), rollout.reward).tolist())
    return spread(tree.initial, credits, length)


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
