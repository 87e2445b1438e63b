"""How a model is divided among processes, and which ways a run cannot take: those are refused before it is loaded.

accelerate is told either by `accelerate launch --config_file ..`, through the environment, or by the fields `fsdp` and
`deepspeed`. Left out on purpose: what is done with a divided model (`trl_seam.py: whole_weights`).
"""

import os
from typing import Any

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


def _asked(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")
