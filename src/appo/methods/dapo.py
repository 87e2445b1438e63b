"""DAPO (arXiv 2503.14476): other tasks replace those whose rewards are all equal ("dynamic sampling").

Advantages are GRPO's; the loss is TRL's `loss_type: dapo`, and clip-higher is `epsilon_high`. Left out on purpose:
overlong reward shaping, which is a reward function of TRL's.
"""

import torch
from torch import Tensor

from appo.algorithm._checks import check_matrices
from appo.algorithm.group_scores import check_finite
from appo.errors import UserError
from appo.methods.base import Needs, Writer
from appo.methods.grpo import GRPO
from appo.rollout.rewards import rewards_of
from appo.rollout.tree import RolloutTree

# Shapes: G tasks, N rollouts of a task.

SAMPLING_STREAM = 30_000
MOST_EXTRA_ROUNDS = 3  # afterwards groups without spread are taken as they are


def mixed_groups(rewards_GN: Tensor, *, eps: float = 1e-6) -> Tensor:
    """DAPO's dynamic sampling (arXiv 2503.14476, Section 3.2): which tasks are kept, as their rewards differ.

    Args:
        rewards_GN: float32 or float64; NaN: not scored, and left out. The paper's are right or wrong.
        eps: rewards are all equal if no two are further apart than this.

    Returns:
        bool (G,).

    Raises:
        ValueError: a wrong shape or dtype, an infinite reward.
    """
    check_matrices(rewards_GN=rewards_GN)
    check_finite("rewards_GN", rewards_GN, missing=True)
    rewards_GN = rewards_GN.detach().double()
    distance_GNN = rewards_GN.unsqueeze(2) - rewards_GN.unsqueeze(1)
    return (distance_GNN > eps).flatten(1).any(dim=1)  # never true of NaN


class DAPO(GRPO):
    """Dynamic sampling."""

    @property
    def needs(self) -> Needs:
        return Needs(collisions=self.weighs_forks, one_process=True)

    def check(self) -> None:
        if self.args.loss_type != "dapo":
            raise UserError(
                f"method = 'dapo' means its loss too, got loss_type = {self.args.loss_type!r}; set it to 'dapo'."
            )

    def expand(self, trees: list[RolloutTree], writer: Writer) -> list[RolloutTree]:
        wanted = len(trees)
        kept: list[RolloutTree] = []
        spare: list[RolloutTree] = []
        for extra in range(MOST_EXTRA_ROUNDS + 1):
            mixed = mixed_groups(torch.stack([rewards_of(tree.initial) for tree in trees])).tolist()
            kept += [tree for tree, keep in zip(trees, mixed, strict=True) if keep]
            spare += [tree for tree, keep in zip(trees, mixed, strict=True) if not keep]
            missing = wanted - len(kept)
            if missing <= 0 or extra == MOST_EXTRA_ROUNDS:
                break
            rows = writer.draw_rows(missing, writer.generator(SAMPLING_STREAM + extra))
            trees = writer.write(rows, self.num_initial, SAMPLING_STREAM + extra)
            for tree in trees:
                tree.id += f".{extra + 1}"  # apart from the tasks that they replace
        return (kept + spare)[:wanted]
