"""ARPO (arXiv 2507.19849): the writing policy branches after tool results, the likelier the higher the entropy there.

Turn by turn, as it would be while writing; what is left of the budget becomes fresh rollouts. All rollouts carry loss,
each with its own advantage on all of its tokens (`soft`), or with the mean of those that share a token (`hard`).
"""

import math
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor

from appo.algorithm._checks import check_count
from appo.algorithm.group_scores import check_finite, check_index, check_vector
from appo.errors import UserError
from appo.methods.base import EXPAND_STREAM, HalfFirstMethod, MethodOptions, Needs, Writer
from appo.methods.turns import turn_end
from appo.rollout.rewards import group_advantages, rewards_of
from appo.rollout.scoring import Scores
from appo.rollout.tree import BranchPoint, RolloutTree

# Shapes: R rollouts of a task, B rollouts that carry loss, T completion tokens.


def turn_entropy(entropies_T: Tensor, start: int, end: int, *, window: int = 20) -> float:
    """ARPO (arXiv 2507.19849, Section 3.1): mean entropy of the first tokens of a turn, for `arpo_branch_probability`.

    The released code takes 20 tokens, and the entropy of the 10 likeliest tokens of each; here it is Eq. 3's.

    Args:
        entropies_T: token entropies in nats; those of the turn finite, float32 or float64.
        start: first token of the turn.
        end: one after its last token.
        window: most tokens to average.

    Raises:
        ValueError: a wrong shape or dtype, an empty turn or one beyond the tokens, NaN in it, `window` below 1.
    """
    check_vector("entropies_T", entropies_T, finite=False)
    if not 0 <= start < end <= len(entropies_T):
        raise ValueError(f"start and end must have 0 <= start < end <= {len(entropies_T)}, got {start} and {end}.")
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}.")
    first_T = entropies_T[start : min(end, start + window)]
    check_finite("entropies_T", first_T, offset=start)
    return first_T.detach().double().mean().item()


def arpo_branch_probability(
    entropy: float, first_entropy: float, vocab_size: int, *, base: float = 0.5, weight: float = 0.2
) -> float:
    """ARPO (arXiv 2507.19849, Section 3.1): with which probability a rollout branches after a tool result.

    `base + weight * dH`, clamped to [0, 1], with `dH = (entropy - first_entropy) / log(vocab_size)`; the defaults are
    the released ones. The paper compares this with a threshold; the released code draws a uniform number, as here.

    Args:
        entropy: `turn_entropy` of the turn after the tool result.
        first_entropy: `turn_entropy` of the rollout's first turn.
        vocab_size: tokens of the vocabulary.
        base: probability at an unchanged entropy.
        weight: what a whole `log(vocab_size)` of entropy adds.

    Raises:
        ValueError: an entropy that is NaN or infinite, `vocab_size` below 2.
    """
    for name, value in (("entropy", entropy), ("first_entropy", first_entropy)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}.")
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be at least 2, got {vocab_size}.")
    delta = (entropy - first_entropy) / math.log(vocab_size)
    return min(1.0, max(0.0, base + weight * delta))


def shared_prefix_advantage(advantages_R: Tensor, parent_R: Tensor, position_R: Tensor, *, length: int) -> Tensor:
    """ARPO's hard estimation (arXiv 2507.19849, Section 3.2): a shared token has the mean advantage of its rollouts.

    Args:
        advantages_R: normalised reward of each rollout, float32 or float64; NaN: not scored, and in no mean.
        parent_R: integer, the rollout that a branch left; -1: an initial rollout. A parent may be a branch.
        position_R: integer, first token of a rollout's own, in [0, length]; 0 for an initial rollout. The tokens
            before it are those of the parent, which may itself have them from its parent.
        length: T of the result.

    Returns:
        (R, T) in the dtype of `advantages_R`, without gradient. Where no other rollout has the token it is the
        rollout's own advantage, also behind its end; 0 where no scored rollout has it.

    Raises:
        ValueError: wrong shapes or dtypes, an infinite advantage, a parent, position or length out of
            range, parents in a circle.
    """
    check_vector("advantages_R", advantages_R, finite=False)
    check_finite("advantages_R", advantages_R, missing=True)
    check_index("parent_R", parent_R, "advantages_R", advantages_R)
    check_index("position_R", position_R, "advantages_R", advantages_R)
    check_count(length=length)
    parent_R, position_R = parent_R.long(), position_R.long()
    _check_forest(parent_R, position_R, length)
    rollouts = len(advantages_R)
    token_T = torch.arange(length, device=advantages_R.device)
    # Whose own token each one is. A step walks one generation up; there are no more generations than rollouts.
    owner_RT = torch.arange(rollouts, device=advantages_R.device).unsqueeze(1).repeat(1, length)
    for _ in range(rollouts):
        inherited_RT = token_T < position_R[owner_RT]
        if not inherited_RT.any():
            break
        owner_RT = torch.where(inherited_RT, parent_R[owner_RT], owner_RT)
    value_RT = advantages_R.detach().double().unsqueeze(1).expand(rollouts, length)
    total_RT = torch.zeros_like(value_RT).scatter_add(0, owner_RT, value_RT.nan_to_num(nan=0.0))
    count_RT = torch.zeros_like(value_RT).scatter_add(0, owner_RT, (~value_RT.isnan()).double())
    return (total_RT / count_RT.clamp(min=1.0)).gather(0, owner_RT).to(advantages_R.dtype)


def _check_forest(parent_R: Tensor, position_R: Tensor, length: int) -> None:
    rollouts = len(parent_R)
    if ((parent_R < -1) | (parent_R >= rollouts)).any():
        raise ValueError(f"parent_R must be in [0, {rollouts}), or -1 for an initial rollout.")
    if ((position_R < 0) | (position_R > length)).any():
        raise ValueError(f"position_R must be in [0, {length}], where `length` is the number of tokens.")
    if ((parent_R < 0) & (position_R > 0)).any():
        raise ValueError("position_R must be 0 for an initial rollout, which has no parent to share tokens with.")
    ancestor_R = parent_R
    for _ in range(rollouts):
        ancestor_R = torch.where(ancestor_R < 0, -1, parent_R[ancestor_R.clamp(min=0)])
    if (ancestor_R >= 0).any():
        raise ValueError("parent_R must lead every branch back to an initial rollout, but has a circle.")


@dataclass
class ARPOOptions(MethodOptions):
    """Half of a task's rollouts are written first; branching chance and its slope are the released code's."""

    num_initial_rollouts: int | None = field(
        default=None, metadata={"help": "N: rollouts per task that are written first; None: half of num_generations."}
    )
    shared_prefix: str = field(
        default="soft",
        metadata={"help": "Rollouts keep their advantages ('soft'), or shared tokens average ('hard')."},
    )
    branch_chance: float = field(default=0.5, metadata={"help": "Chance of a branch at an unchanged entropy."})
    entropy_slope: float = field(default=0.2, metadata={"help": "What a whole log(vocabulary) of entropy adds to it."})

    choices: ClassVar[dict[str, tuple[str, ...]]] = {**MethodOptions.choices, "shared_prefix": ("soft", "hard")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.branch_chance <= 1:
            raise UserError(f"branch_chance must lie in [0, 1], got {self.branch_chance}.")


class ARPO(HalfFirstMethod):
    """Branches at uncertain tool results."""

    Options = ARPOOptions

    @property
    def needs(self) -> Needs:
        # Every rollout is a sample of its own, with the tokens that it shares.
        return Needs(trains="all", shared_tokens=True, collisions=self.weighs_forks, one_process=True)

    def expand(self, trees: list[RolloutTree], writer: Writer) -> list[RolloutTree]:
        generator = writer.generator(EXPAND_STREAM)
        for turn in count(1):
            rollouts = [rollout for tree in trees for rollout in tree.rollouts]
            _, scores = writer.score(rollouts, remember=True)
            entropies = dict(zip(map(id, rollouts), scores.entropies_BT, strict=True))
            points = [p for tree in trees for p in self._points(tree, turn, entropies, writer.vocab_size, generator)]
            if not any(self._turns(tree, turn) for tree in trees):
                break
            writer.branch(trees, points, EXPAND_STREAM + turn, branches_branch=True)
            if all(self._room(tree) == 0 for tree in trees):
                return trees
        rest = [BranchPoint(tree, 0, 0) for tree in trees for _ in range(self._room(tree))]
        writer.branch(trees, rest, EXPAND_STREAM, branches_branch=True)
        return trees

    def _room(self, tree: RolloutTree) -> int:
        return (self.args.num_generations or 1) - len(tree.rollouts)

    def _points(
        self,
        tree: RolloutTree,
        turn: int,
        entropies: dict[int, Tensor],
        vocab_size: int,
        generator: torch.Generator,
    ) -> list[BranchPoint]:
        points: list[BranchPoint] = []
        for index, start in self._turns(tree, turn):
            rollout = tree.rollouts[index]
            entropies_T = entropies[id(rollout)]
            first = turn_entropy(entropies_T, 0, turn_end(rollout, 0))
            here = turn_entropy(entropies_T, start, turn_end(rollout, start))
            chance = arpo_branch_probability(
                here, first, vocab_size, base=self.options.branch_chance, weight=self.options.entropy_slope
            )
            if len(points) < self._room(tree) and torch.rand((), generator=generator).item() < chance:
                points.append(BranchPoint(tree, index, start))
        return points

    def _turns(self, tree: RolloutTree, turn: int) -> list[tuple[int, int]]:
        """(rollout, first position) of the turns after the `turn`-th result, where there are any tokens to redraw."""
        if self._room(tree) <= 0:
            return []
        starts = [rollout.answered_turns() for rollout in tree.rollouts]
        return [
            (index, turns[turn - 1])
            for index, turns in enumerate(starts)
            if len(turns) >= turn
            and tree.own_tokens(index) < turns[turn - 1] < len(tree.rollouts[index].completion_ids)
        ]

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        return torch.cat([self._credit(tree, scores.length) for tree in trees])

    def _credit(self, tree: RolloutTree, length: int) -> Tensor:
        advantages_R = group_advantages(tree.rollouts)
        if self.options.shared_prefix == "soft":
            return advantages_R[:, None].expand(-1, length)
        advantages_R = advantages_R.masked_fill(rewards_of(tree.rollouts).isnan(), float("nan"))
        parent_R = torch.tensor([-1 if r.parent is None else r.parent for r in tree.rollouts])
        position_R = torch.tensor([r.branch_position or 0 for r in tree.rollouts])
        return shared_prefix_advantage(advantages_R, parent_R, position_R, length=length)
