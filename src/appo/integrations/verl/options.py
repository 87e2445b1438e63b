"""`trainer.v1.appo.*` of verl's configuration, checked, and what of verl's own settings would contradict it.

    +trainer.v1.appo.method=appo +trainer.v1.appo.tools=[my_tools:search]

Left out on purpose: what verl has settings for (sampling, lengths, batches, optimizer, clip, KL).
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from appo.errors import UserError
from appo.methods import METHODS, Method, TreeOptions, open_method
from appo.methods.registry import find_method, read_options, typed

PLACE = "trainer.v1.appo"
LOSS_TYPES = {"seq-mean-token-mean": "grpo", "token-mean": "dapo"}  # verl's loss_agg_mode under TRL's names
LEAST = {
    "max_tool_calls": 0,
    "max_tool_calling_iterations": 0,
    "max_tool_result_chars": 16,
    "max_tool_workers": 1,
    "tool_retries": 0,
    "max_rollouts": 1,
    "seed": 0,
}


@dataclass(frozen=True)
class VerlOptions:
    """What `trainer.v1.appo` may hold; the names are those of `APPOConfig` where it has them.

    Args:
        method, method_args: As in `APPOConfig`.
        num_generations: M, rollouts per task, branches included; None: what the method's options and `rollout.n` make.
        tool_protocol: "chat_template" (verl's parser `rollout.multi_turn.format` reads the calls) or "tags".
        result_format: As in `APPOConfig`.
        tools: Python functions, as `module:name`.
        environment: A class with TRL's convention, as `module:name`, or None.
        reward_funcs: Reward functions with TRL's signature, as `module:name`; with none, and an environment without
            `get_reward`, verl's reward manager scores the rollouts.
        tool_timeout, tool_retries, max_tool_calls, max_tool_result_chars, max_tool_workers: As in `APPOConfig`, per
            agent-loop worker.
        max_tool_calling_iterations: As in `GRPOConfig`.
        max_rollouts: Rollouts that an agent-loop worker writes at once.
        success_reward: As in `APPOConfig`.
        seed: Of branch points and of what is sampled.
        save_records: Whether records are written into `trainer.default_local_dir/records`.
    """

    method: str = "appo"
    method_args: dict[str, Any] = field(default_factory=dict)
    num_generations: int | None = None
    tool_protocol: str = "chat_template"
    result_format: str = "\n<result>\n{}\n</result>\n"
    tools: list[str] = field(default_factory=list)
    environment: str | None = None
    reward_funcs: list[str] = field(default_factory=list)
    tool_timeout: float = 30.0
    tool_retries: int = 0
    max_tool_calls: int | None = None
    max_tool_result_chars: int = 8192
    max_tool_workers: int = 32
    max_tool_calling_iterations: int | None = None
    max_rollouts: int = 256
    success_reward: float = 1.0
    seed: int = 0
    save_records: bool = True

    def __post_init__(self) -> None:
        if self.tool_protocol not in ("chat_template", "tags"):
            raise UserError(f"{PLACE}.tool_protocol must be chat_template or tags, got {self.tool_protocol!r}.")
        if not self.tool_timeout > 0:
            raise UserError(f"{PLACE}.tool_timeout must be a positive number of seconds, got {self.tool_timeout}.")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{PLACE}.{name} must be at least {least}, got {value}.")


def options_of(config: DictConfig) -> VerlOptions:
    """The options of a run.

    Raises:
        UserError: for unknown names, wrong types and values.
    """
    found = OmegaConf.select(config, PLACE)
    values: Any = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found or {}
    if not isinstance(values, dict):
        raise UserError(f"{PLACE} must be a mapping, got {values!r}.")
    known, hints = [f.name for f in fields(VerlOptions)], get_type_hints(VerlOptions)
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
            raise UserError(f"{PLACE} has no option {name}; {hint}")
    try:
        return VerlOptions(**{name: typed(name, value, hints[name]) for name, value in values.items()})
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(PLACE) else f"{PLACE}.{error}") from None


@dataclass
class RunSetting:
    """What a method may know of a run (`appo.methods.Setting`), from verl's configuration."""

    num_generations: int | None
    success_reward: float
    epsilon: float
    epsilon_high: float | None
    loss_type: str
    mask_truncated_completions: bool = False


def method_of(config: DictConfig, options: VerlOptions) -> Method:
    """The run's method.

    Raises:
        UserError: for one that there is not, that contradicts the configuration, or that needs what verl does not do.
    """
    actor, written = config.actor_rollout_ref.actor, int(config.actor_rollout_ref.rollout.n)
    rollouts = options.num_generations
    if rollouts is None:
        kind = find_method(METHODS, options.method)
        own = read_options(kind.Options, options.method, options.method_args)
        branching = isinstance(own, TreeOptions)
        rollouts = own.num_initial_rollouts * (own.num_branch_points + 1) if branching else written
    setting = RunSetting(
        num_generations=rollouts,
        success_reward=options.success_reward,
        epsilon=actor.clip_ratio_low,
        epsilon_high=actor.clip_ratio_high,
        loss_type=LOSS_TYPES.get(actor.loss_agg_mode, actor.loss_agg_mode),
    )
    method = open_method(options.method, options.method_args, setting)
    for reason in _not_served(method):
        raise UserError(f"{PLACE}.method = {options.method!r} does not run in verl: {reason}; use appo, grpo or raft.")
    if method.num_initial != written:
        raise UserError(
            f"actor_rollout_ref.rollout.n = {written} must be the number of rollouts that the method writes first, "
            f"{method.num_initial}; set it so, or {PLACE}.method_args.num_initial_rollouts."
        )
    return method


def _not_served(method: Method) -> Iterator[str]:
    if type(method).expand is not Method.expand:
        yield "it adds rollouts by the policy that writes"
    if method.needs.trains != "initial":
        yield "its branches carry loss"
    if method.needs.collisions:
        yield "it needs log sum p^2 of each token (token_weight: fork), which verl's workers do not measure"
    if method.needs.decisions or method.needs.judge:
        yield "it needs the true decisions of rollouts"


def check_config(config: DictConfig) -> None:
    """
    Raises:
        UserError: for settings of verl's that this trainer does not serve; it names the field, its value and a remedy.
    """
    for name, (allowed, reason) in _UNSUPPORTED.items():
        value = OmegaConf.select(config, name)
        if not allowed(value):
            raise UserError(f"{name} = {value!r} is not supported by trainer_mode = appo: {reason}.")
    correction = config.algorithm.rollout_correction
    if correction.rollout_is or correction.rollout_rs:
        for name, none in _CUTS.items():
            value = OmegaConf.select(config, f"actor_rollout_ref.rollout.{name}")
            if value not in (None, *none):
                raise UserError(
                    f"actor_rollout_ref.rollout.{name} = {value} cannot be corrected for by rollout_correction: the "
                    "servers then sample from another distribution than the loss knows; leave out one of the two."
                )
    tasks, update = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    if tasks % update:
        raise UserError(
            f"data.train_batch_size = {tasks} must be a multiple of actor_rollout_ref.actor.ppo_mini_batch_size = "
            f"{update}, so that a generation holds whole updates; change one of the two."
        )


# Values that cut nothing off.
_CUTS: dict[str, tuple[float, ...]] = {"top_p": (1.0,), "top_k": (0, -1)}
_UNSUPPORTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "actor_rollout_ref.rollout.agent.default_agent_loop": (
        lambda value: value == "appo",
        "set it to appo, the loop whose rollouts can be branched",
    ),
    "actor_rollout_ref.rollout.name": (
        lambda value: value not in ("sglang", "trtllm"),
        "seeds and stops are told in vLLM's words; set it to vllm",
    ),
    "actor_rollout_ref.rollout.temperature": (lambda value: (value or 0) > 0, "set it above 0"),
    "algorithm.use_kl_in_reward": (lambda value: not value, "set it to False; the actor's use_kl_loss is supported"),
    "algorithm.rollout_correction.bypass_mode": (
        lambda value: not value,
        "Omega compares two scores of the trainer's own; set it to False",
    ),
    "algorithm.filter_groups.enable": (lambda value: not value, "set it to False"),
    "algorithm.adv_estimator": (lambda value: value != "gae", "there is no critic; set it to grpo"),
    "critic.enable": (lambda value: not value, "set it to False"),
    "trainer.critic_warmup": (lambda value: not value, "there is no critic; set it to 0"),
    "reward.reward_model.enable": (lambda value: not value, "set it to False and give a reward function"),
    "distillation.enabled": (lambda value: not value, "set it to False"),
}


def named(name: str, reference: str) -> Any:
    """What `module:name` names.

    Raises:
        UserError: where there is no such thing. An error inside the user's module is left as it is.
    """
    module, _, attribute = reference.partition(":")
    if not (attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise UserError(f"{PLACE}.{name} must be written as module:name, got {reference!r}.")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{PLACE}.{name} = {reference!r}: there is no module {module} on PYTHONPATH.") from None
        raise
    if not callable(getattr(found, attribute, None)):
        raise UserError(f"{PLACE}.{name} = {reference!r}: {module} has no function or class {attribute}.")
    return getattr(found, attribute)
