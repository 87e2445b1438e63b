"""GiGPO (arXiv 2505.10978): plain rollouts; advantages of episodes, and of steps that start from the same state.

A step is a turn; its anchor state is the tool result that it answers.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from appo.algorithm.group_scores import check_vector, group_scores, one_group
from appo.methods.base import Method
from appo.methods.turns import result_at, spread
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: R rollouts of a task, T completion tokens.


def step_group_advantage(
    rewards_R: Tensor,
    anchors: Sequence[Sequence[Hashable]],
    *,
    gamma: float = 0.95,
    weight: float = 1.0,
    normalise: bool = True,
    eps: float = 1e-6,
) -> list[list[float]]:
    """GiGPO (arXiv 2505.10978, Section 4): `A_E(rollout) + weight * A_S(step)` for each step.

    A_E is the rollout's reward relative to the task's rollouts. A_S is the step's discounted return relative to all
    steps of the task that start in the same anchor state; a step alone in its state has 0. A rollout's reward comes
    with its last step, so that the return is `gamma ** steps_left * reward`, and the last step has none left.

    Args:
        rewards_R: finite, float32 or float64.
        anchors: for each rollout the state in which each of its steps starts.
        gamma: discount of one step, in [0, 1].
        weight: the paper's omega.
        normalise: divide both terms by their group's standard deviation (F_norm = std); False: by 1 (F_norm = 1).
        eps: a group whose standard deviation is not above it has the term 0, if `normalise`.

    Returns:
        For each rollout the advantage of each step.

    Raises:
        ValueError: a wrong shape or dtype, a reward that is NaN or infinite, another number of anchor lists than
            rewards, `gamma` out of range.
    """
    check_vector("rewards_R", rewards_R)
    if len(anchors) != len(rewards_R):
        raise ValueError(f"anchors has {len(anchors)} rollouts, but rewards_R has {len(rewards_R)}.")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}.")
    limit = eps if normalise else None
    episode = group_scores(rewards_R, one_group(rewards_R), limit).tolist()
    states: dict[Hashable, int] = {}
    group = [states.setdefault(state, len(states)) for row in anchors for state in row]
    rows = list(zip(rewards_R.tolist(), anchors, strict=True))
    returns = [gamma**left * reward for reward, row in rows for left in reversed(range(len(row)))]
    step_scores = iter(group_scores(torch.tensor(returns).double(), torch.tensor(group).long(), limit).tolist())
    return [[a + weight * next(step_scores) for _ in row] for a, row in zip(episode, anchors, strict=True)]


def step_credit(tree: RolloutTree, length: int) -> Tensor:
    """Advantages (R, T) of a task's rollouts; one that no reward function scored has 0 and enters no mean."""
    scored = [rollout for rollout in tree.initial if rollout.reward is not None]
    # None is the first state, which no result is, not even an empty one.
    anchors = [[None, *(result_at(rollout, start) for start in rollout.answered_turns())] for rollout in scored]
    credits = iter(step_group_advantage(rewards_of(scored), anchors))
    return spread(tree.initial, [None if r.reward is None else next(credits) for r in tree.initial], length)


class GiGPO(Method):
    """Advantages of turns."""

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        return torch.cat([step_credit(tree, scores.length) for tree in trees])
