"""Methods that know the truth, for what an idea could gain at most; and RAFT with branches from a chosen place.

    method: appo.research.ceilings:KnownBlame         RAFT, and less of exactly the wrong decisions of failed rollouts
    method: appo.research.ceilings:KnownAdvantages    RAFT, with the exact Q - V at every decision of every rollout
    method: appo.research.ceilings:BranchedRAFT       `appo_rescue` without a contrast, also from the first mistake

The first two, and the last one's `start: wrong`, need a task with a `judge`, such as kinship and planning;
docs/study.md has what came of them. Left out on purpose: anything to train with. What cannot win when it knows the
truth needs no approximation.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from appo.methods.appo_rescue import STARTS, Rescue, RescueOptions, own_tokens
from appo.methods.base import MethodOptions, Needs, Writer
from appo.methods.raft import RAFT
from appo.rollout.decisions import Decision
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: B rollouts that carry loss, T completion tokens.


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
        rewards_B = torch.cat([rewards_of(tree.initial) for tree in trees])
        failed_B = (rewards_B < self.args.success_reward).tolist()  # NaN, not scored, is no failure
        for row, decisions in enumerate(self.judged(trees)):
            if failed_B[row]:
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
class BranchedRAFTOptions(RescueOptions):
    """`appo_rescue`'s, with one start more, and no contrast by default."""

    start: str = field(
        default="random",
        metadata={"help": "As appo_rescue's, or at a rollout's first wrong decision ('wrong'; needs a judge)."},
    )
    contrast: float = field(default=0.0, metadata={"help": "As appo_rescue's."})

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**RescueOptions.choices, "start": (*STARTS, "wrong")}


class BranchedRAFT(Rescue):
    """Branches of failed rollouts, from where the truth says that they went wrong."""

    Options = BranchedRAFTOptions

    @property
    def needs(self) -> Needs:
        return replace(super().needs, judge=self.options.start == "wrong")

    def candidates(self, failed: list[tuple[RolloutTree, int]], writer: Writer) -> list[list[int]]:
        if self.options.start != "wrong":
            return super().candidates(failed, writer)
        assert self.judge is not None
        judged = [self.judge(tree.row, tree.rollouts[index], 1.0) for tree, index in failed]
        wrong = [[decision.position for decision in decisions if not decision.right] for decisions in judged]
        # A failure without a wrong decision miscopied something, anywhere.
        own = own_tokens([tree.rollouts[index] for tree, index in failed])
        return [found[:1] or places for found, places in zip(wrong, own, strict=True)]
