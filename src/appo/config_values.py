"""What each setting may be, by itself: those of TRL and transformers break far from the field.

Left out on purpose: what settings have to do with each other (`config.py`).
"""

import json
import math
from dataclasses import fields
from typing import Any

from transformers.utils import logging

from appo.errors import UserError

SEEDS = 2**32  # numpy takes no larger ones

# Of every dataclass that has such a field, TRL's included; None is for them to refuse.
LEAST: dict[str, float] = {
    "tool_join_steps": 1,
    "max_tool_workers": 1,
    "tool_retries": 0,
    "max_tool_calls": 0,
    "max_tool_result_chars": 16,
    "max_tool_calling_iterations": 0,
    "max_completion_length": 1,
    "seed": 0,
    "learning_rate": 0,
    "rollout_batch_size": 1,
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
    "vllm_max_model_length": 1,
    "vllm_server_timeout": 0,
    "vllm_group_port": 1,
    "vllm_server_port": 1,
    "vllm_importance_sampling_clip_min": 0,
}
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
