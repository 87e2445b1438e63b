"""What a method is: which rollouts it adds, when, and what credit each token gets.

    class Method:
        needs                                  which scores are measured, which rollouts carry loss
        check()                                contradictions, as UserError
        expand(trees, writer)                  once per generation, by the policy that writes
        branch(trees, scores, writer)          before every update, by the present policy
        credit(trees, scores)                  advantages of the rollouts that carry loss, factor by factor

A method of one's own is a subclass, named `method: my.module:MyMethod`; `docs/methods.md` walks through two. Nothing
here or in a method imports TRL or transformers, so that a method runs unchanged under another trainer.

Left out on purpose: the loss, which is TRL's (`loss_type`), and how rollouts are written (`rollout/writer.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch

from appo.algorithm import fork_weight
from appo.errors import UserError
from appo.rollout.decisions import Decision
from appo.rollout.scoring import RolloutBatch, Scores, TokenScores
from appo.rollout.tree import BranchPoint, RolloutTree
from appo.rollout.types import Rollout

# Shapes: B rollouts that carry loss, T completion tokens, N initial rollouts and R all rollouts of a task.

EXPAND_STREAM = 20_000  # random numbers of what the writing policy adds, apart from those of branching rounds

TOKEN_WEIGHTS = ("uniform", "fork")


class Setting(Protocol):
    """What a method may know of a run; `APPOConfig` is one."""

    num_generations: int | None
    success_reward: float
    epsilon: float
    epsilon_high: float | None
    loss_type: str
    mask_truncated_completions: bool


class Writer(Protocol):
    """What a method may ask of the writer of rollouts (`rollout/writer.py`)."""

    vocab_size: int

    def write(self, rows: list[dict[str, Any]], size: int, stream: int = 0) -> list[RolloutTree]:
        """Writes and rewards `size` rollouts of each row."""

    def branch(
        self,
        trees: list[RolloutTree],
        points: list[BranchPoint],
        stream: int,
        *,
        branches_branch: bool = False,
        counted: bool = True,
    ) -> None:
        """Writes and rewards a branch at each point, and adds it to the point's tree, in this order."""

    def score(self, rollouts: list[Rollout], *, remember: bool = False) -> tuple[RolloutBatch, TokenScores]:
        """Log-probabilities and entropies under the present policy."""

    def generator(self, stream: int) -> torch.Generator:
        """Random numbers, a function of run, process, optimizer step and stream."""

    def draw_rows(self, count: int, generator: torch.Generator) -> list[dict[str, Any]]:
        """Random rows of the training data."""


@dataclass(frozen=True)
class Needs:
    """What a method wants measured and trained on.

    Args:
        trains: Rollouts that carry loss: the `initial` ones (Eq. 8), or `all`, branches included.
        current_scores: Whether the present policy scores the rollouts before each update (Eq. 4 needs it).
        collisions: Whether `log sum_a p(a)^2` is measured too; it is for `token_weight: fork`.
        shared_tokens: Whether a token that several rollouts share carries loss in each of them.
        skips_idle: Whether rollouts without any advantage may be left out of the forward and backward.
        one_process: Whether the method draws different numbers of rounds, so that processes cannot keep in step.
        decisions: Whether it has to know the true decisions of a rollout; only controls do.
        judge: Whether it has to know what each of them was worth; only controls do.
    """

    trains: Literal["initial", "all"] = "initial"
    current_scores: bool = False
    collisions: bool = False
    shared_tokens: bool = False
    skips_idle: bool = False
    one_process: bool = False
    decisions: bool = False
    judge: bool = False


@dataclass
class Credit:
    """Advantages of the rollouts that carry loss, and what they are made of; float32, no gradient.

    Args:
        base_BT: The advantage before any factor.
        factors: Further factors (B, T) by name, such as `future_factor` (Eq. 7) and `token_weight`.
        loss_mask_BT: 1 at tokens that carry loss.
        measured: What else was looked at (B, T), for records and metrics: `omega`, `score` (of branch points).
        old_logps_BT: What the loss takes for the old policy's log-probabilities; None: the writing policy's.
    """

    base_BT: torch.Tensor
    factors: dict[str, torch.Tensor]
    loss_mask_BT: torch.Tensor
    measured: dict[str, torch.Tensor] = field(default_factory=dict)
    old_logps_BT: torch.Tensor | None = None

    @property
    def advantages_BT(self) -> torch.Tensor:
        """The product of base and factors."""
        product_BT = self.base_BT
        for factor_BT in self.factors.values():
            product_BT = product_BT * factor_BT
        return product_BT


@dataclass
class MethodOptions:
    """Options that every method has."""

    token_weight: str = field(
        default="uniform",
        metadata={"help": "Weight of a token's advantage: 'uniform', or by 'fork' (docs/algorithm.md)."},
    )
    weight_floor: float = field(default=0.1, metadata={"help": "token_weight 'fork': the least weight, 0 to 1."})

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"token_weight": TOKEN_WEIGHTS}
    least: ClassVar[dict[str, float]] = {"weight_floor": 0}

    def __post_init__(self) -> None:
        for name, known in self.choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        for name, least in self.least.items():
            if not least <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be a number of at least {least}, got {getattr(self, name)}.")
        if not self.weight_floor <= 1:
            raise UserError(f"weight_floor must lie in [0, 1], got {self.weight_floor}.")


@dataclass
class TreeOptions(MethodOptions):
    """Options of methods with a fixed number of branches."""

    num_initial_rollouts: int = field(default=4, metadata={"help": "N: rollouts per task that are written first."})
    num_branch_points: int = field(default=3, metadata={"help": "B: branches per initial rollout."})

    least: ClassVar[dict[str, float]] = {**MethodOptions.least, "num_initial_rollouts": 1, "num_branch_points": 0}


class Method:
    """Plain rollouts, all of which carry loss; a subclass says at least what their advantages are.

    Args:
        options: An instance of the class' `Options`.
        args: The run's settings, see `Setting`.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions

    def __init__(self, options: Any, args: Setting) -> None:
        self.options, self.args = options, args
        # Where the truth is known: true decisions of a rollout, as positions. Only controls look at it.
        self.decisions: Callable[[Rollout], list[int]] | None = None
        # .. and what each of them was worth, from the task's row, the rollout and the policy's skill (`Task.judge`).
        self.judge: Callable[[dict[str, Any], Rollout, float], list[Decision]] | None = None

    @property
    def needs(self) -> Needs:
        return Needs(collisions=self.weighs_forks)

    @property
    def weighs_forks(self) -> bool:
        return self.options.token_weight == "fork"

    @property
    def num_initial(self) -> int:
        """N: rollouts of a task that the writing policy writes from its prompt."""
        return self.args.num_generations or 1

    @property
    def branches_per_update(self) -> bool:
        """Whether the present policy branches, before every update; else the writing one, once per generation."""
        return type(self).branch is not Method.branch

    def check(self) -> None:
        """
        Raises:
            UserError: for options that contradict each other, or the run's settings.
        """

    def expand(self, trees: list[RolloutTree], writer: Writer) -> list[RolloutTree]:
        """Adds rollouts by the policy that writes, once per generation; returns the generation's tasks."""
        return trees

    def branch(self, trees: list[RolloutTree], scores: Scores, writer: Writer) -> None:
        """Adds branches by the present policy, before every update."""

    def base_advantages(self, trees: list[RolloutTree], scores: Scores) -> torch.Tensor:
        """The advantage before any factor.

        Returns:
            float32 (B, T): a row per rollout that carries loss (`needs.trains`; by default `tree.initial`, tree after
            tree), a column per token of the completion, `scores.length` of them. Finite at tokens of the policy.
        """
        raise NotImplementedError

    def factors(self, trees: list[RolloutTree], scores: Scores) -> dict[str, torch.Tensor]:
        """What the base is multiplied with, by name."""
        if not self.weighs_forks:
            return {}
        behaviour = scores.behaviour
        assert behaviour.log_sum_sq_probs_BT is not None
        weight_BT = fork_weight(behaviour.entropies_BT, behaviour.log_sum_sq_probs_BT, floor=self.options.weight_floor)
        return {"token_weight": weight_BT}

    def measured(self, trees: list[RolloutTree], scores: Scores) -> dict[str, torch.Tensor]:
        """What records and metrics show besides, by name."""
        return {}

    def metrics(self, credit: Credit, scores: Scores) -> dict[str, float]:
        """What is logged of a mini-batch's credit, by name; the same names on every process."""
        return {}

    def credit(self, trees: list[RolloutTree], scores: Scores) -> Credit:
        """The advantage of every token that carries loss.

        Args:
            trees: The mini-batch's tasks.
            scores: Of the rollouts that carry loss (`needs.trains`), in the order of the trees.
        """
        mask_BT = self.loss_mask(trees, scores.batch.policy_mask_BT)
        base_BT = self._checked("base_advantages", self.base_advantages(trees, scores), mask_BT)
        factors = {
            name: self._checked(f"factors[{name!r}]", factor_BT, mask_BT)
            for name, factor_BT in self.factors(trees, scores).items()
        }
        return Credit(base_BT, factors, mask_BT, self.measured(trees, scores))

    def of_shape(self, what: str, values: Any, like: torch.Tensor, rows: str) -> torch.Tensor:
        """What a method returned, without gradient.

        Raises:
            UserError: for what is no tensor of the shape of `like`.
        """
        is_tensor = isinstance(values, torch.Tensor)
        if not is_tensor or values.shape != like.shape:
            found = f"shape {tuple(values.shape)}" if is_tensor else type(values).__name__
            raise UserError(
                f"method {type(self).__name__}: {what} returned {found}; return a tensor of shape "
                f"{tuple(like.shape)}: {rows}, a column per token of the completion."
            )
        return values.detach()

    def _checked(self, what: str, values_BT: Any, mask_BT: torch.Tensor) -> torch.Tensor:
        """What a method returned, where the loss is computed; 0 for numbers that are none where there is no loss.

        Raises:
            UserError: for another shape, and for numbers that are not finite at a token that carries loss.
        """
        values_BT = self.of_shape(what, values_BT, mask_BT, "a row per rollout that carries loss").to(mask_BT.device)
        bad_BT = ~values_BT.isfinite()
        if bad_BT.any():
            if (bad_BT & (mask_BT != 0)).any():
                row, token = (bad_BT & (mask_BT != 0)).nonzero()[0].tolist()
                raise UserError(
                    f"method {type(self).__name__}: {what} is {values_BT[row, token].item()} at token {token} of "
                    f"rollout {row}; return finite numbers, 0 for a rollout without a reward."
                )
            values_BT = values_BT.masked_fill(bad_BT, 0.0)
        return values_BT

    def loss_mask(self, trees: list[RolloutTree], policy_mask_BT: torch.Tensor) -> torch.Tensor:
        """Which tokens carry loss: those that the policy wrote, once where rollouts share them.

        Returns:
            (B, T) in the dtype of `policy_mask_BT`, a tensor of its own.
        """
        mask_BT = policy_mask_BT.clone()
        rollouts = [rollout for tree in trees for rollout in tree.trained(self.needs.trains)]
        for row, rollout in enumerate(rollouts):
            if not self.needs.shared_tokens:
                mask_BT[row, : rollout.branch_position or 0] = 0
            if self.args.mask_truncated_completions and rollout.finish_reason == "length":
                mask_BT[row] = 0
        return mask_BT


class TreeMethod(Method):
    """N rollouts are written first, and get B branches each."""

    Options = TreeOptions

    @property
    def num_initial(self) -> int:
        return self.options.num_initial_rollouts

    def check(self) -> None:
        check_tree_size(self.options, self.args)


class HalfFirstMethod(Method):
    """Half of a task's rollouts are written first, or `num_initial_rollouts` of them; the rest are branches."""

    @property
    def num_initial(self) -> int:
        half = max(1, (self.args.num_generations or 1) // 2)
        return half if self.options.num_initial_rollouts is None else self.options.num_initial_rollouts

    def check(self) -> None:
        if not 1 <= self.num_initial <= (self.args.num_generations or 1):
            raise UserError(
                f"method_args: num_initial_rollouts must lie between 1 and num_generations = "
                f"{self.args.num_generations}, got {self.num_initial}."
            )


def check_tree_size(options: TreeOptions, args: Setting) -> None:
    """
    Raises:
        UserError: where N rollouts with B branches each are not the task's M.
    """
    initial, points, rollouts = options.num_initial_rollouts, options.num_branch_points, args.num_generations
    if initial * (points + 1) != rollouts:
        raise UserError(
            f"method_args: num_initial_rollouts * (num_branch_points + 1) must equal num_generations, got {initial} * "
            f"({points} + 1) = {initial * (points + 1)} and num_generations = {rollouts}; change one of the three."
        )
