"""Branches that rescue failed rollouts, and are trained on where they do: more successes per token than fresh ones.

The writing policy branches once per generation, in failed rollouts alone, by default at tokens where it doubted a
favourite (the fork weight, docs/algorithm.md). A success carries the advantage 1 as in RAFT (`raft.py`), a branch's
with the prefix that it shares with its parent, which is trained on once however many branches share it. The one
negative advantage is a contrast: at the token of the failed rollout in whose place a branch succeeded, unless another
branch succeeded with that token, from further on. docs/study.md
says where this is worth its tokens, and where it is not.

    method: appo_rescue
    num_generations: 10          # 5 rollouts per task first, then up to as many branches, where rollouts failed
    num_iterations: 2

Left out on purpose: branches of rollouts that succeeded, and of branches.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from appo.algorithm import fork_weight
from appo.methods.base import EXPAND_STREAM, HalfFirstMethod, MethodOptions, Needs, Writer
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import BranchPoint, RolloutTree
from appo.rollout.types import Rollout

# Shapes: B rollouts that carry loss, R rollouts of a task, T completion tokens.

STARTS = ("fork", "entropy", "random", "late", "root")
LATE = 0.5  # `late` starts in the second half of the policy's tokens
TOP = 8  # `fork` and `entropy` start at one of so many tokens, those with the most of it
MOST = 4  # branches of a failed rollout, where there are few


def own_tokens(rollouts: list[Rollout]) -> list[list[int]]:
    """The positions of each rollout's policy tokens."""
    return [[i for i, mask in enumerate(rollout.policy_mask) if mask] for rollout in rollouts]


@dataclass
class RescueOptions(MethodOptions):
    """Half of a task's rollouts are written first; the rest are branches, shared out among failed rollouts."""

    num_initial_rollouts: int | None = field(
        default=None, metadata={"help": "N: rollouts per task that are written first; None: half of num_generations."}
    )
    start: str = field(
        default="fork",
        metadata={
            "help": "Where a branch of a failed rollout starts: at one of the eight tokens with the most fork weight "
            "('fork') or entropy ('entropy'), at any ('random'), at one of its second half ('late') or at its first "
            "one ('root')."
        },
    )
    contrast: float = field(
        default=1.0, metadata={"help": "What is taken from the token of a failure in whose place a branch succeeded."}
    )

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**MethodOptions.choices, "start": STARTS}
    least: ClassVar[dict[str, float]] = {**MethodOptions.least, "contrast": 0}


class Rescue(HalfFirstMethod):
    """RAFT whose branches start in failed rollouts; their successes are trained on too."""

    Options = RescueOptions

    @property
    def needs(self) -> Needs:
        return Needs(
            trains="all",
            shared_tokens=True,
            skips_idle=True,
            collisions=self.weighs_forks or self.options.start == "fork",
            one_process=True,
        )

    def expand(self, trees: list[RolloutTree], writer: Writer) -> list[RolloutTree]:
        generator = writer.generator(EXPAND_STREAM)
        failed = [
            (tree, index)
            for tree in trees
            for index, rollout in enumerate(tree.initial)
            if any(rollout.policy_mask) and self.fails(rollout)
        ]
        budget = len(trees) * ((self.args.num_generations or 1) - self.num_initial)
        points = []
        if failed and budget > 0:
            candidates = self.candidates(failed, writer)
            # Each failure in turn, in random order, until the budget is spent.
            order = torch.randperm(len(failed), generator=generator).tolist()
            for place in sorted(order[i % len(order)] for i in range(min(budget, MOST * len(order)))):
                pick = int(torch.randint(len(candidates[place]), (), generator=generator))
                tree, index = failed[place]
                points.append(BranchPoint(tree, index, candidates[place][pick]))
        writer.branch(trees, points, EXPAND_STREAM)
        return trees

    def fails(self, rollout: Rollout) -> bool:
        """Whether it was scored, and too low for a success."""
        return rollout.reward is not None and rollout.reward < self.args.success_reward

    def candidates(self, failed: list[tuple[RolloutTree, int]], writer: Writer) -> list[list[int]]:
        """The positions in each failed rollout from which a branch may start, equally likely."""
        rollouts, start = [tree.rollouts[index] for tree, index in failed], self.options.start
        own = own_tokens(rollouts)
        if start in ("fork", "entropy"):
            _, scores = writer.score(rollouts)
            score_RT = scores.entropies_BT
            if start == "fork":
                assert scores.log_sum_sq_probs_BT is not None
                score_RT = fork_weight(score_RT, scores.log_sum_sq_probs_BT, floor=0.0)
            rows = zip(score_RT.tolist(), own, strict=True)
            return [sorted(places, key=row.__getitem__, reverse=True)[:TOP] for row, places in rows]
        if start == "root":
            return [places[:1] for places in own]
        return [places[int(LATE * len(places)) :] if start == "late" else places for places in own]

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> Tensor:
        advantages_BT = torch.zeros(scores.batch.policy_mask_BT.shape)
        for tree, rows in zip(trees, scores.rows, strict=True):
            self._credit(tree, advantages_BT[rows[0] : rows[-1] + 1])
        return advantages_BT

    def _credit(self, tree: RolloutTree, advantages_RT: Tensor) -> None:
        """Writes a task's advantages into (R, T)."""
        successes = (rewards_of(tree.rollouts) >= self.args.success_reward).tolist()
        trained = [0] * tree.num_initial  # tokens of each initial rollout that a branch's success has brought
        succeeded_at: list[tuple[int, int, int]] = []  # parent, place and index of each branch that succeeded
        for index, succeeded in enumerate(successes):
            rollout = tree.rollouts[index]
            if rollout.parent is None:
                advantages_RT[index] = float(succeeded)
                continue
            place = rollout.branch_position or 0
            if not succeeded:
                continue
            succeeded_at.append((rollout.parent, place, index))
            # Its parent has failed, so that the prefix is trained on here; once, however many branches share it.
            advantages_RT[index, min(place, trained[rollout.parent]) :] = 1.0
            trained[rollout.parent] = max(place, trained[rollout.parent])
        for parent, place, index in succeeded_at:
            drawn, before = (tree.rollouts[i].completion_ids[place : place + 1] for i in (index, parent))
            # A token with which a branch further on succeeded is trained on with it: there it was not at fault.
            if drawn != before and place >= trained[parent]:
                advantages_RT[parent, place] = -self.options.contrast
