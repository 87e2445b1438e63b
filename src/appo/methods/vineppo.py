"""VinePPO (arXiv 2410.01679): Monte-Carlo values at the turns' starts credit the steps between them.

A step is a turn; the value of its start is the mean reward of the rollouts that began there, written by the policy
that wrote the step. Initial rollouts carry loss.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from appo.algorithm.group_scores import check_vector
from appo.methods.base import EXPAND_STREAM, TreeMethod, TreeOptions, Writer
from appo.methods.turns import spread
from appo.rollout.metrics import mean
from appo.rollout.scoring import Scores
from appo.rollout.tree import BranchPoint, RolloutTree

# Shapes: R rollouts of a task, S steps (turns) of one rollout, T completion tokens.


def vine_advantage(values_S: Tensor, reward: float) -> Tensor:
    """VinePPO (arXiv 2410.01679, Section 4): `V(s_{t+1}) - V(s_t)`, undiscounted; after the last step, the reward.

    Args:
        values_S: value of the state in which each step starts, the mean reward of rollouts from there; float32 or
            float64. NaN: no value; the step is merged with the one before it, and all steps of a merged span have
            the span's advantage.
        reward: the rollout's own.

    Returns:
        (S,) in the dtype of `values_S`, without gradient.

    Raises:
        ValueError: a wrong shape or dtype, no steps, no value for the first step, an infinite value or reward.
    """
    check_vector("values_S", values_S, finite=False)
    if len(values_S) == 0 or values_S[0].isnan():
        raise ValueError("values_S must begin with the value of the first state, which no earlier step can replace.")
    if values_S.isinf().any() or not math.isfinite(reward):
        raise ValueError("values_S and reward must not be infinite, nor reward NaN.")
    present_S = ~values_S.isnan()
    start_S = values_S.detach().double()[present_S]
    end_S = torch.cat([start_S[1:], start_S.new_tensor([reward])])
    return (end_S - start_S)[present_S.cumsum(0) - 1].to(values_S.dtype)


def vine_credit(tree: RolloutTree, length: int) -> Tensor:
    """Advantages (R, T) of a task's initial rollouts; 0 for one that no reward function scored."""
    # From the prompt have begun the initial rollouts, and the branches of those that called no tool.
    first = mean(rollout.reward for rollout in tree.rollouts if not rollout.branch_position)
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


@dataclass
class VinePPOOptions(TreeOptions):
    """Few rollouts with many Monte-Carlo ones each."""

    num_initial_rollouts: int = field(default=2, metadata={"help": "N: rollouts per task that carry loss."})
    num_branch_points: int = field(default=7, metadata={"help": "Monte-Carlo rollouts of each, dealt out over turns."})


class VinePPO(TreeMethod):
    """Values by Monte Carlo."""

    Options = VinePPOOptions

    def expand(self, trees: list[RolloutTree], writer: Writer) -> list[RolloutTree]:
        points = []
        for tree in trees:
            for index, rollout in enumerate(tree.initial):
                nodes = [p for p in rollout.answered_turns() if p < len(rollout.completion_ids)] or [0]
                count = self.options.num_branch_points
                points += [BranchPoint(tree, index, nodes[i % len(nodes)]) for i in range(count)]
        writer.branch(trees, points, EXPAND_STREAM)
        return trees

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        return torch.cat([vine_credit(tree, scores.length) for tree in trees])
