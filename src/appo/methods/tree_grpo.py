"""Tree-GRPO (arXiv 2509.21240): the writing policy branches at random turns; all rollouts carry loss.

Each initial rollout is the root of a tree; advantages compare within a tree and between a task's trees.
"""

import torch
from torch import Tensor

from appo.algorithm.group_scores import check_index, check_vector, group_scores, one_group
from appo.methods.base import EXPAND_STREAM, Needs, TreeMethod, Writer
from appo.rollout.rewards import among_scored, rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import BranchPoint, RolloutTree

# Shapes: R rollouts of a task, B rollouts that carry loss, T completion tokens.


def tree_group_advantage(rewards_R: Tensor, tree_R: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Tree-GRPO (arXiv 2509.21240, Section 3): intra-tree plus inter-tree advantage, a sum and not a mean.

    The reward normalised against the rollouts of its tree, plus the reward normalised against all of the task.

    Args:
        rewards_R: finite, float32 or float64.
        tree_R: integer, the tree of each rollout.
        eps: a group whose standard deviation is not above it has the term 0.

    Returns:
        (R,) in the dtype of `rewards_R`, without gradient.

    Raises:
        ValueError: wrong shapes or dtypes, a reward that is NaN or infinite.
    """
    check_vector("rewards_R", rewards_R)
    check_index("tree_R", tree_R, "rewards_R", rewards_R)
    intra_R = group_scores(rewards_R, tree_R, eps)
    return (intra_R + group_scores(rewards_R, one_group(rewards_R), eps)).to(rewards_R.dtype)


def tree_credit(tree: RolloutTree) -> Tensor:
    """Advantages (R,) of a task's rollouts; one that no reward function scored has 0 and enters no mean."""
    root_R = torch.tensor([i if r.parent is None else tree.root_of(r)[0] for i, r in enumerate(tree.rollouts)])
    return among_scored(tree_group_advantage, rewards_of(tree.rollouts), root_R)


class TreeGRPO(TreeMethod):
    """B random nodes of each initial rollout are branched at: the starts of its turns."""

    @property
    def needs(self) -> Needs:
        # Every rollout is a sample of its own, with the tokens that it shares.
        return Needs(trains="all", shared_tokens=True, collisions=self.weighs_forks)

    def expand(self, trees: list[RolloutTree], writer: Writer) -> list[RolloutTree]:
        generator = writer.generator(EXPAND_STREAM)
        points = []
        for tree in trees:
            for index, rollout in enumerate(tree.initial):
                nodes = [0, *(p for p in rollout.answered_turns() if p < len(rollout.completion_ids))]
                picks = torch.randint(len(nodes), (self.options.num_branch_points,), generator=generator).tolist()
                points += [BranchPoint(tree, index, nodes[pick]) for pick in picks]
        writer.branch(trees, points, EXPAND_STREAM)
        return trees

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        return torch.cat([tree_credit(tree) for tree in trees])[:, None].expand(-1, scores.length)
