"""Controls of a branching claim: methods that look at the truth, or pay more than a method may. Not for training.

    method: appo.research.controls:OracleBranching     APPO's branches start at true decisions
    method: appo.research.controls:OutcomeVariance     .. where continuations differ most in reward
    method: appo.research.controls:DecisionWeights     GRPO, with true decisions in full and all else by `weight_floor`

Oracles need a task with `decision_positions`, such as the kinship testbeds.
"""

import torch
from torch import Tensor

from appo.errors import UserError
from appo.methods.appo import APPO
from appo.methods.base import EXPAND_STREAM, Needs, Writer
from appo.methods.grpo import GRPO
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import BranchPoint, RolloutTree

# Shapes: B rollouts that carry loss, N initial rollouts of a task, T completion tokens.

VARIANCE_CANDIDATES, VARIANCE_SAMPLES = 6, 3


class _Control(APPO):
    """APPO whose tokens are ranked by something that no method may know: it stands in entropy's place."""

    def check(self) -> None:
        super().check()
        if self.options.branching != "entropy":
            raise UserError(
                f"a control takes the place of entropy at APPO's branch points: set branching to 'entropy' in "
                f"method_args, got {self.options.branching!r}."
            )

    def branch(self, trees: list[RolloutTree], scores: Scores, writer: Writer) -> None:
        current = type(scores.current)(scores.current.logps_BT, self.known_scores(trees, scores, writer))
        super().branch(trees, Scores(scores.batch, scores.behaviour, current, scores.sizes), writer)

    def known_scores(self, trees: list[RolloutTree], scores: Scores, writer: Writer) -> Tensor:
        """What ranks the tokens: (B, T)."""
        raise NotImplementedError


class OracleBranching(_Control):
    """1 at true decisions, and a random number below it everywhere, so that equals come in random order."""

    @property
    def needs(self) -> Needs:
        return Needs(current_scores=True, collisions=self.weighs_forks, decisions=True)

    def known_scores(self, trees: list[RolloutTree], scores: Scores, writer: Writer) -> Tensor:
        assert self.decisions is not None
        entropies_BT = scores.current.entropies_BT
        scores_BT = torch.rand(entropies_BT.shape, generator=writer.generator(EXPAND_STREAM))
        for row, rollout in enumerate(rollout for tree in trees for rollout in tree.initial):
            scores_BT[row, self.decisions(rollout)] += 1.0
        return scores_BT.to(entropies_BT.device)


class OutcomeVariance(_Control):
    """Variance of the rewards of a few continuations from a few evenly spaced positions; 0 elsewhere.

    The continuations are thrown away and their tokens are not counted: a control, no method.
    """

    def known_scores(self, trees: list[RolloutTree], scores: Scores, writer: Writer) -> Tensor:
        for tree in trees:
            tree.drop_branches()
        scores_BT = torch.zeros_like(scores.current.entropies_BT)
        pairs = [(tree, index) for tree in trees for index in range(tree.num_initial)]
        points, places = [], []
        for row, (tree, index) in enumerate(pairs):
            own = [i for i, mask in enumerate(tree.rollouts[index].policy_mask) if mask]
            candidates = min(VARIANCE_CANDIDATES, len(own))
            for k in range(candidates):
                position = own[k * len(own) // candidates]
                points += [BranchPoint(tree, index, position)] * VARIANCE_SAMPLES
                places += [(row, position)]
        writer.branch(trees, points, EXPAND_STREAM, counted=False)
        for row, position in places:
            tree, index = pairs[row]
            here = [b for b in tree.branches if (b.parent, b.branch_position) == (index, position)]
            rewards = rewards_of(here)  # of fewer, where a state could not be had again
            scored = rewards[~rewards.isnan()]
            scores_BT[row, position] = scored.var(correction=0) if len(scored) else 0.0
        for tree in trees:
            tree.drop_branches()
        return scores_BT


class DecisionWeights(GRPO):
    """GRPO, with the advantage of true decisions in full and that of all other tokens by `weight_floor`."""

    @property
    def needs(self) -> Needs:
        return Needs(decisions=True)

    def check(self) -> None:
        if self.weighs_forks:
            raise UserError("DecisionWeights weighs tokens by itself; leave token_weight at 'uniform'.")

    def factors(self, trees: list[RolloutTree], scores: Scores) -> dict[str, Tensor]:
        assert self.decisions is not None
        weights_BT = torch.full_like(scores.behaviour.logps_BT, self.options.weight_floor)
        for row, rollout in enumerate(rollout for tree in trees for rollout in tree.initial):
            weights_BT[row, self.decisions(rollout)] = 1.0
        return {"token_weight": weights_BT}
