"""Methods that know the truth, for what an idea could gain at most; and RAFT with branches from a chosen place.

    method: appo.research.ceilings:KnownBlame         RAFT, and less of exactly the wrong decisions of failed rollouts
    method: appo.research.ceilings:KnownAdvantages    RAFT, with the exact Q - V at every decision of every rollout
    method: appo.research.ceilings:BranchedRAFT       RAFT whose branches start in failed rollouts; `start` says where

All but `start: random`, `late` and `root` need a task with a `judge`, such as kinship and planning; `docs/study.md`
has what came of them. Left out on purpose: anything to train with. What cannot win when it knows the truth needs no
approximation.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from appo.methods.base import EXPAND_STREAM, MethodOptions, Needs, TreeMethod, TreeOptions, Writer
from appo.methods.raft import RAFT
from appo.rollout.decisions import Decision
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import BranchPoint, RolloutTree
from appo.rollout.types import Rollout

# Shapes: B rollouts that carry loss, T completion tokens.

STARTS = ("wrong", "random", "late", "root")
LATE = 0.5  # `late` starts in the second half of the policy's tokens


class _Judged(RAFT):
    """RAFT with a judge at hand."""

    @property
    def needs(self) -> Needs:
        return Needs(collisions=self.weighs_forks, skips_idle=True, judge=True)

    def judged(self, trees: list[RolloutTree]) -> list[list[Decision]]:
        """The decisions of each initial rollout, by the share of right ones among all of them."""
        assert self.judge is not None
        pairs = [(tree.row, rollout) for tree in trees for rollout in tree.initial]
        right = [decision.right for pair in pairs for decision in self.judge(*pair, 1.0)]
        # A decision more on either side: the chance is never 0 or 1.
        skill = (sum(right) + 1) / (len(right) + 2)
        return [self.judge(*pair, skill) for pair in pairs]


@dataclass
class KnownBlameOptions(MethodOptions):
    """RAFT's options and one more."""

    blame: float = field(default=1.0, metadata={"help": "How much is taken from a wrong decision of a failure."})

    least: ClassVar[dict[str, float]] = {**MethodOptions.least, "blame": 0}


class KnownBlame(_Judged):
    """RAFT's 1 for all tokens of a success, and `-blame` at the wrong decisions of failed rollouts."""

    Options = KnownBlameOptions

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> Tensor:
        advantages_BT = super().base_advantages(trees, scores).clone()
        for row, decisions in enumerate(self.judged(trees)):
            if not advantages_BT[row].any():
                wrong = [decision.position for decision in decisions if not decision.right]
                advantages_BT[row, wrong] = -self.options.blame
        return advantages_BT


@dataclass
class KnownAdvantagesOptions(MethodOptions):
    """RAFT's options and one more."""

    scale: float = field(default=1.0, metadata={"help": "What Q - V is multiplied with."})

    least: ClassVar[dict[str, float]] = {**MethodOptions.least, "scale": 0}


class KnownAdvantages(_Judged):
    """`scale * (Q - V)` at the decisions of all rollouts; elsewhere RAFT's, so that what is no decision is held."""

    Options = KnownAdvantagesOptions

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> Tensor:
        advantages_BT = super().base_advantages(trees, scores).clone()
        for row, decisions in enumerate(self.judged(trees)):
            for decision in decisions:
                advantages_BT[row, decision.position] = self.options.scale * decision.advantage
        return advantages_BT


@dataclass
class BranchedRAFTOptions(TreeOptions):
    """A fixed number of branches per task on average, in failed rollouts alone."""

    num_initial_rollouts: int = field(default=5, metadata={"help": "N: rollouts per task that are written first."})
    num_branch_points: int = field(default=1, metadata={"help": "B: branches per initial rollout, on average."})
    start: str = field(
        default="random",
        metadata={
            "help": "Where a branch of a failed rollout starts: at its first wrong decision ('wrong'; needs a judge), "
            "at any token ('random') or one of its second half ('late'), or at its first one ('root')."
        },
    )
    contrast: float = field(
        default=0.0, metadata={"help": "What is taken from the token of a failure in whose place a branch succeeded."}
    )

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**TreeOptions.choices, "start": STARTS}
    least: ClassVar[dict[str, float]] = {**TreeOptions.least, "contrast": 0}


class BranchedRAFT(TreeMethod):
    """RAFT over a tree: the branches' successes are trained on too, and a token that successes share once."""

    Options = BranchedRAFTOptions

    @property
    def needs(self) -> Needs:
        return Needs(
            trains="all",
            shared_tokens=True,
            skips_idle=True,
            collisions=self.weighs_forks,
            judge=self.options.start == "wrong",
            one_process=True,
        )

    def expand(self, trees: list[RolloutTree], writer: Writer) -> list[RolloutTree]:
        generator = writer.generator(EXPAND_STREAM)
        failed = [
            (tree, index)
            for tree in trees
            for index, rollout in enumerate(tree.initial)
            if sum(rollout.policy_mask) and not self.succeeds(rollout)
        ]
        budget = len(trees) * self.num_initial * self.options.num_branch_points
        if failed:
            # Each failure in turn, in random order, until the budget is spent.
            order = torch.randperm(len(failed), generator=generator).tolist()
            chosen = sorted(order[i % len(order)] for i in range(min(budget, 4 * len(order))))
            points = [self.start_in(*failed[place], generator=generator) for place in chosen]
        else:
            points = []
        writer.branch(trees, points, EXPAND_STREAM)
        return trees

    def succeeds(self, rollout: Rollout) -> bool:
        return rollout.reward is not None and rollout.reward >= self.args.success_reward

    def start_in(self, tree: RolloutTree, index: int, *, generator: torch.Generator) -> BranchPoint:
        """Where a branch of a failed rollout starts."""
        rollout = tree.rollouts[index]
        own = [i for i, mask in enumerate(rollout.policy_mask) if mask]
        if self.options.start == "wrong":
            assert self.judge is not None
            wrong = [decision.position for decision in self.judge(tree.row, rollout, 1.0) if not decision.right]
            # A failure without a wrong decision miscopied something, anywhere.
            own = wrong[:1] or own
        elif self.options.start == "late":
            own = own[int(LATE * len(own)) :]
        elif self.options.start == "root":
            own = own[:1]
        pick = int(torch.randint(len(own), (), generator=generator))
        return BranchPoint(tree, index, own[pick])

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> Tensor:
        advantages_BT = torch.zeros(scores.batch.policy_mask_BT.shape)
        for tree, rows in zip(trees, scores.rows, strict=True):
            self._credit(tree, advantages_BT[rows[0] : rows[-1] + 1])
        return advantages_BT

    def _credit(self, tree: RolloutTree, advantages_RT: Tensor) -> None:
        """Writes a task's advantages into (R, T)."""
        successes = (rewards_of(tree.rollouts) >= self.args.success_reward).tolist()
        trained = [0] * tree.num_initial  # tokens of each initial rollout that a branch's success has brought
        for index, succeeded in enumerate(successes):
            rollout = tree.rollouts[index]
            if rollout.parent is None:
                advantages_RT[index] = float(succeeded)
                continue
            place = rollout.branch_position or 0
            if not succeeded:
                continue
            # Its parent has failed, so that the prefix is trained on here; once, however many branches share it.
            advantages_RT[index, min(place, trained[rollout.parent]) :] = 1.0
            trained[rollout.parent] = max(place, trained[rollout.parent])
            parent_ids = tree.rollouts[rollout.parent].completion_ids
            if rollout.completion_ids[place : place + 1] != parent_ids[place : place + 1]:
                advantages_RT[rollout.parent, place] = -self.options.contrast
