"""`APPOTrainer`: when things happen (Algorithm 1), on TRL's `GRPOTrainer`.

Once per generation the current policy writes rollouts, and the method may expand them. Then, before every optimizer
step, that step's rollouts are scored with the current policy, the method branches and credits. What reaches TRL's
unchanged loss is a batch of rollouts with a (B, T) advantage: no gradient passes through branches.

Left out on purpose: what a method does (`methods/`), how rollouts are written (`rollout/writer.py`), and the loss,
checkpoints, PEFT, distribution and logging back-ends, which are TRL's and transformers' own.

    trainer = APPOTrainer("Qwen/Qwen3-0.6B", reward_funcs=..., args=APPOConfig(...), train_dataset=..., tools=[...])
    trainer.train()
"""

import warnings
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from trl.data_utils import is_conversational

from appo.files import write_json, write_text
from appo.methods import Credit
from appo.models.usage import FILE as USAGE_FILE
from appo.models.usage import Usage, usage_of
from appo.protocols.calls import decode
from appo.report.finish import places, print_ending, recorded_evaluations, write_pictures
from appo.report.model_card import CardFacts, model_card
from appo.report.progress import SHOWN, RichProgress
from appo.report.rollout_trace import rollout_traces
from appo.report.trackio_log import log_to_trackio
from appo.report.wandb_log import log_to_wandb
from appo.resumable_trainer import ResumableTrainer
from appo.rollout import metrics
from appo.rollout.batches import MiniBatch
from appo.rollout.loss_inputs import batch_inputs, busy_rows, loss_inputs, split, with_idle_rows, without_idle_rows
from appo.rollout.mismatch import branch_distances, correct
from appo.rollout.rewards import group_advantages
from appo.rollout.rollout_records import rollout_records
from appo.rollout.scoring import Scores, inherit_ratios, interleave_scores
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout
from appo.rollout.writer import EVALUATION_STREAM
from appo.rollout.zeros import EqualRewards

# Shapes: B rollouts that carry loss, T completion tokens.


class APPOTrainer(ResumableTrainer):
    """Agentic Procedural Policy Optimization (arXiv 2606.12384), or another method (`APPOConfig.method`).

    Takes what `GRPOTrainer` takes, with an `APPOConfig`. `tools` and `environment_factory` mean what they mean in TRL;
    an environment may add `fork()`. With `tool_protocol="tags"` the tokenizer needs no chat template for tools.

    In place of the progress bars and tables of transformers there is a bar in a terminal, a line every few seconds
    elsewhere (unless `disable_tqdm`), and at the end what the command line ends with: curves, report, and a table of
    what there is (unless `save_report=False`).

    Raises:
        ValueError: as `GRPOTrainer`, and for models that the embedded engine cannot run.
    """

    ends_with_report = True  # False where somebody else does, after more than training

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # To the standard output as plain text, in a notebook too: its own display would be a box per line.
        self.console = Console(markup=False, highlight=False, soft_wrap=True, force_jupyter=False)
        if not self.args.disable_tqdm:
            RichProgress.attach(self, "APPO", SHOWN, self.console)
        self._micro_batches: list[dict[str, Any]] | None = None
        self._told_of_distance = False
        self._last_update: tuple[list[RolloutTree], Scores, Credit] | None = None  # for the next log
        self._equal_rewards = EqualRewards(bool(self.pool.all_tools()))
        self.card_facts = CardFacts()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; then writes curves and report, and says what there is and where."""
        output = super().train(*args, **kwargs)
        if self.ends_with_report and self.args.save_records and self.args.save_report:
            self.accelerator.wait_for_everyone()  # whose records are read
            if self.is_world_process_zero():
                self.save_state()
                self._end(self.args.output_dir)
        return output

    def _end(self, directory: str) -> None:
        measured = recorded_evaluations(directory, self.args.success_reward)
        where = places(directory)
        write_pictures(directory, where, measured, self.args.success_reward, self.console)
        # Of many evaluations the first and the last one.
        print_ending([*measured[:1], *measured[1:][-1:]], where, self.console)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes README.md into `output_dir`, and beside the model where `card_facts` name another directory."""
        if self.is_world_process_zero():
            places = {Path(self.args.output_dir), Path(self.card_facts.model_directory or self.args.output_dir)}
            for directory in filter(Path.is_dir, places):
                write_text(directory / "README.md", str(model_card(self, directory, model_name, dataset_name, tags)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers, with the model card and `appo.json` (`appo.models.usage`)."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            directory = Path(output_dir or self.args.output_dir)
            write_json(directory / USAGE_FILE, self.usage.as_json())
            if not _internal_call:
                write_text(directory / "README.md", str(model_card(self, directory)))

    @cached_property
    def usage(self) -> Usage:
        """How the model wants to be asked; `appo.json` beside each model that is saved."""
        return usage_of(self.args, self.pool.all_tools(), (row.get("prompt") for row in self.train_dataset))

    # ---- Algorithm 1 ----

    def prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        if not self.model.training:
            with self.whole_weights():
                return self._evaluation_inputs(generation_batch)
        accumulation, per_generation = self.args.gradient_accumulation_steps, self.args.steps_per_generation
        if not self.begun:
            self.begin()
            self._micro_batches = None
            self._start_records()
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
        self._log_generation(trees)
        updates = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        size = len(trees) // updates
        mini_batches = []
        for start in range(0, len(trees), size):
            part = trees[start : start + size]
            batch, scores = self.writer.score(self._trained(part))
            sizes = [len(tree.rollouts) for tree in part]
            mini_batches.append(MiniBatch(part, batch, scores, self.state.global_step, sizes))
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
        self._log_mini_batch(trees, scores, credit)
        self._last_update = trees, scores, credit
        if self.args.save_records:
            self.num_records += self.records.append(
                self.state.global_step + 1, self._records_of(trees, scores, credit, self.state.global_step + 1)
            )
        return self._micro_batches_of(scores, credit)

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

    def _micro_batches_of(self, scores: Scores, credit: Credit) -> list[dict[str, Any]]:
        """The loss's inputs in equal parts. TRL's token-mean losses expect `num_items_in_batch` of a generation."""
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
        if self._skips_idle:
            # As many on every process, because TRL gathers a number per row.
            busy = int(self.accelerator.gather(busy_rows(inputs).sum()).max())
            inputs = without_idle_rows(inputs, max(accumulation, -(-busy // accumulation) * accumulation))
        elif self.method.needs.trains == "all" and self.accelerator.num_processes > 1:
            # Where a rollout was too short for its branches, a process has fewer.
            rows = torch.tensor([len(inputs["tool_mask"])], device=self.accelerator.device)
            inputs = with_idle_rows(inputs, int(self.accelerator.gather(rows).max()), self.args.loss_type)
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

    @property
    def _skips_idle(self) -> bool:
        return self.method.needs.skips_idle and self.loss_sees_advantages_alone

    def _evaluation_inputs(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rollouts without branches, one per row; TRL's sampler puts the rows of one prompt together."""
        size = self.num_generations_eval
        self.evaluation_batches += 1
        trees = self.writer.write(rows[::size], size, EVALUATION_STREAM + self.evaluation_batches)
        rollouts = [rollout for tree in trees for rollout in tree.initial]
        self._log_generation(trees)
        self.log_means(metrics.rollout_metrics(rollouts, self.args.success_reward))
        batch = self.writer.collate(rollouts)
        self.record_evaluation(f"{self.state.global_step:06d}-{self.evaluation_batches}", trees)
        self.writer.release(trees)
        advantages_B = torch.cat([group_advantages(tree.initial) for tree in trees]).to(self.accelerator.device)
        inputs = batch_inputs(batch, batch.policy_mask_BT, advantages_B)
        if self.args.corrects_sampling:  # an evaluation's loss is not corrected
            inputs["importance_sampling_ratio"] = torch.ones_like(batch.policy_mask_BT, dtype=torch.float32)
        inputs["num_items_in_batch"] = self.accelerator.gather(batch.policy_mask_BT.sum()).sum()
        if self.beta != 0.0:
            inputs["ref_per_token_logps"] = self.reference_logps(batch)
        return inputs

    # ---- what is logged and written down ----

    def _log_generation(self, trees: list[RolloutTree]) -> None:
        """TRL's own metrics of a generation, over the initial rollouts."""
        rollouts = [rollout for tree in trees for rollout in tree.initial]
        self.log_means(metrics.generation_metrics(trees, self.reward_func_names))
        if self.model.training:
            if sentence := self._equal_rewards.look(rollouts):
                warnings.warn(sentence, stacklevel=2)
            tokens = sum(len(r.prompt_ids) + sum(r.policy_mask) for r in rollouts)
            seen = self.accelerator.gather(torch.tensor([tokens], device=self.accelerator.device)).sum().item()
            self.state.num_input_tokens_seen += int(seen)
        if self.log_completions:
            conversational = is_conversational({"prompt": rollouts[0].prompt})
            self.log_table(
                [rollout.prompt for rollout in rollouts],
                [self.protocol.completion(rollout, conversational) for rollout in rollouts],
                [rollout.rewards for rollout in rollouts],
                [difference for tree in trees for difference in metrics.reward_differences(tree)],
            )

    def _log_mini_batch(self, trees: list[RolloutTree], scores: Scores, credit: Credit) -> None:
        signal_B = (credit.advantages_BT * credit.loss_mask_BT).abs().amax(dim=1)
        without_signal = [part.max().item() == 0 for part in signal_B.split(scores.sizes)]
        self.log_means(
            {
                **metrics.rollout_metrics([r for tree in trees for r in tree.initial], self.args.success_reward),
                **metrics.branch_metrics(trees, self.protocol),
                **self.method.metrics(credit, scores),
                "groups_without_signal": metrics.mean(map(float, without_signal)),
            }
        )
        trained_BT = credit.loss_mask_BT * (credit.advantages_BT != 0) if self._skips_idle else credit.loss_mask_BT
        self.counters.add("tokens/trained", int(trained_BT.sum()))

    def _start_records(self) -> None:
        if not self.args.save_records:
            return
        kept = self.records.start(self.state.global_step, self.accelerator.wait_for_everyone)
        if kept < self.num_records:
            warnings.warn(
                f"{self.records.directory} holds {kept} records of the {self.num_records} that were written before "
                f"update {self.state.global_step + 1}; what is drawn and told from it lacks the others.",
                stacklevel=2,
            )
        self.num_records = kept

    def _records_of(self, trees: list[RolloutTree], scores: Scores, credit: Credit, step: int) -> list[dict[str, Any]]:
        per_token = {"behaviour_logprobs": scores.behaviour.logps_BT, "entropies": scores.current.entropies_BT}
        if self.method.needs.current_scores:
            per_token["logprobs"] = scores.current.logps_BT
        per_token.update(**credit.measured, advantages=credit.advantages_BT)
        factors = {"base": credit.base_BT, **credit.factors, "loss_mask": credit.loss_mask_BT}
        trains = self.method.needs.trains
        return rollout_records(trees, per_token, step, trains, factors=factors, decisions=self.method.decisions)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self.model.training and self.is_world_process_zero():
            self._log_traces()

    def _log_traces(self) -> None:
        """Sends some of the last update's rollouts, of this process, to the trackers that show traces."""
        loggers = {"trackio": log_to_trackio, "wandb": log_to_wandb}
        asked = [log for name, log in loggers.items() if name in self.args.report_to and self.args.traces_per_log]
        if not asked or self._last_update is None:
            return
        step, (trees, scores, credit) = self.state.global_step, self._last_update
        self._last_update = None
        traces = rollout_traces(
            trees,
            self._records_of(trees, scores, credit, step),
            partial(decode, self.tokenizer),
            tags=self.args.tool_protocol == "tags",
            most=self.args.traces_per_log,
        )
        for log in asked:
            log(traces, step)
