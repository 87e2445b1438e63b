"""`trainer.v1.trainer_mode=appo`: verl's synchronous trainer, whose `step` is Algorithm 1.

Once per generation the rollouts are written and scored (pi_old). Then, before each optimizer step, those of its mini-
batch are scored anew, the method branches (`writer.py`) and credits, and verl's own `_update_actor` gets the advantage
of each token. `actor.ppo_epochs` passes over a generation are passes of this kind, as TRL's `num_iterations`.

Left out on purpose: critics, KL in the reward, dynamic sampling, reward models beside the policy and verl's bypass
mode, which are refused by name; tasks whose rollouts failed, which end the run (verl's log has the traceback).
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from omegaconf import open_dict
from transfer_queue import KVBatchMeta
from verl.protocol import DataProto
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.trainer.ppo.v1.utils import MetricsAggregator
from verl.utils.debug import marked_timer

from appo.integrations.verl import queue
from appo.integrations.verl.equipment import Equipment
from appo.integrations.verl.options import check_config, method_of, options_of
from appo.integrations.verl.writer import VerlWriter
from appo.methods import Credit
from appo.rollout import metrics as rollout_metrics
from appo.rollout.record_files import DIRECTORY
from appo.rollout.records import RecordWriter
from appo.rollout.rollout_records import rollout_records
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree

# Shapes: B rollouts that carry loss, T completion tokens.


@register_trainer("appo")
class APPOTrainerSync(PPOTrainerSync):
    """
    Raises:
        UserError: for options and settings that are wrong or not supported, before anything is loaded.
    """

    def __init__(self, config: Any) -> None:
        self.options = options_of(config)
        check_config(config)
        self.method = method_of(config, self.options)
        actor = config.actor_rollout_ref.actor
        self.passes = int(actor.ppo_epochs)
        with open_dict(config):
            actor.ppo_epochs = 1  # a pass of verl's would not score, branch and credit anew
        super().__init__(config)
        self.updates = config.data.train_batch_size // actor.ppo_mini_batch_size * self.passes
        self.parameter_sync_step = self.updates  # verl's horizon of the learning rate counts optimizer steps by it

    def _build_replay_buffer(self) -> Any:
        self.trainer_mode = "sync"  # wherever verl asks what its synchronous mode needs
        return super()._build_replay_buffer()

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        rollout = self.config.actor_rollout_ref.rollout
        template_kwargs = dict(self.config.data.get("apply_chat_template_kwargs") or {})
        equipment = Equipment(self.options, self.tokenizer, rollout.multi_turn.format, None, template_kwargs)
        self.protocol = equipment.protocol
        self.writer = VerlWriter(self, self.options.seed)
        directory = Path(self.config.trainer.default_local_dir) / DIRECTORY
        settings = {**dataclasses.asdict(self.options), "method_options": vars(self.method.options)}
        self.records = RecordWriter(directory, settings, self.tokenizer)
        self._records_begun = False

    # ---- Algorithm 1 ----

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        """One generation and its updates."""
        self.writer.update = (self.global_steps - 1) * self.updates + 1
        if self.options.save_records and not self._records_begun:
            self.records.start(self.writer.update - 1)
            self._records_begun = True
        with marked_timer("gen", timing_raw, color="red"):
            self.prepare_step()
            batch = self.sample(self.config.data.train_batch_size)
        trees = self._trees(batch)
        self._score_generation(batch, metrics, timing_raw)
        size = self.config.actor_rollout_ref.actor.ppo_mini_batch_size
        aggregator = MetricsAggregator()
        for start in [*range(0, len(trees), size)] * self.passes:
            found: dict[str, Any] = {}
            self._update(trees[start : start + size], found, timing_raw)
            aggregator.add_step_metrics(found, sample_count=size)
            self.writer.update += 1
        metrics.update(aggregator.get_aggregated_metrics())
        return batch

    def _submit_batch_to_rollout(self, batch: Any) -> int:
        return super()._submit_batch_to_rollout(self.writer.begin(batch))

    def sample(self, tasks: int) -> KVBatchMeta:
        """Waits for the rollouts of so many rows that were submitted; then the servers sleep."""
        self.on_sample_begin()
        batch, _ = self.replay_buffer.sample(
            global_steps=self.global_steps, partition_id=queue.TRAIN, batch_size=tasks
        )
        batch.extra_info["temperature"] = self.config.actor_rollout_ref.rollout.temperature
        self.on_sample_end()
        return batch

    def _trees(self, batch: KVBatchMeta) -> list[RolloutTree]:
        """The generation's tasks, in the order in which they were submitted.

        Raises:
            RuntimeError: where a rollout failed.
        """
        writer, expected = self.writer, self.method.num_initial
        writer.tags = dict(zip(batch.keys, batch.tags, strict=True))
        rows, places = writer.generation
        trees = {uid: RolloutTree(queue.row_at(rows, place), uid) for uid, place in places.items()}
        keys = sorted(batch.keys, key=lambda key: (places[queue.uid_of(key)], key))
        for key, rollout in zip(keys, queue.read_rollouts(keys), strict=True):
            trees[queue.uid_of(key)].add_initial(rollout)
            writer.keys[id(rollout)] = key
        if missing := expected * len(trees) - len(keys):
            raise RuntimeError(f"{missing} of {expected * len(trees)} rollouts failed; the agent loop's log says why.")
        return list(trees.values())

    def _score_generation(self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, float]) -> None:
        """pi_old, and the reference policy's log-probabilities where the loss has a KL term."""
        padded = self._balance_batch(queue.meta_of(batch.keys, self.writer.tags), metrics)
        padded.extra_info.update(batch.extra_info)
        with marked_timer("old_log_prob", timing_raw, color="blue"):
            padded = self._compute_old_log_prob(padded, metrics)
        if self.use_reference_policy:
            with marked_timer("ref", timing_raw, color="olive"):
                self._compute_ref_log_prob(padded, metrics)
        queue.clear([key for key in padded.keys if key not in self.writer.tags])

    def compute_log_probs(self, meta: KVBatchMeta) -> None:
        """Scores what lies under these keys under the present policy; `log_probs` and `entropy` lie there then."""
        known = set(meta.keys)
        padded = self._balance_batch(meta, {})
        temperature = self.config.actor_rollout_ref.rollout.temperature
        padded.extra_info.update(calculate_entropy=True, compute_loss=False, temperature=temperature)
        self.actor_rollout_wg.compute_log_prob(padded)
        queue.clear([key for key in padded.keys if key not in known])

    def _update(self, trees: list[RolloutTree], metrics: dict[str, Any], timing_raw: dict[str, float]) -> None:
        """Steps 2a to 2d of Algorithm 1 for one mini-batch."""
        writer = self.writer
        keys = [writer.keys[id(rollout)] for tree in trees for rollout in tree.initial]
        with marked_timer("score", timing_raw, color="blue"):
            scores = self._scores(trees, keys)
        with marked_timer("branch", timing_raw, color="red"):
            self.method.branch(trees, scores, writer)
        credit = self.method.credit(trees, scores)
        meta = self._with_credit(keys, scores, credit, metrics)
        self._log(trees, scores, credit, metrics)
        with marked_timer("update_actor", timing_raw, color="red"):
            self._update_actor(self._balance_batch(meta, metrics), metrics)
        writer.drop_branches()

    def _scores(self, trees: list[RolloutTree], keys: list[str]) -> Scores:
        """Before the first update of a generation the policy is still the one that wrote it: nothing to compute."""
        batch = self.writer.collate([rollout for tree in trees for rollout in tree.initial])
        behaviour = self.writer.scores_at(keys, "old_log_probs", "entropy")
        fresh = (self.writer.update - 1) % self.updates == 0 or not self.method.needs.current_scores
        current = behaviour if fresh else self.writer.score_keys(keys)
        return Scores(batch, behaviour, current, [tree.num_initial for tree in trees])

    def _with_credit(self, keys: list[str], scores: Scores, credit: Credit, metrics: dict[str, Any]) -> KVBatchMeta:
        """Writes what verl's loss reads into the queue."""
        mask_BT = credit.loss_mask_BT
        tokens = {"advantages": credit.advantages_BT * mask_BT, "returns": credit.advantages_BT * mask_BT}
        if credit.old_logps_BT is not None:
            tokens["old_log_probs"] = credit.old_logps_BT
        correction = self.config.algorithm.rollout_correction
        if correction.rollout_is or correction.rollout_rs:
            written = queue.rows_of(keys, "rollout_log_probs")["rollout_log_probs"]
            width = scores.length
            padded_BT = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in written])
            data = DataProto.from_dict(
                {"old_log_probs": scores.behaviour.logps_BT, "rollout_log_probs": padded_BT, "response_mask": mask_BT}
            )
            data, found = compute_rollout_correction_and_add_to_batch(data, correction)
            metrics.update(found)
            mask_BT = data.batch["response_mask"]
            if "rollout_is_weights" in data.batch:
                tokens["rollout_is_weights"] = data.batch["rollout_is_weights"]
        if not torch.equal(mask_BT, scores.batch.policy_mask_BT):
            tokens["response_mask"] = tokens["loss_mask"] = mask_BT
        queue.put_tokens(keys, **tokens)
        return queue.meta_of(keys, self.writer.tags)

    # ---- what is logged and written down ----

    def _log(self, trees: list[RolloutTree], scores: Scores, credit: Credit, metrics: dict[str, Any]) -> None:
        initial = [rollout for tree in trees for rollout in tree.initial]
        signal_B = (credit.advantages_BT * credit.loss_mask_BT).abs().amax(dim=1)
        idle = [part.max().item() == 0 for part in signal_B.split(scores.sizes)]
        found = {
            **rollout_metrics.rollout_metrics(initial, self.options.success_reward),
            **rollout_metrics.branch_metrics(trees, self.protocol),
            **self.method.metrics(credit, scores),
            "groups_without_signal": rollout_metrics.mean(map(float, idle)),
        }
        metrics.update({f"appo/{name}": value for name, value in found.items() if value == value})
        if self.options.save_records:
            self._write_records(trees, scores, credit)

    def _write_records(self, trees: list[RolloutTree], scores: Scores, credit: Credit) -> None:
        per_token = {"behaviour_logprobs": scores.behaviour.logps_BT, "entropies": scores.current.entropies_BT}
        if self.method.needs.current_scores:
            per_token["logprobs"] = scores.current.logps_BT
        per_token.update(**credit.measured, advantages=credit.advantages_BT)
        factors = {"base": credit.base_BT, **credit.factors, "loss_mask": credit.loss_mask_BT}
        step = self.writer.update
        self.records.append(step, rollout_records(trees, per_token, step, factors=factors))
