"""What a recipe names, loaded: the task, its tools, the model and its tokenizer.

Left out on purpose: reading recipes (`recipe.py`), and what is done with all this (`train.py`).
"""

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from appo.cli.mistakes import RecipeError
from appo.cli.run_config import RunConfig
from appo.config import APPOConfig
from appo.environments.base import Task
from appo.errors import UserError, did_you_mean
from appo.models.loading import ModelAndTokenizer, read_model
from appo.models.sharding import sharding_of
from appo.rollout.environments import EnvironmentPool
from appo.tools.python import PythonSandbox, PythonSession, allow_unisolated, check_isolation, python

NAMES = ("kinship", "multihop", "planning", "programs", "reasoning_gym", "rows", "tool_qa")
TASKS = {name: f"appo.environments.{name}" for name in NAMES}


def load_task(config: RunConfig, tool_protocol: str | None = None) -> Task:
    """The task that a recipe names, made with its `task_args` where it is a function.

    Args:
        tool_protocol: The run's, for a function with a parameter of that name: its prompts tell of tools in tags.

    Raises:
        RecipeError: where there is none, or `task_args` do not fit.
    """
    name, _, attribute = config.task.partition(":")
    name, attribute = TASKS.get(name, name), attribute or "TASK"
    if not all(part.isidentifier() for part in name.split(".")):
        raise RecipeError(f"task = {config.task!r} is no module's name; use one of {', '.join(TASKS)}, or my.module.")
    if config.allow_unisolated:
        allow_unisolated()
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise RecipeError(
                f"task = {config.task!r} is none of {', '.join(TASKS)}, nor an importable module; name a module that "
                "holds a `TASK`, in the current folder or on PYTHONPATH."
            ) from None
        if name not in TASKS.values():
            raise  # a package that the user's own module imports
        raise RecipeError(str(error)) from None
    found = getattr(module, attribute, None)
    if callable(found):
        found = _make_task(config, found, tool_protocol)
    elif config.task_args is not None and isinstance(found, Task):
        raise RecipeError(f"task_args are given, but task = {config.task!r} takes none; remove them.")
    if not isinstance(found, Task):
        raise RecipeError(
            f"task = {config.task!r}: the module holds no `{attribute}`; define {attribute} = appo.Task(...) in "
            f"{getattr(module, '__file__', None) or name}."
        )
    if runs_programs(found.tools):
        try:
            check_isolation()
        except RuntimeError as error:
            raise RecipeError(str(error)) from error
    return found


def _make_task(config: RunConfig, make: Callable[..., Any], tool_protocol: str | None) -> Any:
    assert config.task_args is None or isinstance(config.task_args, dict)
    given = dict(config.task_args or {})
    signature = inspect.signature(make)
    if tool_protocol is not None and "tool_protocol" in signature.parameters:
        given.setdefault("tool_protocol", tool_protocol)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    if unknown := [name for name in given if name not in signature.parameters and not takes_any]:
        names = list(signature.parameters)
        hint = did_you_mean(unknown[0], names, f"it takes {', '.join(names) or 'none'}.")
        raise RecipeError(f"task_args: task = {config.task!r} has no {unknown[0]}; {hint}")
    try:
        signature.bind(**given)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        raise RecipeError(f"task_args: {error}; task = {config.task!r} takes {takes or 'none'}.") from None
    try:
        return make(**given)
    except (UserError, RuntimeError) as error:
        if not (isinstance(error, UserError) or _is_ours(make)):
            raise
        raise RecipeError(f"task_args: {' '.join(str(error).split())}") from error


def _is_ours(function: Callable[..., Any]) -> bool:
    """Whether a function is this package's, whose complaints about values are worded for users."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == "appo"


def runs_programs(tools: Iterable[Callable[..., Any]]) -> bool:
    """Whether one of the tools is this package's Python sandbox."""
    return any(
        tool is python or isinstance(getattr(tool, "__self__", None), (PythonSandbox, PythonSession)) for tool in tools
    )


def tools_of(task: Task) -> list[Callable[..., Any]]:
    """All that the policy may call: the task's functions, then the methods of its environments, by name."""
    return list(EnvironmentPool(list(task.tools), task.environment_factory).all_tools().values())


def check_rewards(task: Task, args: APPOConfig) -> None:
    """
    Raises:
        UserError: where nothing scores the rollouts, and for another number of weights than of reward functions.
    """
    environments = EnvironmentPool(list(task.tools), task.environment_factory).probe()
    rewarded = task.reward_funcs or task.agent is not None  # an agent may give one, which shows when it has run
    if not rewarded and not any(hasattr(environment, "get_reward") for environment in environments):
        raise UserError("the task has no reward source; give its reward_funcs, or its environment a get_reward().")
    if args.reward_weights is not None and len(args.reward_weights) != len(task.reward_funcs):
        raise UserError(
            f"reward_weights = {args.reward_weights}, but the task's reward functions are {len(task.reward_funcs)}; "
            "give a weight for each."
        )


def check_dtype(args: APPOConfig) -> None:
    """
    Raises:
        RecipeError: for a dtype in `model_init_kwargs` that torch does not have.
    """
    name = (args.model_init_kwargs or {}).get("dtype", "auto")
    if isinstance(name, str) and name != "auto" and not isinstance(getattr(torch, name, None), torch.dtype):
        raise RecipeError(f"model_init_kwargs: torch has no dtype {name!r}; use float32, bfloat16 or float16.")


def check_source(source: str) -> None:
    """
    Raises:
        RecipeError: for a path without a directory.
    """
    path = Path(source)  # the hub's names have one slash
    if not path.exists() and (len(path.parts) > 2 or (len(path.parts) > 1 and path.parent.is_dir())):
        raise RecipeError(f"model = {source!r} cannot be loaded: there is no such directory; train it first.")


def make_model(config: RunConfig, args: APPOConfig, task: Task) -> ModelAndTokenizer:
    """The model that a task makes on the spot.

    Raises:
        RecipeError: where it makes none, or returns something else than a model and a tokenizer.
    """
    transformers.set_seed(args.seed)
    if task.make_model is None:
        raise RecipeError(f"task = {config.task!r} makes no model of its own; name one with `model: DIR_OR_NAME`.")
    try:
        made = task.make_model()
    except (FileNotFoundError, ImportError) as error:
        if not _is_ours(task.make_model):
            raise
        raise RecipeError(str(error)) from None
    pair = isinstance(made, tuple) and len(made) == 2
    if not pair or not isinstance(made[0], PreTrainedModel) or not isinstance(made[1], PreTrainedTokenizerBase):
        names = ", ".join(type(one).__name__ for one in made) if isinstance(made, tuple) else type(made).__name__
        found = "None" if made is None else f"({names})" if isinstance(made, tuple) else names
        raise RecipeError(
            f"task = {config.task!r}: make_model() must return a transformers model and its tokenizer, got {found}."
        )
    return made


def load_model(config: RunConfig, args: APPOConfig, task: Task, source: str | None) -> ModelAndTokenizer:
    if source is None:
        return make_model(config, args, task)
    transformers.set_seed(args.seed)
    check_dtype(args)
    check_source(source)
    try:
        return read_model(source, **{"dtype": torch.float32, **(args.model_init_kwargs or {})})
    except (OSError, ValueError, TypeError, ImportError, SafetensorError) as error:
        raise RecipeError(f"model = {source!r} cannot be loaded: {str(error).splitlines()[0]}") from None


def lora_config(config: RunConfig) -> Any:
    """peft's configuration, or None where all weights are trained.

    Raises:
        RecipeError: for fields that it does not have, and where peft is missing.
    """
    if config.lora is None:
        return None
    assert isinstance(config.lora, dict)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise RecipeError("lora needs the package peft: run `pip install 'appo[peft]'`.") from None
    hints = get_type_hints(LoraConfig)
    try:
        for name, value in config.lora.items():
            kind = hints.get(name)
            if kind in (int, float, bool) and type(value) not in ((int, float) if kind is float else (kind,)):
                raise ValueError(f"{name} must be of type {kind.__name__}, got {value!r}")
        # Ranges are only looked at where a layer is made.
        numbers = {name: config.lora[name] for name in ("r", "lora_alpha", "lora_dropout") if name in config.lora}
        with torch.random.fork_rng(devices=[]):
            layers = torch.nn.ModuleDict({"layer": torch.nn.Linear(1, 1)})
            inject_adapter_in_model(LoraConfig(**numbers, target_modules=["layer"]), layers)
        return LoraConfig(**{"task_type": "CAUSAL_LM", **config.lora})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"lora: {' '.join(str(error).split()).rstrip('.')}.") from None


def precision_note(config: RunConfig, args: APPOConfig) -> str | None:
    """What is wrong with training all weights where they have 16 bits, or None."""
    dtype = str((args.model_init_kwargs or {}).get("dtype", ""))
    # accelerate raises what FSDP2 trains to float32 under mixed precision, DeepSpeed keeps copies.
    kept = args.deepspeed_plugin is not None or (sharding_of(args) == "FSDP2" and (args.bf16 or args.fp16))
    if config.lora is not None or "16" not in dtype or kept:
        return None
    return (
        f"all weights are trained in {dtype}, which loses updates below 1/256 of a weight; start with DeepSpeed or "
        "FSDP2, which keep them in float32, or leave out model_init_kwargs"
    )
