"""`APPOTrainer`: when things happen (Algorithm 1), on TRL's `GRPOTrainer`.

Once per generation the current policy writes rollouts, and the method may expand them. Then, before every optimizer
step, that step's rollouts are scored with the current policy, the method branches and credits. What reaches TRL's
unchanged loss is a batch of rollouts with a (B, T) advantage: no gradient passes through branches. An agent's further
segments are added where that batch is made (`rollout/further.py`); nothing before knows of them.

Left out on purpose: what a method does (`methods/`), how rollouts are written (`rollout/writer.py`), and the loss,
checkpoints, PEFT, distribution and logging back-ends, which are TRL's and transformers' own; and what is told and
written down on the way (`report/trainer.py`).

    trainer = APPOTrainer("Qwen/Qwen3-0.6B", reward_funcs=..., args=APPOConfig(...), train_dataset=..., tools=[...])
    trainer.train()
"""

import re
import warnings
from dataclasses import replace
from typing import Any

import torch

from appo.methods import Credit
from appo.report.trainer import ReportingTrainer
from appo.rollout import metrics
from appo.rollout.batches import MiniBatch
from appo.rollout.further import Segment, segments_of, with_segments
from appo.rollout.loss_inputs import batch_inputs, busy_rows, loss_inputs, split, with_idle_rows, without_idle_rows
from appo.rollout.mismatch import branch_distances, correct
from appo.rollout.rewards import group_advantages
from appo.rollout.scoring import Scores, inherit_ratios, interleave_scores
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout
from appo.rollout.writer import EVALUATION_STREAM

# Shapes: B rollouts that carry loss, T completion tokens.


class APPOTrainer(ReportingTrainer):
    """Agentic Procedural Policy Optimization (arXiv 2606.12384), or another method (`APPOConfig.method`).

    Takes what `GRPOTrainer` takes, with an `APPOConfig`. `tools` and `environment_factory` mean what they mean in TRL;
    an environment may add `fork()`. With `tool_protocol="tags"` the tokenizer needs no chat template for tools.

    In place of the progress bars and tables of transformers there is a bar in a terminal, a line every few seconds
    elsewhere (unless `disable_tqdm`), and at the end what the command line ends with: curves, report, and a table of
    what there is (unless `save_report=False`).

    Raises:
        ValueError: as `GRPOTrainer`, and for models that the embedded engine cannot run.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._micro_batches: list[dict[str, Any]] | None = None
        self._told_of_distance = False
        self._evaluated = ""  # which of several evaluation sets

    def prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        if not self.model.training:
            with self.whole_weights():
                return self._evaluation_inputs(generation_batch)
        accumulation, per_generation = self.args.gradient_accumulation_steps, self.args.steps_per_generation
        if not self.begun:
            self.begin()
            self._micro_batches = None
            self.start_records()
        if self.micro_step % (per_generation * self.num_iterations) == 0 or not self.mini_batches:
            with self.whole_weights():
                self.mini_batches = self._write_generation(generation_batch)
        if self.micro_step % accumulation == 0 or self._micro_batches is None:
            mini_batch = self.mini_batches[self.micro_step % per_generation // accumulation]
            with self.whole_weights():
                self._micro_batches = self._prepare_mini_batch(mini_batch)
        return self._micro_batches[self.micro_step % accumulation]

    def _write_generation(self, rows: list[dict[str, Any]]) -> list[MiniBatch]:
        """Steps 1 and 2a's behaviour policy: rollouts, rewards, and their log-probabilities (pi_old)."""
        self.writer.begin_generation()
        trees = self.writer.write(rows[:: self.num_generations], self.method.num_initial)
        trees = self.method.expand(trees, self.writer)
        self.log_generation(trees)
        updates = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        size = len(trees) // updates
        mini_batches = []
        for start in range(0, len(trees), size):
            part = trees[start : start + size]
            batch, scores = self.writer.score(self._trained(part))
            sizes = [len(tree.rollouts) for tree in part]
            further = self._scored_further(self._trained(part))
            mini_batches.append(MiniBatch(part, batch, scores, self.state.global_step, sizes, further))
        return mini_batches

    def _prepare_mini_batch(self, mini_batch: MiniBatch) -> list[dict[str, Any]]:
        """Steps 2a-2c of Algorithm 1: score, branch, reward, credit; returns the micro-batches of one update."""
        trees, behaviour = mini_batch.trees, mini_batch.behaviour
        # Nothing to compute before the first update: the policy is still the one that wrote the rollouts.
        fresh = mini_batch.written_at == self.state.global_step or not self.method.needs.current_scores
        current = behaviour if fresh else self.writer.score_batch(mini_batch.batch)
        # As many as were there when it was written: an earlier pass may have left branches.
        sizes = [tree.num_initial for tree in trees] if self.method.needs.trains == "initial" else mini_batch.sizes
        scores = Scores(mini_batch.batch, behaviour, current, sizes)
        self.method.branch(trees, scores, self.writer)
        if self.args.use_vllm:
            self.log_means({"sampling/branch_logp_difference": metrics.mean(branch_distances(trees, scores))})
        if len(self._trained(trees)) > len(behaviour.logps_BT):
            scores = self._with_branches(trees, scores)
        credit = self.method.credit(trees, scores)
        self.write_down(trees, scores, credit)
        further = self._further(mini_batch, sizes)
        joins = bool(further) and not self._everywhere(not any(further))  # all processes go the same way
        if joins:
            scores, credit = self._with_further(trees, scores, credit, further)
        self.count_trained(credit)
        return self._micro_batches_of(scores, credit, joins)

    def _trained(self, trees: list[RolloutTree]) -> list[Rollout]:
        """The rollouts that carry loss, in the order of the trees."""
        return [rollout for tree in trees for rollout in tree.trained(self.method.needs.trains)]

    def _with_branches(self, trees: list[RolloutTree], known: Scores) -> Scores:
        """Scores of all rollouts, of which only the branches are scored anew.

        Branches are written by the present policy: a branch has its parent's ratios up to where it left it, then 1.
        """
        _, written = self.writer.score([branch for tree in trees for branch in tree.branches])
        rollouts = [rollout for tree in trees for rollout in tree.rollouts]
        batch = self.writer.collate(rollouts)
        ratios_BT = torch.zeros(batch.completion_ids_BT.shape, device=known.current.logps_BT.device)
        inherit_ratios(trees, known.log_ratio_BT, known.rows, ratios_BT)
        is_branch = [rollout.parent is not None for rollout in rollouts]
        current = interleave_scores(is_branch, known.current, written, ratios_BT.shape[1])
        behaviour = interleave_scores(is_branch, known.behaviour, written, ratios_BT.shape[1])
        behaviour = replace(behaviour, logps_BT=current.logps_BT - ratios_BT)
        return Scores(batch, behaviour, current, [len(tree.rollouts) for tree in trees])

    def _scored_further(self, rollouts: list[Rollout]) -> list[list[Segment]]:
        """Further segments of rollouts that the present policy wrote; [] where no run has any."""
        further = self.writer.further(rollouts)
        segments = [segment for own in further for segment in own]
        return segments_of(further, self.writer.score(segments)[1]) if segments else [[] for _ in further]

    def _further(self, mini_batch: MiniBatch, sizes: list[int]) -> list[list[Segment]]:
        """Those of all rollouts that carry loss: of `sizes` of each tree they are known, the others are new."""
        trained = [tree.trained(self.method.needs.trains) for tree in mini_batch.trees]
        new = [rollout for own, size in zip(trained, sizes, strict=True) for rollout in own[size:]]
        if not mini_batch.further or not new:
            return mini_batch.further
        known, written = iter(mini_batch.further), iter(self._scored_further(new))
        return [
            next(known if place < size else written)
            for own, size in zip(trained, sizes, strict=True)
            for place in range(len(own))
        ]

    def _with_further(
        self, trees: list[RolloutTree], scores: Scores, credit: Credit, further: list[list[Segment]]
    ) -> tuple[Scores, Credit]:
        rows = [
            row
            for rollout, own in zip(self._trained(trees), further, strict=True)
            for row in (rollout, *(segment.rollout for segment in own))
        ]
        self.counters.add("agent/rows", len(rows) - len(further))
        return with_segments(scores, credit, further, self.writer.collate(rows), self.args.loss_type)

    def _micro_batches_of(self, scores: Scores, credit: Credit, joined: bool = False) -> list[dict[str, Any]]:
        """The loss's inputs in equal parts. TRL's token-mean losses expect `num_items_in_batch` of a generation.

        Args:
            joined: Whether further segments are among the rows, here or on another process.
        """
        inputs = loss_inputs(scores, credit)
        if self.args.corrects_sampling:
            inputs["importance_sampling_ratio"] = self._sampling_ratio(scores, credit)
        if self.args.use_vllm:  # the loss reads it for off_policy_mask_threshold
            inputs["sampling_per_token_logps"] = scores.batch.engine_logps_BT.nan_to_num(nan=0.0)
        if self.beta != 0.0:
            inputs["ref_per_token_logps"] = self.reference_logps(scores.batch)
        accumulation = self.args.gradient_accumulation_steps
        updates = self.args.steps_per_generation // accumulation
        items = self.accelerator.gather(inputs["tool_mask"].sum() * updates).sum()
        # As many on every process, because TRL gathers a number per row. Where a rollout was too short for its
        # branches, or a run had fewer segments, a process has fewer.
        if joined or (self.method.needs.trains == "all" and self.accelerator.num_processes > 1):
            rows = torch.tensor([len(inputs["tool_mask"])], device=self.accelerator.device)
            parts = accumulation if joined else 1  # micro-batches are of one size
            size = -(-int(self.accelerator.gather(rows).max()) // parts) * parts
            inputs = with_idle_rows(inputs, size, self.args.loss_type)
        if self.skips_idle:
            busy = int(self.accelerator.gather(busy_rows(inputs).sum()).max())
            inputs = without_idle_rows(inputs, max(accumulation, -(-busy // accumulation) * accumulation))
        return split(inputs, accumulation, items)

    def _sampling_ratio(self, scores: Scores, credit: Credit) -> torch.Tensor:
        """The trainer's over the engine's probability of each token when it was written, within bounds."""
        correction = correct(
            scores.behaviour.logps_BT,
            scores.batch.engine_logps_BT,
            credit.loss_mask_BT,
            mode=self.args.vllm_importance_sampling_mode,
            clip_min=self.args.vllm_importance_sampling_clip_min,
            clip_max=self.args.vllm_importance_sampling_clip_max,
        )
        self.log_means(correction.metrics())
        if correction.complaint and not self._told_of_distance:
            self._told_of_distance = True
            warnings.warn(correction.complaint, stacklevel=2)
        return correction.ratio_BU

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As in transformers; of several evaluation sets, the prefix tells which one it is."""
        name = "" if metric_key_prefix == "eval" else metric_key_prefix.removeprefix("eval_")
        self._evaluated = re.sub(r"[^\w-]", "_", name)  # as names of records are
        return super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)

    def _evaluation_inputs(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rollouts without branches, one per row; TRL's sampler puts the rows of one prompt together."""
        size = self.num_generations_eval
        self.evaluation_batches += 1
        trees = self.writer.write(rows[::size], size, EVALUATION_STREAM + self.evaluation_batches)
        rollouts = [rollout for tree in trees for rollout in tree.initial]
        self.log_generation(trees)
        self.log_means(metrics.rollout_metrics(rollouts, self.args.success_reward))
        batch = self.writer.collate(rollouts)
        name = "-".join(filter(None, (f"{self.state.global_step:06d}", self._evaluated, str(self.evaluation_batches))))
        self.record_evaluation(name, trees)
        self.writer.release(trees)
        advantages_B = torch.cat([group_advantages(tree.initial) for tree in trees]).to(self.accelerator.device)
        inputs = batch_inputs(batch, batch.policy_mask_BT, advantages_B)
        if self.args.corrects_sampling:  # an evaluation's loss is not corrected
            inputs["importance_sampling_ratio"] = torch.ones_like(batch.policy_mask_BT, dtype=torch.float32)
        inputs["num_items_in_batch"] = self.accelerator.gather(batch.policy_mask_BT.sum()).sum()
        if self.beta != 0.0:
            inputs["ref_per_token_logps"] = self.reference_logps(batch)
        return inputs
