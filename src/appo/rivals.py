"""`RivalTrainer`: APPO's rivals and the controls of a branching claim, in the same trainer.

Rollouts, rewards, tools, scores and TRL's loss are those of `APPOTrainer`; a rival changes who is branched, when, and
what advantage a token gets. GRPO, CISPO and other losses of TRL need nothing here: they are settings (`studies/`).

| `rival` | what it does |
|---|---|
| `arpo` | the behaviour policy branches after tool results, the likelier the higher the entropy (2507.19849) |
| `tree_grpo` | it branches at random turns; advantages within a tree and between trees (2509.21240) |
| `gigpo` | plain rollouts; advantages of episodes and of steps from the same state (2505.10978) |
| `vineppo` | Monte-Carlo values at the turns' starts credit the steps between them (2410.01679) |
| `reinforce++` | advantages normalised over the whole mini-batch (2501.03262) |
| `gppo` | gradients of clipped tokens are kept, at the clip's size (2508.07629) |

Left out on purpose: each rival's own engineering (judges, prompts, curricula); what is compared is the estimator.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from appo.algorithm.rivals import (
    arpo_branch_probability,
    batch_advantage,
    gppo_coefficient,
    mixed_groups,
    shared_prefix_advantage,
    turn_entropy,
)
from appo.branching import BranchPoint
from appo.config import APPOConfig
from appo.credit import group_credit
from appo.errors import UserError
from appo.rival_credit import step_credit, tree_credit, turn_end, vine_credit
from appo.rollout.rewards import among_scored, rewards_of
from appo.rollout.scoring import RolloutBatch, TokenScores
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout
from appo.trainer import APPOTrainer

# Shapes: B rollouts of a mini-batch, R of a task, T completion tokens.

RIVALS = ("none", "arpo", "tree_grpo", "gigpo", "vineppo", "reinforce++", "gppo")
CONTROLS = ("none", "oracle", "outcome_variance")
LOSS_ON = ("policy", "decisions")
BRANCHING_RIVALS = ("arpo", "tree_grpo", "vineppo")
RIVAL_STREAM = 20_000  # random numbers of branches that the behaviour policy writes
SAMPLING_STREAM = 30_000
MOST_EXTRA_ROUNDS = 3  # of dynamic sampling; afterwards groups without spread are taken as they are
VARIANCE_CANDIDATES, VARIANCE_SAMPLES = 6, 3


@dataclass
class RivalConfig(APPOConfig):
    """`APPOConfig` with the settings of rivals. All rollouts of a task count towards `num_generations`."""

    rival: str = field(default="none", metadata={"help": f"One of {', '.join(RIVALS)}."})
    control: str = field(
        default="none", metadata={"help": f"Branch positions of a control: {', '.join(CONTROLS)}; not for training."}
    )
    loss_on: str = field(
        default="policy",
        metadata={"help": "Tokens that count in full: 'policy' tokens, or true 'decisions' (rest: `weight_floor`)."},
    )
    shared_prefix: str = field(
        default="soft", metadata={"help": "arpo: each rollout keeps its advantage ('soft'), or shared tokens average."}
    )
    dynamic_sampling: bool = field(
        default=False, metadata={"help": "DAPO: other tasks replace those whose rewards are all equal."}
    )

    def __post_init__(self) -> None:
        known = {"rival": RIVALS, "control": CONTROLS, "shared_prefix": ("soft", "hard"), "loss_on": LOSS_ON}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.rival not in ("none", "gppo") and self.advantage == "success":
            raise UserError(f"rival = {self.rival!r} has an advantage of its own; leave out advantage = 'success'.")
        if self.loss_on == "decisions" and self.token_weight != "uniform":
            raise UserError("loss_on = 'decisions' weighs tokens by itself; leave token_weight at 'uniform'.")
        if self.rival in ("arpo", "tree_grpo"):
            self.train_on, self.advantage = "all", "group"
        if self.rival in ("gigpo", "vineppo", "reinforce++") and self.train_on != "initial":
            raise UserError(f"rival = {self.rival!r} credits initial rollouts only; leave train_on at 'initial'.")
        if self.rival == "arpo" and self.token_weight != "uniform":
            raise UserError("rival = 'arpo' weighs all tokens alike; leave token_weight at 'uniform'.")
        if self.control != "none" and (self.branching != "entropy" or self.rival != "none"):
            raise UserError(
                f"control = {self.control!r} takes the place of entropy at APPO's branch points: set branching to "
                f"'entropy' and rival to 'none', got {self.branching!r} and {self.rival!r}."
            )
        super().__post_init__()


class RivalTrainer(APPOTrainer):
    """`APPOTrainer` with `RivalConfig`; with `rival="none"` and no control it is APPO.

    Args:
        decision_positions: As in `Task`, for what a control has to know of the truth.
    """

    def __init__(self, *args: Any, decision_positions: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decision_positions = decision_positions
        self._scored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        if self.accelerator.num_processes > 1 and (self.args.rival == "arpo" or self.args.dynamic_sampling):
            raise UserError("rival = 'arpo' and dynamic_sampling run on one process: their rounds differ in number.")
        if decision_positions is None and (self.args.control == "oracle" or self.args.loss_on == "decisions"):
            name = "control = 'oracle'" if self.args.control == "oracle" else "loss_on = 'decisions'"
            raise UserError(f"{name} needs a task with decision_positions; use a testbed such as kinship.")

    # ---- rollouts of the behaviour policy ----

    def _write_trees(self, rows: list[dict[str, Any]]) -> list[RolloutTree]:
        self._scored.clear()
        trees = super()._write_trees(rows)
        if self.args.dynamic_sampling:
            trees = self._with_other_tasks(trees)
        if self.args.rival in BRANCHING_RIVALS:
            with self.counters.timed("branch"):
                {"arpo": self._arpo, "tree_grpo": self._tree_grpo, "vineppo": self._vineppo}[self.args.rival](trees)
        return trees

    def _with_other_tasks(self, trees: list[RolloutTree]) -> list[RolloutTree]:
        """DAPO's dynamic sampling: groups whose rewards are all equal make room for other tasks."""
        wanted, spare = len(trees), []
        kept: list[RolloutTree] = []
        for extra in range(MOST_EXTRA_ROUNDS + 1):
            mixed = mixed_groups(torch.stack([rewards_of(tree.initial) for tree in trees])).tolist()
            kept += [tree for tree, keep in zip(trees, mixed, strict=True) if keep]
            spare += [tree for tree, keep in zip(trees, mixed, strict=True) if not keep]
            missing = wanted - len(kept)
            if missing <= 0 or extra == MOST_EXTRA_ROUNDS:
                break
            generator = torch.Generator().manual_seed(self._seed(SAMPLING_STREAM + extra) % 2**63)
            picks = torch.randint(len(self.train_dataset), (missing,), generator=generator).tolist()
            rows = [self.train_dataset[i] for i in picks]
            trees = self.write_initial(rows, self.args.num_initial_rollouts, SAMPLING_STREAM + extra)
            for tree in trees:
                tree.id += f".{extra + 1}"  # apart from the tasks that they replace
        return (kept + spare)[:wanted]

    def _arpo(self, trees: list[RolloutTree]) -> None:
        """Turn by turn, as it would be while writing; what is left of the budget becomes fresh rollouts."""
        generator = torch.Generator().manual_seed(self._seed(RIVAL_STREAM) % 2**63)
        vocabulary = self.model.config.get_text_config().vocab_size
        for turn in count(1):
            points = []
            self._score_rollouts([rollout for tree in trees for rollout in tree.rollouts])
            for tree in trees:
                room = self.num_generations - len(tree.rollouts)
                for index, start in self._turns_of(tree, turn):
                    entropies_T = self._scored[id(tree.rollouts[index])][1]
                    first = turn_entropy(entropies_T, 0, turn_end(tree.rollouts[index], 0))
                    end = turn_end(tree.rollouts[index], start)
                    chance = arpo_branch_probability(turn_entropy(entropies_T, start, end), first, vocabulary)
                    if room > 0 and torch.rand((), generator=generator).item() < chance:
                        points.append(BranchPoint(tree, index, start))
                        room -= 1
            if not any(self._turns_of(tree, turn) for tree in trees):
                break
            self._write_branches(points, RIVAL_STREAM + turn, spare=(trees[0], trees[0].initial[0]))
            if all(len(tree.rollouts) == self.num_generations for tree in trees):
                return
        rest = [BranchPoint(t, 0, 0) for t in trees for _ in range(self.num_generations - len(t.rollouts))]
        self._write_branches(rest, RIVAL_STREAM, spare=(trees[0], trees[0].initial[0]))

    def _turns_of(self, tree: RolloutTree, turn: int) -> list[tuple[int, int]]:
        """(rollout, first position) of the turns after the `turn`-th result, where there are any tokens to redraw."""
        if len(tree.rollouts) >= self.num_generations:
            return []
        starts = [rollout.answered_turns() for rollout in tree.rollouts]
        return [
            (index, turns[turn - 1])
            for index, turns in enumerate(starts)
            if len(turns) >= turn
            and max(tree.own_tokens(index), 0) < turns[turn - 1] < len(tree.rollouts[index].completion_ids)
        ]

    def _tree_grpo(self, trees: list[RolloutTree]) -> None:
        """B random nodes of each tree: the starts of its turns."""
        generator = torch.Generator().manual_seed(self._seed(RIVAL_STREAM) % 2**63)
        points = []
        for tree in trees:
            for index, rollout in enumerate(tree.initial):
                nodes = [0, *(p for p in rollout.answered_turns() if p < len(rollout.completion_ids))]
                picks = torch.randint(len(nodes), (self.args.num_branch_points,), generator=generator).tolist()
                points += [BranchPoint(tree, index, nodes[pick]) for pick in picks]
        self._write_branches(points, RIVAL_STREAM, spare=(trees[0], trees[0].initial[0]))

    def _vineppo(self, trees: list[RolloutTree]) -> None:
        """B Monte-Carlo rollouts of each rollout, dealt out over the starts of its turns."""
        points = []
        for tree in trees:
            for index, rollout in enumerate(tree.initial):
                nodes = [p for p in rollout.answered_turns() if p < len(rollout.completion_ids)] or [0]
                points += [BranchPoint(tree, index, nodes[i % len(nodes)]) for i in range(self.args.num_branch_points)]
        self._write_branches(points, RIVAL_STREAM, spare=(trees[0], trees[0].initial[0]))

    # ---- scores ----

    def _score_rollouts(self, rollouts: list[Rollout]) -> tuple[RolloutBatch, TokenScores]:
        """ARPO looks at entropies while it writes: what was scored for that is not scored again."""
        if self.args.rival != "arpo":
            return super()._score_rollouts(rollouts)
        new = [rollout for rollout in rollouts if id(rollout) not in self._scored]
        if new:
            _, scores = super()._score_rollouts(new)
            for row, rollout in enumerate(new):
                length = len(rollout.completion_ids)
                self._scored[id(rollout)] = (scores.logps_BT[row, :length], scores.entropies_BT[row, :length])
        known = [self._scored[id(rollout)] for rollout in rollouts]
        batch = self._collate(rollouts)
        width = batch.completion_ids_BT.shape[1]
        logps_BT, entropies_BT = (
            torch.stack([torch.nn.functional.pad(pair[i], (0, width - len(pair[i]))) for pair in known])
            for i in (0, 1)
        )
        return batch, TokenScores(logps_BT, entropies_BT)

    @property
    def _branches_branch(self) -> bool:
        return self.args.rival == "arpo" or super()._branches_branch

    @property
    def _needs_current_scores(self) -> bool:
        if self.args.rival in BRANCHING_RIVALS:
            return bool(self.args.future_weight or self.args.save_records)
        return self.args.rival == "gppo" or super()._needs_current_scores

    # ---- branches of the present policy ----

    def _branch(self, trees: list[RolloutTree], current: TokenScores, omega_BT: torch.Tensor, *rest: Any) -> None:
        if self.args.rival in BRANCHING_RIVALS:
            return  # written already, by the behaviour policy
        if self.args.control != "none":
            scores = self._oracle(trees, current) if self.args.control == "oracle" else self._variances(trees, current)
            current = TokenScores(current.logps_BT, scores)  # with `branching: entropy` they rank the positions
        super()._branch(trees, current, omega_BT, *rest)

    def _oracle(self, trees: list[RolloutTree], current: TokenScores) -> torch.Tensor:
        """1 at true decisions, and a random number below it everywhere, so that equals come in random order."""
        generator = torch.Generator().manual_seed(self._seed(RIVAL_STREAM) % 2**63)
        scores_BT = torch.rand(current.entropies_BT.shape, generator=generator)
        for row, rollout in enumerate(rollout for tree in trees for rollout in tree.initial):
            scores_BT[row, self._decisions(rollout)] += 1.0
        return scores_BT.to(current.entropies_BT.device)

    def _decisions(self, rollout: Rollout) -> list[int]:
        return self._decision_positions(self._tokenizer.convert_ids_to_tokens(rollout.completion_ids))

    def _variances(self, trees: list[RolloutTree], current: TokenScores) -> torch.Tensor:
        """Variance of the rewards of a few continuations from a few evenly spaced positions; 0 elsewhere.

        The continuations are thrown away and their tokens are not counted: a control, no method.
        """
        for tree in trees:
            tree.drop_branches()
        scores_BT = torch.zeros_like(current.entropies_BT)
        pairs = [(tree, index) for tree in trees for index in range(tree.num_initial)]
        points, rows = [], []
        for row, (tree, index) in enumerate(pairs):
            own = [i for i, mask in enumerate(tree.rollouts[index].policy_mask) if mask]
            candidates = min(VARIANCE_CANDIDATES, len(own))
            for k in range(candidates):
                position = own[k * len(own) // candidates]
                points += [BranchPoint(tree, index, position)] * VARIANCE_SAMPLES
                rows += [(row, position)]
        with self.counters.counted(False):
            self._write_branches(points, RIVAL_STREAM, spare=(trees[0], trees[0].initial[0]))
        written = {id(tree): iter(tree.branches) for tree in trees}
        for row, position in rows:
            tree = pairs[row][0]
            rewards = rewards_of([next(written[id(tree)]) for _ in range(VARIANCE_SAMPLES)])
            scored = rewards[~rewards.isnan()]
            scores_BT[row, position] = scored.var(correction=0) if len(scored) else 0.0
        for tree in trees:
            tree.drop_branches()
        return scores_BT

    # ---- credit ----

    def _token_weights(self, trees: list[RolloutTree], behaviour: TokenScores) -> torch.Tensor | float:
        if self.args.loss_on == "policy":
            return super()._token_weights(trees, behaviour)
        weights_BT = torch.full_like(behaviour.logps_BT, self.args.weight_floor)
        rollouts = [rollout for tree in trees for rollout in tree.trained(self.args.train_on)]
        for row, rollout in enumerate(rollouts):
            weights_BT[row, self._decisions(rollout)] = 1.0
        return weights_BT

    def _advantages(self, trees: list[RolloutTree], omega_BT: torch.Tensor) -> torch.Tensor:
        rival, length = self.args.rival, omega_BT.shape[1]
        if rival in ("none", "gppo"):
            return super()._advantages(trees, omega_BT)
        if rival == "reinforce++":
            rewards_B = torch.cat([rewards_of(tree.initial) for tree in trees])
            group_B = torch.cat([torch.full((tree.num_initial,), i) for i, tree in enumerate(trees)])
            advantages_BT = among_scored(batch_advantage, rewards_B, group_B)[:, None].expand(-1, length)
        else:
            estimate = {
                "arpo": self._arpo_credit,
                "tree_grpo": tree_credit,
                "gigpo": step_credit,
                "vineppo": vine_credit,
            }
            advantages_BT = torch.cat([estimate[rival](tree, length) for tree in trees])
        return advantages_BT.to(omega_BT.device)

    def _arpo_credit(self, tree: RolloutTree, length: int) -> torch.Tensor:
        advantages_R = group_credit(tree.rollouts)
        if self.args.shared_prefix == "soft":
            return advantages_R[:, None].expand(-1, length)
        advantages_R = advantages_R.masked_fill(rewards_of(tree.rollouts).isnan(), float("nan"))
        parent_R = torch.tensor([-1 if r.parent is None else r.parent for r in tree.rollouts])
        position_R = torch.tensor([r.branch_position or 0 for r in tree.rollouts])
        return shared_prefix_advantage(advantages_R, parent_R, position_R, length=length)

    @property
    def _loss_on_prefixes(self) -> bool:
        return self.args.rival in ("arpo", "tree_grpo")  # every rollout is a sample of its own

    def _micro_batches_of(
        self,
        batch: RolloutBatch,
        mask_BT: torch.Tensor,
        advantages_BT: torch.Tensor,
        behaviour: TokenScores,
        current: TokenScores,
    ) -> list[dict[str, Any]]:
        if self.args.rival == "gppo":
            # The policy of the loss is the one that scored, so the ratio is known: what the clip leaves of it becomes
            # part of the advantage, and TRL's own clip sees a ratio of 1.
            high = self.args.epsilon_high or self.args.epsilon
            log_ratio_BT = current.logps_BT - behaviour.logps_BT
            coefficient_BT = gppo_coefficient(log_ratio_BT, advantages_BT, low=self.args.epsilon, high=high)
            advantages_BT, behaviour = advantages_BT * coefficient_BT, current
        return super()._micro_batches_of(batch, mask_BT, advantages_BT, behaviour, current)
