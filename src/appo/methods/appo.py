"""APPO (arXiv 2606.12384): branches by the present policy from tokens that are uncertain and consequential.

Before every update each token of the N rollouts is scored (Eq. 5: entropy, and the future value Omega of Eq. 4); the
best ones are resampled from. Two groups, the rollouts and their branches, give the advantage (Eq. 6), and Omega scales
it (Eq. 7). The paper's ablations are options: other branching scores, other advantages, `future_weight: 0`.

A branching score of one's own is a subclass with another `branching_scores` (`docs/methods.md`).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from appo.algorithm import (
    FUTURE_CLIP,
    branching_priority,
    dual_group_advantage,
    entropy_score,
    future_factor,
    future_value,
    future_value_score,
    group_advantage,
    half_life_to_gamma,
    pooled_advantage,
    prefix_advantage,
    random_score,
    tool_boundary_score,
    weighted_sum_score,
)
from appo.errors import UserError
from appo.methods.base import Credit, Needs, Setting, TreeMethod, TreeOptions, Writer
from appo.methods.branch_points import choose_branch_points
from appo.rollout.metrics import omega_metrics
from appo.rollout.rewards import rewards_of
from appo.rollout.scoring import Scores, inherit_ratios
from appo.rollout.tree import BranchPoint, RolloutTree

# Shapes: B rollouts that carry loss, N initial rollouts and K branches of a task, T completion tokens.

BRANCHING = ("branching_score", "entropy", "future_value", "weighted_sum", "random", "tool_boundary")
ADVANTAGES = ("dual_group", "pooled", "prefix", "group")


@dataclass
class APPOOptions(TreeOptions):
    """Options of APPO; the defaults are the paper's."""

    num_branch_points: int = field(default=3, metadata={"help": "B: branch points per rollout and round."})
    num_branch_rounds: int = field(
        default=1, metadata={"help": "L: rounds of branching; from the second on, branches are branched as well."}
    )
    branching: str = field(
        default="branching_score", metadata={"help": f"Score of branch points: {', '.join(BRANCHING)}."}
    )
    advantage: str = field(default="dual_group", metadata={"help": f"Base of Eq. 7: {', '.join(ADVANTAGES)}."})
    future_weight: float = field(default=0.5, metadata={"help": "b of Eq. 7; 0 turns the future-aware factor off."})
    half_life: float = field(default=32.0, metadata={"help": "Tokens after which a log-ratio counts half in Eq. 4."})
    future_clip: list[float] = field(
        default_factory=lambda: list(FUTURE_CLIP), metadata={"help": "Bounds of Omega in Eq. 5 and 7."}
    )
    require_positive: bool = field(
        default=True, metadata={"help": "Whether both factors of Eq. 5 have to be positive at a branch point."}
    )
    min_branch_distance: int = field(default=1, metadata={"help": "Least distance of a rollout's branch points."})
    discount_over: str = field(
        default="all", metadata={"help": "Whether the distance in Eq. 4 counts 'all' tokens or 'policy' tokens."}
    )
    resample: str = field(
        default="token", metadata={"help": "A branch redraws the branch 'token', or starts 'after_token'."}
    )

    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **TreeOptions.choices,
        "branching": BRANCHING,
        "advantage": ADVANTAGES,
        "discount_over": ("all", "policy"),
        "resample": ("token", "after_token"),
    }
    least: ClassVar[dict[str, float]] = {
        **TreeOptions.least,
        "num_branch_rounds": 1,
        "future_weight": 0,
        "min_branch_distance": 1,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.future_clip = [float(bound) for bound in self.future_clip]
        if len(self.future_clip) != 2 or not 0 < self.future_clip[0] <= self.future_clip[1]:
            raise UserError(f"future_clip must be two bounds, 0 < low <= high, got {self.future_clip}.")
        if not 0 < self.half_life < float("inf"):
            raise UserError(f"half_life must be a positive number of tokens, got {self.half_life}.")

    @property
    def clip(self) -> tuple[float, float]:
        """Bounds of Omega."""
        return self.future_clip[0], self.future_clip[1]


def base_advantage(tree: RolloutTree, kind: str, length: int) -> Tensor:
    """The advantage of a task's initial rollouts before Eq. 7, float32: (N, T), equal along T except for `prefix`.

    A rollout that no reward function scored has advantage 0 and enters no mean.
    """
    rewards_N = rewards_of(tree.initial)
    scored = (~rewards_N.isnan()).nonzero()[:, 0].tolist()
    base_NT = torch.zeros(tree.num_initial, length)
    if not scored:
        return base_NT
    initial, branches = rewards_N[scored][None], rewards_of(tree.branches)[None]
    if kind == "dual_group":
        base = dual_group_advantage(initial, branches)[0][:, None]
    elif kind == "pooled":
        base = pooled_advantage(initial, branches)[0][:, None]
    elif kind == "group":
        base = group_advantage(initial)[0][:, None]
    else:
        place = {rollout: row for row, rollout in enumerate(scored)}
        roots = [tree.root_of(branch) for branch in tree.branches]
        parents = torch.tensor([[place.get(root, -1) for root, _ in roots]], dtype=torch.long)
        positions = torch.tensor([[position for _, position in roots]], dtype=torch.long)
        base = prefix_advantage(initial, branches, parents, positions, length=length)[0]
    base_NT[scored] = base.expand(len(scored), length)
    return base_NT


class APPO(TreeMethod):
    """Branches before every update."""

    Options = APPOOptions

    def __init__(self, options: Any, args: Setting) -> None:
        super().__init__(options, args)
        self._chosen_BT: Tensor | None = None  # the scores that chose the branch points of the present mini-batch
        self._measured: tuple[Scores, Tensor] | None = None  # Omega, which the factors and the records share

    @property
    def needs(self) -> Needs:
        by_score = self.options.num_branch_points > 0 and self.options.branching != "random"
        return Needs(
            current_scores=by_score or self.options.future_weight > 0,
            collisions=self.weighs_forks,
        )

    def check(self) -> None:
        options, rollouts = self.options, self.args.num_generations or 1
        if options.num_branch_rounds == 1:
            super().check()
        elif options.num_initial_rollouts >= rollouts or options.num_branch_points < 1:
            raise UserError(
                f"method_args: num_branch_rounds = {options.num_branch_rounds} needs num_initial_rollouts < "
                f"num_generations and num_branch_points >= 1, got {options.num_initial_rollouts}, {rollouts} and "
                f"{options.num_branch_points}."
            )

    # ---- Eq. 4 and 5, and where to branch ----

    def omega(self, log_ratio_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Eq. 4: (B, T)."""
        gamma = half_life_to_gamma(self.options.half_life)
        return future_value(log_ratio_BT, mask_BT, gamma=gamma, discount_over=self.options.discount_over)

    def omega_of(self, scores: Scores) -> Tensor:
        """Eq. 4 of a mini-batch: (B, T), computed once."""
        if self._measured is None or self._measured[0] is not scores:
            self._measured = scores, self.omega(scores.log_ratio_BT, scores.batch.policy_mask_BT)
        return self._measured[1]

    def branching_scores(
        self, tree: RolloutTree, omega_NT: Tensor, entropies_NT: Tensor, mask_NT: Tensor, generator: torch.Generator
    ) -> Tensor:
        """How much each token of a task's rollouts is worth branching at.

        Args:
            tree: The task; its rollouts are the rows, in order, and hold the tokens.
            omega_NT, entropies_NT: float32 on the CPU, Eq. 4 and Eq. 3 under the present policy; right-padded.
            mask_NT: int64, 1 at the policy's tokens; elsewhere values mean nothing.
            generator: For scores that are drawn, on the CPU.

        Returns:
            Floats (N, T), the higher the better; NaN where no branch may start. What is not the policy's is left out.
        """
        clip = self.options.clip
        scores: dict[str, Callable[[], Tensor]] = {
            "branching_score": lambda: branching_priority(
                omega_NT, entropies_NT, mask_NT, clip=clip, require_positive=self.options.require_positive
            ),
            "entropy": lambda: entropy_score(entropies_NT, mask_NT),
            "future_value": lambda: future_value_score(omega_NT, mask_NT, clip=clip),
            "weighted_sum": lambda: weighted_sum_score(omega_NT, entropies_NT, mask_NT, clip=clip),
            "random": lambda: random_score(mask_NT, generator=generator),
            "tool_boundary": lambda: tool_boundary_score(entropies_NT, mask_NT),
        }
        return scores[self.options.branching]()

    def branch(self, trees: list[RolloutTree], scores: Scores, writer: Writer) -> None:
        """Step 2b of Algorithm 1: branch points, then branches by the present policy, in L rounds."""
        for tree in trees:
            tree.drop_branches()  # another pass over the generation (`num_iterations`) draws new ones
        generator = writer.generator(0)
        ratios_BT, rows = scores.log_ratio_BT, scores.rows
        entropies_BT, mask_BT = scores.current.entropies_BT, scores.batch.policy_mask_BT
        for round_index in range(self.options.num_branch_rounds):
            if round_index:
                batch, found = writer.score([rollout for tree in trees for rollout in tree.rollouts])
                known_BT, ratios_BT = ratios_BT, torch.zeros_like(found.logps_BT)
                rows = inherit_ratios(trees, known_BT, rows, ratios_BT)
                entropies_BT, mask_BT = found.entropies_BT, batch.policy_mask_BT
            omega_BT = self.omega(ratios_BT, mask_BT) if round_index else self.omega_of(scores)
            points, chosen = [], []
            for tree, indices in zip(trees, rows, strict=True):
                omega_NT, entropies_NT, mask_NT = (x[indices].cpu() for x in (omega_BT, entropies_BT, mask_BT))
                score_NT = self._checked_scores(tree, omega_NT, entropies_NT, mask_NT, generator)
                chosen.append(score_NT)
                points += self.choose(tree, score_NT, mask_NT, round_index, generator)
            if not round_index:
                self._chosen_BT = torch.cat(chosen)
            writer.branch(trees, points, round_index + 1, branches_branch=self.options.num_branch_rounds > 1)

    def _checked_scores(
        self, tree: RolloutTree, omega_NT: Tensor, entropies_NT: Tensor, mask_NT: Tensor, generator: torch.Generator
    ) -> Tensor:
        """`branching_scores`, NaN at what is not the policy's.

        Raises:
            UserError: for another shape.
        """
        score_NT = self.branching_scores(tree, omega_NT, entropies_NT, mask_NT, generator)
        score_NT = self.of_shape("branching_scores", score_NT, mask_NT, "a row per rollout of the task").cpu().float()
        score_NT = score_NT.masked_fill(mask_NT == 0, torch.nan)
        if mask_NT.any() and score_NT.isnan().all():
            name = type(self).__name__
            warnings.warn(f"method {name}: a task gets no branch: its branching_scores are NaN.", stacklevel=2)
        return score_NT

    def choose(
        self, tree: RolloutTree, score_NT: Tensor, mask_NT: Tensor, round_index: int, generator: torch.Generator
    ) -> list[BranchPoint]:
        """Branch points of one task in one round."""
        options = self.options
        left = (self.args.num_generations or 1) - len(tree.rollouts)
        if round_index < options.num_branch_rounds - 1:
            left = min(left, len(tree.rollouts) * options.num_branch_points)
        return choose_branch_points(
            tree,
            score_NT,
            mask_NT,
            num_points=options.num_branch_points,
            budget=left,
            in_random_order=options.num_branch_rounds > 1,
            min_distance=options.min_branch_distance,
            after_token=options.resample == "after_token",
            generator=generator,
        )

    # ---- Eq. 6 and 7 ----

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> Tensor:
        return torch.cat([base_advantage(tree, self.options.advantage, scores.length) for tree in trees])

    def factors(self, trees: list[RolloutTree], scores: Scores) -> dict[str, Tensor]:
        found = {}
        if self.options.future_weight:
            found["future_factor"] = future_factor(
                self.omega_of(scores), b=self.options.future_weight, clip=self.options.clip
            )
        return {**found, **super().factors(trees, scores)}

    def measured(self, trees: list[RolloutTree], scores: Scores) -> dict[str, Tensor]:
        """Omega (Eq. 4), and the scores by which the initial rollouts' tokens were chosen in the first round."""
        found = {}
        if self.needs.current_scores:
            found["omega"] = self.omega_of(scores)
        if self._chosen_BT is not None and self._chosen_BT.shape == scores.batch.policy_mask_BT.shape:
            found["score"] = self._chosen_BT
        return found

    def metrics(self, credit: Credit, scores: Scores) -> dict[str, float]:
        if "omega" not in credit.measured:
            return {}
        return omega_metrics(credit.measured["omega"], scores.batch.policy_mask_BT, self.options.clip)
