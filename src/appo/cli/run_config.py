"""The fields of a run besides those of its trainer: task, model, data, cold start, and what the command may do.

Left out on purpose: reading them (`fields.py`), and whether what they name is there (`checks.py`).
"""

from dataclasses import dataclass, field
from typing import Any

from appo.config import read_mapping
from appo.errors import UserError


@dataclass
class RunConfig:
    """What a run needs besides the trainer's configuration."""

    task: str = field(
        metadata={
            "help": "rows (a file of yours), kinship, multihop, planning, programs, reasoning_gym, tool_qa, or a "
            "module with `TASK` (my.task:NAME)."
        }
    )
    task_args: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of a `TASK` that is a function returning a task, as a mapping."}
    )
    model: str | None = field(
        default=None,
        metadata={"help": "Model directory or hub name, or smollm2; by default the model that the task makes."},
    )
    train_size: int = field(default=4096, metadata={"help": "Number of training tasks."})
    train_seed: int = field(default=0, metadata={"help": "Seed of the training tasks."})
    eval_size: int = field(default=500, metadata={"help": "Number of fresh questions before and after; 0 for none."})
    eval_seed: int = field(default=1_000_000, metadata={"help": "Seed of the evaluation's questions."})
    demonstrations: int = field(
        default=0, metadata={"help": "Demonstrations of the cold start; 0 for none, or for all of `traces`."}
    )
    traces: list[str] | None = field(
        default=None,
        metadata={"help": "Files or hub names of tool-use traces: the cold start's demonstrations (docs/recipes.md)."},
    )
    traces_min_reward: float | None = field(
        default=None, metadata={"help": "Least reward of a rollout in `traces` that are records of a run."}
    )
    lora: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Fields of peft's LoraConfig, as a mapping; without it all weights are trained."},
    )
    num_processes: int | None = field(
        default=None,
        metadata={"help": "Processes (GPUs) that the batch sizes are made for; another number is refused."},
    )
    allow_unisolated: bool = field(
        default=False, metadata={"help": "Whether the policy's programs may run where they are not isolated."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Whether to train again where a run has finished."})
    dry_run: bool = field(
        default=False, metadata={"help": "Whether to print the plan and every mistake, and do nothing (--dry-run)."}
    )

    def __post_init__(self) -> None:
        least = {"train_size": 1, "eval_size": 0, "demonstrations": 0, "num_processes": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"{name} must not be below {bound}, got {value}.")
        for name in ("task_args", "lora"):
            setattr(self, name, read_mapping(name, getattr(self, name)))
        if self.traces_min_reward is not None and not self.traces:
            raise UserError(f"traces_min_reward = {self.traces_min_reward:g} is given without traces; name files.")
