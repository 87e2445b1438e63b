"""`APPOConfig`: TRL's `GRPOConfig` and what APPO adds.

Defaults are the paper's (`docs/algorithm.md`, "Settings"); inherited fields are repeated only where the paper wants
another default. Checks across fields run before anything is loaded.

Batch sizes count all rollouts of a task, branches included, as `num_generations` does: an optimizer step takes
`per_device_train_batch_size * gradient_accumulation_steps / num_generations` tasks per device.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers.utils import logging
from trl import GRPOConfig

from appo.algorithm import FUTURE_CLIP, half_life_to_gamma
from appo.errors import UserError

UPDATES_PER_GENERATION = 8  # the paper: batches of 128 tasks, mini-batches of 16

CHOICES = {
    "branching": ("branching_score", "entropy", "future_value", "weighted_sum", "random", "tool_boundary"),
    "advantage": ("dual_group", "pooled", "prefix", "group", "success", "tree"),
    "discount_over": ("all", "policy"),
    "resample": ("token", "after_token"),
    "train_on": ("initial", "all"),
    "token_weight": ("uniform", "fork"),
    "tool_protocol": ("chat_template", "tags"),
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
}

SEEDS = 2**32  # numpy takes no larger ones

# Of every dataclass that has such a field, TRL's included; None is for them to refuse.
LEAST: dict[str, float] = {
    "num_initial_rollouts": 1,
    "num_branch_points": 0,
    "num_branch_rounds": 1,
    "min_branch_distance": 1,
    "tool_join_steps": 1,
    "tool_retries": 0,
    "max_tool_calls": 0,
    "max_tool_result_chars": 16,
    "max_tool_calling_iterations": 0,
    "max_completion_length": 1,
    "seed": 0,
    "learning_rate": 0,
    "rollout_batch_size": 1,
    "future_weight": 0,
    "local_weight": 0,
    "num_iterations": 1,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "beta": 0,
    "max_grad_norm": 0,
    "weight_decay": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
    "top_k": 0,
    "data_seed": 0,
}
BELOW = {"seed": SEEDS, "data_seed": SEEDS, "adam_beta1": 1, "adam_beta2": 1}
NO_NONE = ("max_completion_length",)  # TRL's annotation takes it
LEVELS = (*logging.get_log_levels_dict(), "passive")

# Where infinity means that there is no bound.
UNBOUNDED = (
    "delta", "epsilon_high", "future_clip", "max_grad_norm", "off_policy_mask_threshold",
    "vllm_importance_sampling_cap", "vllm_importance_sampling_clip_max",
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    # What did best in docs/study.md; equations in docs/algorithm.md.
    "plus": {
        "num_initial_rollouts": 16,
        "num_branch_points": 0,
        "advantage": "success",
        "future_weight": 0.0,
        "token_weight": "fork",
        "num_iterations": 2,
    },
}


def check_values(settings: Any) -> None:
    """Looks at each field of a dataclass by itself: those of TRL and transformers break far from the field.

    Raises:
        UserError: for nan, for infinity where it is no bound, and for values outside the tables above.
    """
    for name in [f.name for f in fields(settings)]:
        value = getattr(settings, name, None)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            unbounded = number == math.inf and name in UNBOUNDED
            if isinstance(number, float) and not math.isfinite(number) and not unbounded:
                raise UserError(f"{name} must be a finite number, got {number}.")
        as_json = isinstance(value, str) and value.startswith("{")  # transformers reads it
        if name.endswith("_kwargs") and not (value is None or isinstance(value, dict) or as_json):
            raise UserError(f"{name} must be a mapping, got {value!r}.")
        if name in ("log_level", "log_level_replica") and value not in LEVELS:
            raise UserError(f"{name} must be one of {', '.join(LEVELS)}, got {value!r}.")
        _check_range(name, value)
    if getattr(settings, "max_steps", 1) <= 0 and getattr(settings, "num_train_epochs", 1) <= 0:
        raise UserError(f"num_train_epochs must be above 0 without max_steps, got {settings.num_train_epochs}.")
    if getattr(settings, "eval_on_start", False) and getattr(settings, "eval_strategy", None) == "no":
        raise UserError("eval_on_start = True needs an eval_strategy, got 'no'; set it to steps or epoch.")


def _check_range(name: str, value: Any) -> None:
    if value is None and name not in NO_NONE:
        return
    if name in LEAST and (value is None or not value >= LEAST[name]):
        raise UserError(f"{name} must be at least {LEAST[name]}, got {value}.")
    if name in BELOW and not value < BELOW[name]:
        high = "2**32" if BELOW[name] == SEEDS else BELOW[name]
        raise UserError(f"{name} must be at least {LEAST[name]} and below {high}, got {value}.")


@dataclass
class APPOConfig(GRPOConfig):
    """Configuration of `APPOTrainer`. Only what differs from `GRPOConfig` is listed.

    Raises:
        ValueError: for values that contradict each other; one sentence that names field, value and remedy.
    """

    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "Rollouts (initial and branches) per device and micro-batch."}
    )
    num_generations: int | None = field(
        default=16, metadata={"help": "M: rollouts per task, initial and branches together."}
    )
    max_completion_length: int | None = field(
        default=4096, metadata={"help": "Tokens per rollout after the prompt, tool results included."}
    )
    loss_type: str = field(
        default="grpo", metadata={"help": "Eq. 8 is 'grpo': mean over a rollout's tokens, then over rollouts."}
    )
    epsilon_high: float | None = field(default=0.28, metadata={"help": "Upper PPO clip."})

    num_initial_rollouts: int = field(
        default=4, metadata={"help": "N: rollouts per task that the behaviour policy writes and that are trained on."}
    )
    num_branch_points: int = field(default=3, metadata={"help": "B: branch points per rollout and round."})
    num_branch_rounds: int = field(
        default=1, metadata={"help": "L: rounds of branching; from the second on, branches are branched as well."}
    )
    future_weight: float = field(default=0.5, metadata={"help": "b of Eq. 7; 0 turns the future-aware factor off."})
    half_life: float = field(default=32.0, metadata={"help": "Tokens after which a log-ratio counts half in Eq. 4."})
    future_clip: list[float] = field(
        default_factory=lambda: list(FUTURE_CLIP), metadata={"help": "Bounds of Omega in Eq. 5 and 7."}
    )
    branching: str = field(
        default="branching_score", metadata={"help": f"Score of branch points: {', '.join(CHOICES['branching'])}."}
    )
    advantage: str = field(default="dual_group", metadata={"help": f"One of {', '.join(CHOICES['advantage'])}."})
    local_weight: float = field(
        default=1.0, metadata={"help": "advantage 'tree': weight of the comparison with rollouts of the same prefix."}
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
    train_on: str = field(
        default="initial",
        metadata={"help": "Rollouts that carry loss: 'initial' (Eq. 8), or 'all', with the branches' own tokens."},
    )
    token_weight: str = field(
        default="uniform",
        metadata={"help": "Weight of a token's advantage: 'uniform' (the paper), or by 'fork' (docs/algorithm.md)."},
    )
    weight_floor: float = field(default=0.1, metadata={"help": "token_weight 'fork': the least weight, 0 to 1."})
    tool_protocol: str = field(
        default="chat_template", metadata={"help": "How calls are written: 'chat_template' as in TRL, or 'tags'."}
    )
    result_format: str = field(
        default="\n<result>\n{}\n</result>\n", metadata={"help": "Tool result in the tag protocol, with one {}."}
    )
    tool_timeout: float = field(
        default=30.0, metadata={"help": "Seconds that one tool call may take, with its retries."}
    )
    tool_retries: int = field(
        default=0, metadata={"help": "How often a call is tried again that raised an exception other than ToolError."}
    )
    max_tool_calls: int | None = field(
        default=None, metadata={"help": "Tool calls per rollout; a further one gets an error. None: no limit."}
    )
    max_tool_result_chars: int = field(
        default=8192, metadata={"help": "Characters of a tool's result; a longer one is cut in the middle."}
    )
    tool_join_steps: int = field(
        default=4, metadata={"help": "Tokens written by other rollouts before a tool's result is waited for."}
    )
    success_reward: float = field(default=1.0, metadata={"help": "Least total reward that counts as success."})
    rollout_batch_size: int = field(default=256, metadata={"help": "Rollouts written at once per device."})
    save_records: bool = field(
        default=True, metadata={"help": "Whether each step appends a record per rollout to records.jsonl."}
    )

    def __post_init__(self) -> None:
        if self.generation_batch_size is None and self.steps_per_generation is None:  # type: ignore[has-type]
            self.steps_per_generation = UPDATES_PER_GENERATION * self.gradient_accumulation_steps
        if self.bf16 is None and not torch.accelerator.is_available():  # type: ignore[has-type]
            self.bf16 = False  # TRL's default is True, which transformers refuses on a CPU
        if self.scale_rewards is True:  # type: ignore[has-type]
            self.scale_rewards = "group"  # TRL takes both
        if self.report_to is None:  # type: ignore[has-type]
            self.report_to = "none"  # transformers would look for a logger called None
        self._check_choices()
        check_values(self)
        self._check_ranges()
        self._check_tree()
        self._check_unsupported()
        super().__post_init__()
        self._check_batches()

    @classmethod
    def preset(cls, name: str, **fields: Any) -> "APPOConfig":
        """A configuration with the fields of a preset, and others given here, which take precedence.

        Raises:
            ValueError: for a name that is no preset's.
        """
        if name not in PRESETS:
            raise UserError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}.")
        return cls(**{**PRESETS[name], **fields})

    def _check_choices(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        self.future_clip = [float(bound) for bound in self.future_clip]
        if len(self.future_clip) != 2 or not 0 < self.future_clip[0] <= self.future_clip[1]:
            raise UserError(f"future_clip must be two bounds, 0 < low <= high, got {self.future_clip}.")
        if not 0 < self.half_life < math.inf:
            raise UserError(f"half_life must be a positive number of tokens, got {self.half_life}.")
        if not 0 < self.tool_timeout < math.inf:
            raise UserError(f"tool_timeout must be a positive number of seconds, got {self.tool_timeout}.")
        if self.result_format.count("{}") != 1:
            raise UserError(f"result_format must hold one {{}} for the result's text, got {self.result_format!r}.")

    def _check_ranges(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}; use a small one for near-greedy.")
        if not 0 <= self.weight_floor <= 1:
            raise UserError(f"weight_floor must lie in [0, 1], got {self.weight_floor}.")
        if not 0 < self.top_p <= 1 or not 0 <= (self.min_p or 0) <= 1:
            raise UserError(f"top_p must lie in (0, 1] and min_p in [0, 1], got {self.top_p} and {self.min_p}.")

    def _check_tree(self) -> None:
        rollouts, initial, points = self.num_generations, self.num_initial_rollouts, self.num_branch_points
        if rollouts is None:
            raise UserError("num_generations must be given: it is the number of rollouts per task.")
        if self.num_branch_rounds == 1 and initial * (points + 1) != rollouts:
            raise UserError(
                f"num_initial_rollouts * (num_branch_points + 1) must equal num_generations, got {initial} * "
                f"({points} + 1) = {initial * (points + 1)} and num_generations = {rollouts}; change one of the three."
            )
        if self.num_branch_rounds > 1 and (initial >= rollouts or points < 1):
            raise UserError(
                f"num_branch_rounds = {self.num_branch_rounds} needs num_initial_rollouts < num_generations and "
                f"num_branch_points >= 1, got {initial}, {rollouts} and {points}."
            )

        if self.advantage == "success" and points:
            raise UserError(
                f"advantage = 'success' takes nothing from branches, got num_branch_points = {points}; set it to 0 "
                f"and num_initial_rollouts to num_generations = {rollouts}."
            )
        if (self.train_on == "all") != (self.advantage == "tree") and self.advantage != "group":
            raise UserError(
                f"advantage = {self.advantage!r} and train_on = {self.train_on!r} do not go together; with "
                "train_on = 'all' use 'tree' or 'group', with 'initial' any but 'tree'."
            )

    def _check_unsupported(self) -> None:
        unsupported: dict[str, tuple[Any, str]] = {
            "use_vllm": (False, "the embedded engine writes the rollouts"),
            "use_transformers_continuous_batching": (False, "the embedded engine batches by itself"),
            "repetition_penalty": (1.0, "it would change the policy that Eq. 4 compares"),
            "generation_kwargs": (None, "sampling is set by temperature, top_p, top_k and min_p"),
            "cache_implementation": (None, "the embedded engine has its own cache"),
            "scale_rewards": ("group", "Eq. 6 says how rewards are scaled"),
            "multi_objective_aggregation": ("sum_then_normalize", "Eq. 6 normalises the summed reward"),
        }
        for name, (value, reason) in unsupported.items():
            if getattr(self, name) != value:
                raise UserError(
                    f"{name} = {getattr(self, name)!r} is not supported ({reason}); leave it at {value!r}."
                )

    def _check_batches(self) -> None:
        rollouts, micro = self.num_generations or 1, self.per_device_train_batch_size
        per_update = micro * self.gradient_accumulation_steps
        if per_update % rollouts:
            raise UserError(
                f"per_device_train_batch_size * gradient_accumulation_steps = {per_update} must hold whole tasks of "
                f"num_generations = {rollouts} rollouts; use a multiple of {rollouts}."
            )
        if micro * self.num_initial_rollouts % rollouts:
            raise UserError(
                f"per_device_train_batch_size = {micro} must be a multiple of num_generations / num_initial_rollouts "
                f"= {rollouts / self.num_initial_rollouts:g}, so that micro-batches hold whole initial rollouts."
            )
        if (self.steps_per_generation or 1) % self.gradient_accumulation_steps:
            raise UserError(
                f"steps_per_generation = {self.steps_per_generation} must be a multiple of "
                f"gradient_accumulation_steps = {self.gradient_accumulation_steps}: a generation holds whole updates."
            )

    @property
    def gamma(self) -> float:
        """Discount of Eq. 4 per token."""
        return half_life_to_gamma(self.half_life)

    @property
    def micro_batch_rows(self) -> int:
        """Initial rollouts in one forward and backward."""
        return self.per_device_train_batch_size * self.num_initial_rollouts // (self.num_generations or 1)
