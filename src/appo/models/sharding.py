"""How a model is divided among processes: which ways a run cannot take, and how its weights are whole for a while.

accelerate is told either by `accelerate launch --config_file ..`, through the environment, or by the fields `fsdp` and
`deepspeed`. What cannot work is refused before anything is loaded. Left out on purpose: when weights have to be whole
(`trl_seam.py: whole_weights`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.fsdp import FSDPModule

from appo.errors import UserError


def sharding_of(args: Any) -> str | None:
    """What divides the weights among processes: "FSDP1", "FSDP2", "ZeRO-3" or None.

    Args:
        args: transformers' `TrainingArguments`.
    """
    if getattr(args.deepspeed_plugin, "zero_stage", 0) == 3:
        return "ZeRO-3"
    if args.fsdp_plugin_args is not None:
        return f"FSDP{args.fsdp_plugin_args['fsdp_version']}"
    if _asked("ACCELERATE_USE_FSDP"):
        return f"FSDP{os.environ.get('FSDP_VERSION', '1')}"
    return None


def loads_on_one_process(args: Any) -> bool:
    """Whether FSDP lets the first process alone read the weights, so that the others have none until training."""
    if args.fsdp_plugin_args is not None:
        return bool(args.fsdp_plugin_args.get("cpu_ram_efficient_loading", False))
    return sharding_of(args) is not None and _asked("FSDP_CPU_RAM_EFFICIENT_LOADING")


def check_sharding(args: Any) -> None:
    """Refuses what would wait for ever: processes write rollouts of other lengths, each with all of the weights.

    Raises:
        UserError: naming the field and the remedy.
    """
    sharding = sharding_of(args)
    if sharding == "FSDP1":
        raise UserError(
            "fsdp_version = 1 is not supported: its processes would wait for each other while they write rollouts; "
            "use fsdp_version: 2 (recipes/cluster/fsdp2.yaml)."
        )
    if sharding == "ZeRO-3" and not args.ds3_gather_for_generation:
        raise UserError(
            "ds3_gather_for_generation = False is not supported under ZeRO-3: processes write rollouts of different "
            "lengths and would wait for each other for ever; leave it at True."
        )
    if sharding and args.sync_ref_model:
        raise UserError(
            f"sync_ref_model = True is not supported under {sharding}, as its reference policy cannot be saved in a "
            "checkpoint; leave it at False, or do not divide the weights (DDP, ZeRO-2)."
        )


@contextmanager
def unsharded(model: Any, state: Any) -> Iterator[None]:
    """A model of FSDP2 with all its weights, until the end; nothing where FSDP2 does not divide it.

    Args:
        model: The policy or the reference.
        state: accelerate's.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(bool(state.fsdp_plugin.reshard_after_forward), recurse=False)
        # As accelerate has it: what backward needs first stays whole between forward and backward.
        for first in (model, model.get_output_embeddings()):
            if isinstance(first, FSDPModule):
                first.set_reshard_after_forward(False, recurse=False)


@contextmanager
def out_of_step(model: Any, is_zero3: bool) -> Iterator[None]:
    """Under ZeRO-3, forwards that other processes need not make too.

    DeepSpeed compares all processes' order of layers at the start of each forward, even of gathered weights.
    """
    hooks = dict(model._forward_pre_hooks) if is_zero3 else {}
    for key in hooks:
        del model._forward_pre_hooks[key]
    try:
        yield
    finally:
        model._forward_pre_hooks.update(hooks)


def _asked(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")
