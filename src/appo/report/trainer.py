"""`ReportingTrainer`: what a trainer tells while it goes on, and what it leaves behind.

Progress, metrics, records, traces for trackers; a card and `appo.json` beside each model; and at the end curves,
report and a table.

Left out on purpose: when any of it happens in an update (`appo.trainer`), and what the files look like, each of which
has a module of its own.
"""

import warnings
from collections.abc import Callable
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
from appo.report.progress import SHOWN, RichProgress, title_of
from appo.report.trackers.rollout_trace import rollout_traces
from appo.report.trackers.trackio_log import log_to_trackio
from appo.report.trackers.wandb_log import log_to_wandb
from appo.resumable_trainer import ResumableTrainer
from appo.rollout import metrics
from appo.rollout.rollout_records import rollout_records
from appo.rollout.scoring import Scores
from appo.rollout.tree import RolloutTree
from appo.rollout.zeros import EqualRewards


class ReportingTrainer(ResumableTrainer):
    """Tells and writes down; see `APPOTrainer` for the arguments."""

    ends_with_report = True  # False where somebody else does, after more than training

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # To the standard output as plain text, in a notebook too: its own display would be a box per line.
        self.console = Console(markup=False, highlight=False, soft_wrap=True, force_jupyter=False)
        if not self.args.disable_tqdm:
            RichProgress.attach(self, title_of(self.args.method), SHOWN, self.console)
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
        ends = {one.step for one in (*measured[:1], *measured[-1:])}  # of many, those of the first and the last update
        print_ending([one for one in measured if one.step in ends], where, self.console)

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
        own = () if self.agent else self.train_dataset  # an agent writes prompts of its own
        return usage_of(self.args, self.pool.all_tools(), (row.get("prompt") for row in own))

    # ---- of a generation and an update ----

    def log_generation(self, trees: list[RolloutTree]) -> None:
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
                [self.writer.completion_of(rollout, conversational) for rollout in rollouts],
                [rollout.rewards for rollout in rollouts],
                [difference for tree in trees for difference in metrics.reward_differences(tree)],
            )

    def write_down(self, trees: list[RolloutTree], scores: Scores, credit: Credit) -> None:
        """Metrics and records of an update, before its optimizer step."""
        self._log_mini_batch(trees, scores, credit)
        if self._traced():
            self._last_update = trees, scores, credit
        if self.args.save_records:
            step = self.state.global_step + 1
            self.num_records += self.records.append(step, self._records_of(trees, scores, credit, step))

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

    def count_trained(self, credit: Credit) -> None:
        """Counts the tokens of an update that carry loss, further segments' too."""
        trained_BT = credit.loss_mask_BT * (credit.advantages_BT != 0) if self.skips_idle else credit.loss_mask_BT
        self.counters.add("tokens/trained", int(trained_BT.sum()))

    def start_records(self) -> None:
        """Goes on from the records of the steps that count; says so where some are missing."""
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

    def _traced(self) -> list[Callable[..., None]]:
        """What sends traces to the trackers that were asked for."""
        loggers = {"trackio": log_to_trackio, "wandb": log_to_wandb}
        return [log for name, log in loggers.items() if name in self.args.report_to and self.args.traces_per_log]

    def _log_traces(self) -> None:
        """Sends some of the last update's rollouts, of this process, to the trackers that show traces."""
        if self._last_update is None:
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
        for log in self._traced():
            log(traces, step)

    @property
    def skips_idle(self) -> bool:
        """Whether rollouts without any advantage are left out of the loss."""
        return self.method.needs.skips_idle and self.loss_sees_advantages_alone
