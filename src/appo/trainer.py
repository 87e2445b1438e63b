"""`APPOTrainer`: TRL's `GRPOTrainer` with APPO's data preparation (Algorithm 1).

Once per generation the current policy writes N initial rollouts per task. Then, before every optimizer step, that
step's rollouts are scored with the current policy, branched with it, rewarded and credited. What reaches TRL's
unchanged loss is a batch of initial rollouts with a (B, T) advantage: no gradient passes through branches.

Left out on purpose: the loss, checkpoints, PEFT, distribution and logging back-ends: TRL's and transformers' own.

    trainer = APPOTrainer("Qwen/Qwen3-0.6B", reward_funcs=..., args=APPOConfig(...), train_dataset=..., tools=[...])
    trainer.train()
"""

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset

from appo.algorithm import fork_weight, future_value
from appo.branching import BranchPoint, choose_branch_points
from appo.credit import busy_rows, group_credit, loss_mask, token_advantages, without_idle_rows
from appo.errors import UserError
from appo.files import write_text
from appo.report.model_card import CardFacts, model_card
from appo.resumable_trainer import ResumableTrainer
from appo.rollout import metrics
from appo.rollout.batches import MiniBatch
from appo.rollout.loop import Start
from appo.rollout.records import append_records, rollout_records, start_records
from appo.rollout.scoring import RolloutBatch, TokenScores, inherit_ratios, interleave_scores
from appo.rollout.tree import RolloutTree
from appo.rollout_trainer import Pair

# Shapes: B initial rollouts of a mini-batch, T completion tokens.

EVALUATION_STREAM = 1_000_003  # keeps an evaluation's random numbers apart from those of branching rounds


class APPOTrainer(ResumableTrainer):
    """Agentic Procedural Policy Optimization (arXiv 2606.12384).

    Takes what `GRPOTrainer` takes, with an `APPOConfig`. `tools` and `environment_factory` mean what they mean in TRL;
    an environment may add `fork()`. With `tool_protocol="tags"` the tokenizer needs no chat template for tools.

    Raises:
        ValueError: as `GRPOTrainer`, and for models that the embedded engine cannot run.
    """

    _tag_names = ["trl", "appo"]
    _name = "APPO"
    _paper = {"title": "APPO: Agentic Procedural Policy Optimization", "id": "2606.12384"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_size()
        self._micro_batches: list[dict[str, Any]] | None = None
        self._records_path = os.path.join(self.args.output_dir, "records.jsonl")
        self.card_facts = CardFacts()

    def _check_size(self) -> None:
        """TRL's sampler drops what does not fill a generation: a smaller data set would train nothing, in silence."""
        tasks = self.args.generation_batch_size // self.num_generations
        if isinstance(self.train_dataset, Dataset) and len(self.train_dataset) < tasks:
            raise UserError(
                f"train_dataset has {len(self.train_dataset)} rows, but one generation takes {tasks} tasks; give more "
                "rows, or lower per_device_train_batch_size or steps_per_generation."
            )

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes README.md into `output_dir`, and beside the model where `card_facts` name another directory."""
        if self.is_world_process_zero():
            places = {Path(self.args.output_dir), Path(self.card_facts.model_directory or self.args.output_dir)}
            for directory in filter(Path.is_dir, places):
                write_text(directory / "README.md", str(model_card(self, directory, model_name, dataset_name, tags)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers, with the model card."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and not _internal_call:
            directory = Path(output_dir or self.args.output_dir)
            write_text(directory / "README.md", str(model_card(self, directory)))

    # ---- data preparation, the only part of GRPOTrainer that changes ----

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        if not self.model.training:
            return self._evaluation_inputs(generation_batch)
        accumulation, per_generation = self.args.gradient_accumulation_steps, self.args.steps_per_generation
        if not self._begun:
            self._begin()
            self._micro_batches = None
            if self.args.save_records and self.accelerator.is_main_process:
                kept = start_records(self._records_path, self.state.global_step)
                if kept < self._records:
                    warnings.warn(
                        f"{self._records_path} holds {kept} records of the {self._records} that were written before "
                        f"update {self.state.global_step + 1}; what is drawn and told from it lacks the others.",
                        stacklevel=2,
                    )
                self._records = kept
        if self._step % (per_generation * self.num_iterations) == 0 or not self._mini_batches:
            self._mini_batches = self._write_generation(generation_batch)
        if self._step % accumulation == 0 or self._micro_batches is None:
            mini_batch = self._mini_batches[self._step % per_generation // accumulation]
            self._micro_batches = self._prepare_mini_batch(mini_batch)
        return self._micro_batches[self._step % accumulation]

    def _write_generation(self, rows: list[dict[str, Any]]) -> list[MiniBatch]:
        """Steps 1 and 2a's behaviour policy: initial rollouts, rewards, and their log-probabilities (pi_old)."""
        self._pool.release(self.runner)
        trees = self._write_trees(rows[:: self.num_generations])
        self._log_generation(trees)
        updates = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        size = len(trees) // updates
        mini_batches = []
        with self.counters.timed("score"):
            for start in range(0, len(trees), size):
                part = trees[start : start + size]
                batch, scores = self._score_rollouts([r for tree in part for r in tree.trained(self.args.train_on)])
                sizes = [len(tree.rollouts) for tree in part]
                mini_batches.append(MiniBatch(part, batch, scores, self.state.global_step, sizes))
        return mini_batches

    def _write_trees(self, rows: list[dict[str, Any]]) -> list[RolloutTree]:
        """The trees of a generation, by the behaviour policy."""
        return self.write_initial(rows, self.args.num_initial_rollouts)

    def _prepare_mini_batch(self, mini_batch: MiniBatch) -> list[dict[str, Any]]:
        """Steps 2a-2c of Algorithm 1: score, branch, reward, credit; returns the micro-batches of one update."""
        batch, behaviour = mini_batch.batch, mini_batch.behaviour
        with self.counters.timed("score"):
            # Nothing to compute before the first update: the policy is still the one that wrote the rollouts.
            fresh = mini_batch.written_at == self.state.global_step or not self._needs_current_scores
            current = behaviour if fresh else self._score(batch)
        log_ratio_BT = current.logps_BT - behaviour.logps_BT
        omega_BT = self._future_value(log_ratio_BT, batch.policy_mask_BT)
        with self.counters.timed("branch"):
            self._branch(mini_batch.trees, current, omega_BT, log_ratio_BT, batch)
        rows = sum(len(tree.trained(self.args.train_on)) for tree in mini_batch.trees)
        if rows > len(omega_BT):
            batch, behaviour, current, omega_BT = self._with_branches(mini_batch, current)
        advantages_BT = self._advantages(mini_batch.trees, omega_BT)
        advantages_BT = advantages_BT * self._token_weights(mini_batch.trees, behaviour)
        mask_BT = self._loss_mask(mini_batch.trees, batch.policy_mask_BT)
        self._log_mini_batch(mini_batch.trees, batch, omega_BT, advantages_BT, mask_BT)
        if self.args.save_records:
            self._write_records(mini_batch.trees, behaviour, current, omega_BT, advantages_BT)
        return self._micro_batches_of(batch, mask_BT, advantages_BT, behaviour, current)

    def _micro_batches_of(
        self,
        batch: RolloutBatch,
        mask_BT: torch.Tensor,
        advantages_BT: torch.Tensor,
        behaviour: TokenScores,
        current: TokenScores,
    ) -> list[dict[str, Any]]:
        """The loss's inputs in equal parts. TRL's token-mean losses expect `num_items_in_batch` of a generation."""
        inputs = {
            "prompt_ids": batch.prompt_ids_BP,
            "prompt_mask": batch.prompt_mask_BP,
            "completion_ids": batch.completion_ids_BT,
            "completion_mask": batch.completion_mask_BT,
            "tool_mask": mask_BT,
            "advantages": advantages_BT,
            "old_per_token_logps": behaviour.logps_BT,
        }
        if self.beta != 0.0:
            inputs["ref_per_token_logps"] = self._reference_logps(batch)
        accumulation = self.args.gradient_accumulation_steps
        updates = self.args.steps_per_generation // accumulation
        items = self.accelerator.gather(inputs["tool_mask"].sum() * updates).sum()
        if self._leaves_idle_rows_out:
            # As many on every process, because TRL gathers a number per row.
            busy = int(self.accelerator.gather(busy_rows(inputs).sum()).max())
            inputs = without_idle_rows(inputs, max(accumulation, -(-busy // accumulation) * accumulation))
        parts = {name: torch.tensor_split(tensor, accumulation) for name, tensor in inputs.items()}
        return [
            {**{name: part[i] for name, part in parts.items()}, "num_items_in_batch": items}
            for i in range(accumulation)
        ]

    @property
    def _leaves_idle_rows_out(self) -> bool:
        """Whether failed rollouts may leave the loss: nothing in it looks at them but the advantage."""
        alone = not (self._entropy_bonus_enabled or self.aux_loss_enabled) and self.top_entropy_quantile == 1.0
        return bool(self.args.advantage == "success" and self.args.loss_type == "grpo" and self.beta == 0.0 and alone)

    @property
    def _needs_current_scores(self) -> bool:
        """Whether anything depends on how the present policy scores the rollouts; GRPO, for one, needs no Omega."""
        args = self.args
        by_score = args.num_branch_points and args.branching != "random"
        return bool(by_score or args.future_weight or args.save_records)

    def _with_branches(
        self, mini_batch: MiniBatch, current: TokenScores
    ) -> tuple[RolloutBatch, TokenScores, TokenScores, torch.Tensor]:
        """Batch, behaviour scores, present scores and Omega of all rollouts; only the branches are scored anew.

        Branches are written by the present policy: a branch has its parent's ratios up to where it left it, then 1.
        """
        trees = mini_batch.trees
        with self.counters.timed("score"):
            _, written = self._score_rollouts([branch for tree in trees for branch in tree.branches])
        batch = self._collate([rollout for tree in trees for rollout in tree.rollouts])
        ratios_BT = torch.zeros(batch.completion_ids_BT.shape, device=current.logps_BT.device)
        known_BT = current.logps_BT - mini_batch.behaviour.logps_BT
        inherit_ratios(trees, known_BT, self._initial_rows(trees), ratios_BT)
        is_branch = [rollout.parent is not None for tree in trees for rollout in tree.rollouts]
        scores = interleave_scores(is_branch, current, written, ratios_BT.shape[1])
        behaviour = interleave_scores(is_branch, mini_batch.behaviour, written, ratios_BT.shape[1])
        behaviour = replace(behaviour, logps_BT=scores.logps_BT - ratios_BT)
        return batch, behaviour, scores, self._future_value(ratios_BT, batch.policy_mask_BT)

    def _advantages(self, trees: list[RolloutTree], omega_BT: torch.Tensor) -> torch.Tensor:
        """Step 2c: an advantage per token of the rollouts that are trained on."""
        return token_advantages(trees, omega_BT, self.args)

    def _token_weights(self, trees: list[RolloutTree], behaviour: TokenScores) -> torch.Tensor | float:
        """How much the advantage of each token of the trained rollouts counts."""
        if behaviour.log_sum_sq_probs_BT is None:
            return 1.0
        return fork_weight(behaviour.entropies_BT, behaviour.log_sum_sq_probs_BT, floor=self.args.weight_floor)

    def _evaluation_inputs(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rollouts without branches, one per row; TRL's sampler puts the rows of one prompt together."""
        size = self.num_generations_eval
        self._evaluation_batches += 1
        trees = self.write_initial(rows[::size], size, EVALUATION_STREAM + self._evaluation_batches)
        rollouts = [rollout for tree in trees for rollout in tree.initial]
        self._log_generation(trees)
        self._log_means(metrics.rollout_metrics(rollouts, self.args.success_reward))
        batch = self._collate(rollouts)
        self.release_environments(trees)
        inputs = {
            "prompt_ids": batch.prompt_ids_BP,
            "prompt_mask": batch.prompt_mask_BP,
            "completion_ids": batch.completion_ids_BT,
            "completion_mask": batch.completion_mask_BT,
            "tool_mask": batch.policy_mask_BT,
            "advantages": torch.cat([group_credit(tree.initial) for tree in trees]).to(self.accelerator.device),
            "num_items_in_batch": self.accelerator.gather(batch.policy_mask_BT.sum()).sum(),
        }
        if self.beta != 0.0:
            inputs["ref_per_token_logps"] = self._reference_logps(batch)
        return inputs

    # ---- rollouts ----

    def _branch(
        self,
        trees: list[RolloutTree],
        current: TokenScores,
        omega_BT: torch.Tensor,
        log_ratio_BT: torch.Tensor,
        batch: RolloutBatch,
    ) -> None:
        """Step 2b: branch points, then branches with the current policy, in `num_branch_rounds` rounds."""
        for tree in trees:
            tree.drop_branches()  # another pass over the generation (`num_iterations`) draws new ones
        generator = torch.Generator().manual_seed(self._seed(0) % 2**63)
        entropies_BT, mask_BT = current.entropies_BT, batch.policy_mask_BT
        rows = self._initial_rows(trees)
        for round_index in range(self.args.num_branch_rounds):
            if round_index:
                rows, omega_BT, log_ratio_BT, entropies_BT, mask_BT = self._score_trees(trees, log_ratio_BT, rows)
            points = []
            for tree, indices in zip(trees, rows, strict=True):
                omega_NT, entropy_NT, mask_NT = (x[indices].cpu() for x in (omega_BT, entropies_BT, mask_BT))
                points += choose_branch_points(
                    tree, omega_NT, entropy_NT, mask_NT, self.args, round_index=round_index, generator=generator
                )
            self._write_branches(points, round_index + 1, spare=(trees[0], trees[0].initial[0]))

    def _score_trees(
        self, trees: list[RolloutTree], log_ratio_BT: torch.Tensor, rows: list[list[int]]
    ) -> tuple[list[list[int]], torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores whole trees for a further round: a branch has its parent's ratios up to where it left it, then 1."""
        batch, scores = self._score_rollouts([rollout for tree in trees for rollout in tree.rollouts])
        ratios_BT = torch.zeros_like(scores.logps_BT)
        new_rows = inherit_ratios(trees, log_ratio_BT, rows, ratios_BT)
        omega_BT = self._future_value(ratios_BT, batch.policy_mask_BT)
        return new_rows, omega_BT, ratios_BT, scores.entropies_BT, batch.policy_mask_BT

    def _initial_rows(self, trees: list[RolloutTree]) -> list[list[int]]:
        """The rows of each tree in a batch of initial rollouts."""
        size = self.args.num_initial_rollouts
        return [list(range(i * size, (i + 1) * size)) for i in range(len(trees))]

    @property
    def _branches_branch(self) -> bool:
        """Whether a branch may be branched from, and so has to keep the states of its environment."""
        return self.args.num_branch_rounds > 1

    def _write_branches(self, points: list[BranchPoint], stream: int, spare: Pair) -> None:
        starts = []
        for point in points:
            prefix = point.tree.rollouts[point.rollout].prefix(point.position)
            self._pool.enter_prefix(prefix, point.tree.row, self.runner)
            starts.append(Start(prefix, self._pool.tools_of(prefix.environment)))
        branches = self._run_loop(starts, stream, keep_snapshots=self._branches_branch)
        for point, branch in zip(points, branches, strict=True):
            point.tree.add_branch(branch, point.rollout, point.position)
        self._reward([(point.tree, branch) for point, branch in zip(points, branches, strict=True)], spare)

    # ---- scores ----

    def _future_value(self, log_ratio_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        return future_value(log_ratio_BT, mask_BT, gamma=self.args.gamma, discount_over=self.args.discount_over)

    @property
    def _loss_on_prefixes(self) -> bool:
        """Whether a token that several rollouts share carries loss in each of them."""
        return False

    def _loss_mask(self, trees: list[RolloutTree], policy_mask_BT: torch.Tensor) -> torch.Tensor:
        """Which tokens of the trained rollouts carry loss."""
        return loss_mask(
            [rollout for tree in trees for rollout in tree.trained(self.args.train_on)],
            policy_mask_BT,
            on_prefixes=self._loss_on_prefixes,
            on_truncated=not self.mask_truncated_completions,
        )

    # ---- what is logged ----

    def _log_mini_batch(
        self,
        trees: list[RolloutTree],
        batch: RolloutBatch,
        omega_BT: torch.Tensor,
        advantages_BT: torch.Tensor,
        mask_BT: torch.Tensor,
    ) -> None:
        sizes = [len(tree.trained(self.args.train_on)) for tree in trees]
        signal_B = (advantages_BT * mask_BT).abs().amax(dim=1)
        without_signal = [part.max().item() == 0 for part in signal_B.split(sizes)]
        self._log_means(
            {
                **metrics.rollout_metrics([r for tree in trees for r in tree.initial], self.args.success_reward),
                **metrics.branch_metrics(trees, self.protocol),
                **metrics.omega_metrics(omega_BT, batch.policy_mask_BT, self.args.future_clip),
                "groups_without_signal": metrics.mean(map(float, without_signal)),
            }
        )
        trained_BT = mask_BT * (advantages_BT != 0) if self._leaves_idle_rows_out else mask_BT
        self.counters.add("tokens/trained", int(trained_BT.sum()))

    def _write_records(
        self,
        trees: list[RolloutTree],
        behaviour: TokenScores,
        current: TokenScores,
        omega_BT: torch.Tensor,
        advantages_BT: torch.Tensor,
    ) -> None:
        per_token = {
            "behaviour_logprobs": behaviour.logps_BT,
            "logprobs": current.logps_BT,
            "entropies": current.entropies_BT,
            "omega": omega_BT,
            "advantages": advantages_BT,
        }
        step = self.state.global_step + 1
        records = gather_object(rollout_records(trees, per_token, step, self.args.train_on))
        if self.accelerator.is_main_process:
            append_records(self._records_path, records)
            self._records += len(records)
