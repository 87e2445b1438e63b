"""What a recipe's batch sizes come to: generations, updates, rollouts and tokens, by arithmetic alone.

Left out on purpose: the study's budgets in tokens, and tasks that DAPO's sampling replaces.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from trl import SFTConfig

from appo.config import APPOConfig
from appo.methods import Method


@dataclass(frozen=True)
class RunPlan:
    """The plan of a training run.

    Args:
        args: The configuration, as one process has it.
        processes: How many processes train.
        tasks: Rows of the training data.
    """

    args: APPOConfig
    processes: int
    tasks: int

    @property
    def rollouts_per_task(self) -> int:
        return self.args.num_generations or 1

    @property
    def tasks_per_update(self) -> int:
        """Over all processes."""
        rollouts = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return self.processes * rollouts // self.rollouts_per_task

    @property
    def tasks_per_generation(self) -> int:
        """Over all processes. TRL leaves out what does not fill a generation at the end of an epoch."""
        rollouts = self.args.per_device_train_batch_size * (self.args.steps_per_generation or 1)
        return self.processes * rollouts // self.rollouts_per_task

    @property
    def updates_per_generation(self) -> int:
        steps = self.args.steps_per_generation or 1
        return steps // self.args.gradient_accumulation_steps * self.args.num_iterations

    @property
    def updates(self) -> int:
        if self.args.max_steps > 0:
            return self.args.max_steps
        per_epoch = self.tasks // self.tasks_per_generation * self.updates_per_generation
        return math.ceil(self.args.num_train_epochs * per_epoch)

    @property
    def generations(self) -> int:
        return math.ceil(self.updates / self.updates_per_generation)

    @cached_property
    def method(self) -> Method:
        return self.args.open_method()

    @property
    def branches_at_once(self) -> int:
        """At most: of an update's tasks, or of a generation's where the method branches once per generation."""
        tasks = self.tasks_per_update if self.method.branches_per_update else self.tasks_per_generation
        return (self.rollouts_per_task - self.args.num_initial_rollouts) * tasks

    @property
    def rollouts(self) -> int:
        """At most: a method may find too few places for its branches."""
        initial = self.generations * self.tasks_per_generation * self.args.num_initial_rollouts
        rounds = self.updates if self.method.branches_per_update else self.generations
        return initial + rounds * self.branches_at_once

    @property
    def rollouts_per_update(self) -> float:
        """What is written for an update on average, at most: its generation's part, and branches of its own."""
        per_generation = self.tasks_per_generation * self.args.num_initial_rollouts
        if self.method.branches_per_update:
            return per_generation / self.updates_per_generation + self.branches_at_once
        return (per_generation + self.branches_at_once) / self.updates_per_generation

    @property
    def trained_rollouts_per_update(self) -> int:
        whole = self.method.needs.trains == "all"
        return self.tasks_per_update * (self.rollouts_per_task if whole else self.args.num_initial_rollouts)

    @property
    def checkpoints(self) -> int:
        """Those that `save_steps` asks for; 0 where it does not count updates."""
        counted = self.args.save_strategy == "steps" and self.args.save_steps >= 1
        return int(self.updates // self.args.save_steps) if counted else 0

    def lines(self) -> list[tuple[str, str]]:
        """The plan in words, by topic."""
        args, limit = self.args, self.args.max_completion_length or 0
        initial = self.tasks_per_generation * args.num_initial_rollouts
        written, trained = self.tasks_per_update * self.rollouts_per_task, self.trained_rollouts_per_update
        share = f"{self.processes} x {self.tasks_per_update / self.processes:g}"
        passes = f"{args.gradient_accumulation_steps} x {args.micro_batch_rows} rollouts"
        kept = f", the last {args.save_total_limit} are kept" if args.save_total_limit else ""
        saved = f"{self.checkpoints:,}, every {args.save_steps:g} updates{kept}" if self.checkpoints else "none"
        anew, branches = self.method.branches_per_update, self.branches_at_once
        first = "" if anew or not branches else f", at most {branches:,} branches"
        return [
            ("tasks", f"{self.tasks:,}, {self.rollouts_per_task} rollouts each (branches included)"),
            ("generation", f"{self.tasks_per_generation} tasks, {initial:,} initial rollouts{first}; then "
             f"{self.updates_per_generation} updates"),
            ("update", f"{self.tasks_per_update} tasks (processes x tasks: {share})"
             f"{f', {branches:,} branches' if anew else ''}; forwards on each: {passes}"),
            ("run", f"{self.generations:,} generations, {self.updates:,} updates, {self.rollouts:,} rollouts"),
            ("tokens, at most", f"{limit:,} a rollout; {written * limit:,} an update, {trained * limit:,} of them "
             f"trained on; {self.rollouts * limit:,} in all"),
            ("checkpoints", saved),
        ]  # fmt: skip


def cold_start_updates(args: SFTConfig, processes: int, demonstrations: int) -> int:
    """Optimizer updates of the cold start."""
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(demonstrations / (processes * args.per_device_train_batch_size))
    per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return math.ceil(args.num_train_epochs * per_epoch)


def cold_start_line(args: SFTConfig, processes: int, traces: list[str] | None, demonstrations: int | None) -> str:
    """The cold start in words; `demonstrations` is None where their number is not known."""
    batch = processes * args.per_device_train_batch_size * args.gradient_accumulation_steps
    parts = [
        f"traces of {', '.join(traces)}" if traces else "demonstrations of the task",
        f"batches of {batch}",
        f"{args.num_train_epochs:g} epoch(s)" if args.max_steps <= 0 else "",
        f"at most {args.max_length:,} tokens each" if args.max_length else "",
        f"{cold_start_updates(args, processes, demonstrations):,} updates" if demonstrations else "",
    ]
    return ("" if demonstrations is None else f"{demonstrations:,} ") + "; ".join(filter(None, parts))
