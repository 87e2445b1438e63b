"""`APPOConfig`: TRL's `GRPOConfig` and what APPO adds.

Defaults are the paper's (`docs/algorithm.md`, "Settings"); inherited fields are repeated only where the paper wants
another default. What a method alone has to know stands in `method_args` (`docs/methods.md`). Checks across fields run
before anything is loaded.

Batch sizes count all rollouts of a task, branches included, as `num_generations` does: an optimizer step takes
`per_device_train_batch_size * gradient_accumulation_steps / num_generations` tasks per device.
"""

import json
import math
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, get_args

import torch
from transformers.utils import logging
from trl import GRPOConfig

from appo.engines.settings import check_training
from appo.errors import UserError
from appo.methods import METHODS, Method, open_method
from appo.methods.misplaced import refuses_unknown_fields
from appo.rollout.batches import batches_in_given_fields
from appo.rollout.mismatch import MODES

UPDATES_PER_GENERATION = 8  # the paper: batches of 128 tasks, mini-batches of 16

CHOICES = {
    "tool_protocol": ("chat_template", "tags"),
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("auto", "vllm", "transformers", "terratorch"),
    "vllm_importance_sampling_mode": MODES,
}

# Paths and output do not decide what a run does.
NOT_SETTINGS = (
    "output_dir", "logging_dir", "run_name", "report_to", "disable_tqdm", "logging_steps", "save_steps",
    "save_strategy", "save_total_limit", "save_report", "hub_token", "project", "trackio_space_id", "traces_per_log",
)  # fmt: skip
SEEDS = 2**32  # numpy takes no larger ones

# Of every dataclass that has such a field, TRL's included; None is for them to refuse.
AT_LEAST_1 = (
    "tool_join_steps", "max_tool_workers", "max_completion_length", "rollout_batch_size", "num_iterations",
    "gradient_accumulation_steps", "steps_per_generation", "per_device_train_batch_size",
    "per_device_eval_batch_size", "vllm_max_model_length", "vllm_group_port", "vllm_server_port",
)  # fmt: skip
AT_LEAST_0 = (
    "tool_retries", "max_tool_calls", "max_tool_calling_iterations", "seed", "learning_rate", "beta",
    "max_grad_norm", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "top_k", "data_seed",
    "vllm_server_timeout", "vllm_importance_sampling_clip_min", "traces_per_log",
)  # fmt: skip
LEAST: dict[str, float] = {**dict.fromkeys(AT_LEAST_1, 1), **dict.fromkeys(AT_LEAST_0, 0)}
LEAST |= {"num_generations": 2, "max_tool_result_chars": 16}  # TRL's refusal of fewer generations names no field
BELOW = {"seed": SEEDS, "data_seed": SEEDS, "adam_beta1": 1, "adam_beta2": 1}
ABOVE_0 = {
    "vllm_importance_sampling_clip_max": math.inf,
    "vllm_importance_sampling_cap": math.inf,
    "vllm_gpu_memory_utilization": 1.0,
}
NO_NONE = ("max_completion_length",)  # TRL's annotation takes it
LEVELS = (*logging.get_log_levels_dict(), "passive")

# Where infinity means that there is no bound.
UNBOUNDED = (
    "delta", "epsilon_high", "max_grad_norm", "off_policy_mask_threshold",
    "vllm_importance_sampling_cap", "vllm_importance_sampling_clip_max",
)  # fmt: skip


def check_types(settings: Any) -> None:
    """Looks for texts where numbers belong, as YAML 1.1 reads `1e-4`; other values would break far from the field.

    Raises:
        UserError: for the first of them.
    """
    for f in fields(settings):
        kinds = set(get_args(f.type) or [f.type])
        value = getattr(settings, f.name, None)
        if isinstance(value, str) and kinds <= {int, float, bool, NoneType}:
            what = "true or false" if kinds <= {bool, NoneType} else "a number"
            raise UserError(f"{f.name} must be {what}, got the text {value!r}; write it without quotation marks.")


def check_values(settings: Any) -> None:
    """Looks at each field of a dataclass by itself: those of TRL and transformers break far from the field.

    Raises:
        UserError: for nan, for infinity where it is no bound, and for values outside the tables above.
    """
    for f in fields(settings):
        name, value = f.name, getattr(settings, f.name, None)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            unbounded = number == math.inf and name in UNBOUNDED
            if isinstance(number, float) and not math.isfinite(number) and not unbounded:
                raise UserError(f"{name} must be a finite number, got {number}.")
        as_json = isinstance(value, str) and value.startswith("{")  # transformers reads it
        if name.endswith("_kwargs") and not (value is None or isinstance(value, dict) or as_json):
            raise UserError(f"{name} must be a mapping, got {value!r}.")
        if name in ("log_level", "log_level_replica") and value not in LEVELS:
            raise UserError(f"{name} must be one of {', '.join(LEVELS)}, got {value!r}.")
        if value is not None or f.default is not None:  # a default of None is one that the field takes
            _check_range(name, value)
    for name, most in ABOVE_0.items():
        value = getattr(settings, name, None)
        if value is not None and not 0 < value <= most:
            raise UserError(
                f"{name} must lie above 0{'' if most == math.inf else f' and be at most {most}'}, got {value}."
            )
    if getattr(settings, "max_steps", 1) <= 0 and getattr(settings, "num_train_epochs", 1) <= 0:
        raise UserError(f"num_train_epochs must be above 0 without max_steps, got {settings.num_train_epochs}.")
    if getattr(settings, "eval_on_start", False) and getattr(settings, "eval_strategy", None) == "no":
        raise UserError("eval_on_start = True needs an eval_strategy, got 'no'; set it to steps or epoch.")


def read_mapping(name: str, value: Any) -> dict[str, Any] | None:
    """A field that is a mapping; flags give it as JSON.

    Raises:
        UserError: for anything else but None.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise UserError(f"{name} must be a mapping, in a flag as JSON ({error.msg}), got {value!r}.") from None
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{name} must be a mapping, got {value!r}.")
    return value


def _check_range(name: str, value: Any) -> None:
    if value is None and name not in NO_NONE:
        return
    if name in LEAST and (value is None or not value >= LEAST[name]):
        raise UserError(f"{name} must be at least {LEAST[name]}, got {value}.")
    if name in BELOW and not value < BELOW[name]:
        high = "2**32" if BELOW[name] == SEEDS else BELOW[name]
        raise UserError(f"{name} must be at least {LEAST[name]} and below {high}, got {value}.")


@refuses_unknown_fields
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
    vllm_importance_sampling_mode: str = field(
        default="token_truncate",
        metadata={"help": f"How the ratio of trainer to vLLM is used: one of {', '.join(MODES)}; docs/gpus.md."},
    )
    vllm_importance_sampling_clip_max: float | None = field(
        default=2.0, metadata={"help": "Upper bound of that ratio; None for none, if there is a lower one."}
    )

    method: str = field(
        default="appo",
        metadata={"help": f"One of {', '.join(METHODS)}; or a class of yours, my.module:MyMethod (docs/methods.md)."},
    )
    method_args: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of the method, as a mapping; docs/methods.md lists them."}
    )
    tool_protocol: str = field(
        default="chat_template", metadata={"help": "How calls are written: 'chat_template' as in TRL, or 'tags'."}
    )
    add_tools: bool = field(
        default=False,
        metadata={"help": "Whether tools are added to a chat template that has none; docs/protocols.md."},
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
    max_tool_workers: int | None = field(
        default=None, metadata={"help": "Tool calls that run at once, per process. None: 32."}
    )
    deterministic: bool = field(
        default=False,
        metadata={"help": "Whether tool results join at fixed steps, so that a run repeats itself to the bit."},
    )
    tool_join_steps: int = field(
        default=4,
        metadata={"help": "If deterministic: tokens written by other rollouts before tools are waited for."},
    )
    success_reward: float = field(default=1.0, metadata={"help": "Least total reward that counts as success."})
    rollout_batch_size: int = field(default=256, metadata={"help": "Rollouts written at once per device."})
    vllm_weight_directory: str | None = field(
        default=None,
        metadata={
            "help": "Directory that trainer and vLLM server see, for weights where there is no NCCL. None: NCCL "
            "between GPUs, else a temporary directory."
        },
    )
    save_records: bool = field(
        default=True, metadata={"help": "Whether each step writes a record per rollout into records/."}
    )
    traces_per_log: int = field(
        default=16, metadata={"help": "Rollouts that trackio and W&B (`report_to`) get as traces at each log."}
    )
    allow_shared_questions: bool = field(
        default=False, metadata={"help": "Whether an evaluation may ask what is trained on, which is then noted."}
    )
    save_report: bool = field(
        default=True,
        metadata={"help": "Whether training ends with curves.png, report.html and a table, made of the records."},
    )

    def __post_init__(self) -> None:
        check_types(self)
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
        self._check_method()
        self._check_unsupported()
        if self.use_vllm:
            check_training(self)
        with batches_in_given_fields(self):
            super().__post_init__()
        self._check_batches()

    def _check_choices(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if not 0 < self.tool_timeout < math.inf:
            raise UserError(f"tool_timeout must be a positive number of seconds, got {self.tool_timeout}.")
        if self.result_format.count("{}") != 1:
            raise UserError(f"result_format must hold one {{}} for the result's text, got {self.result_format!r}.")

    def _check_ranges(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}; use a small one for near-greedy.")
        if not 0 < self.top_p <= 1 or not 0 <= (self.min_p or 0) <= 1:
            raise UserError(f"top_p must lie in (0, 1] and min_p in [0, 1], got {self.top_p} and {self.min_p}.")

    def _check_method(self) -> None:
        if self.num_generations is None:
            raise UserError("num_generations must be given: it is the number of rollouts per task.")
        self.method_args = read_mapping("method_args", self.method_args)
        self.open_method()

    def open_method(self) -> Method:
        """The method that `method` and `method_args` name.

        Raises:
            UserError: where there is none, and for options that contradict each other or other fields.
        """
        options: Any = self.method_args  # no longer a text; what is no mapping is refused there
        return open_method(self.method, options, self)

    def _check_unsupported(self) -> None:
        unsupported: dict[str, tuple[Any, str]] = {
            "use_transformers_continuous_batching": (False, "the embedded engine batches by itself"),
            "repetition_penalty": (1.0, "it would change the policy that Eq. 4 compares"),
            "generation_kwargs": (None, "sampling is set by temperature, top_p, top_k and min_p"),
            "vllm_structured_outputs_regex": (None, "it would change the policy that Eq. 4 compares"),
            "cache_implementation": (None, "the embedded engine has its own cache"),
            "scale_rewards": ("group", "Eq. 6 says how rewards are scaled"),
            "multi_objective_aggregation": ("sum_then_normalize", "Eq. 6 normalises the summed reward"),
        }
        for name, (value, reason) in unsupported.items():
            if getattr(self, name) != value:
                raise UserError(
                    f"{name} = {getattr(self, name)!r} is not supported ({reason}); leave it at {value!r}."
                )

    @property
    def engine(self) -> str:
        """What writes the rollouts; one of `appo.engines.base.ENGINES`."""
        if not self.use_vllm:
            return "transformers"
        return "vllm" if self.vllm_mode == "colocate" else "vllm_server"

    @property
    def server_url(self) -> str:
        """Address of the vLLM server."""
        return self.vllm_server_base_url or f"http://{self.vllm_server_host}:{self.vllm_server_port}"

    @property
    def corrects_sampling(self) -> bool:
        """Whether TRL's loss multiplies with the ratio of trainer to engine."""
        return bool(self.use_vllm and self.vllm_importance_sampling_correction)

    def _check_batches(self) -> None:
        rollouts, micro = self.num_generations or 1, self.per_device_train_batch_size
        per_update = micro * self.gradient_accumulation_steps
        if per_update % rollouts:
            raise UserError(
                f"per_device_train_batch_size * gradient_accumulation_steps = {per_update} must hold whole tasks of "
                f"num_generations = {rollouts} rollouts; use a multiple of {rollouts}."
            )
        initial = self.num_initial_rollouts
        if micro * initial % rollouts:
            raise UserError(
                f"per_device_train_batch_size = {micro} must be a multiple of num_generations / num_initial_rollouts "
                f"= {rollouts / initial:g}, so that micro-batches hold whole initial rollouts."
            )
        if (self.steps_per_generation or 1) % self.gradient_accumulation_steps:
            raise UserError(
                f"steps_per_generation = {self.steps_per_generation} must be a multiple of "
                f"gradient_accumulation_steps = {self.gradient_accumulation_steps}: a generation holds whole updates."
            )

    @property
    def num_initial_rollouts(self) -> int:
        """N: rollouts of a task that the writing policy writes from its prompt; the method says how many."""
        return self.open_method().num_initial

    @property
    def micro_batch_rows(self) -> int:
        """Initial rollouts in one forward and backward."""
        return self.per_device_train_batch_size * self.num_initial_rollouts // (self.num_generations or 1)
