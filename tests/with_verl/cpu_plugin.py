"""Loaded by verl in each process (`VERL_USE_EXTERNAL_MODULES=cpu_plugin`), for tests alone: CPUs, gloo, a server."""

import cpu_platform  # noqa: F401  before anything asks which platform there is
import verl.utils.distributed as distributed
import verl.workers.engine_workers as engine_workers
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

_start = distributed.initialize_global_process_group_ray


def start_with_gloo(timeout_second=None, backend=None):
    """verl asks for no backend by name, and torch would look for one of the device's."""
    return _start(timeout_second=timeout_second, backend=backend or "cpu:gloo")


distributed.initialize_global_process_group_ray = start_with_gloo
engine_workers.initialize_global_process_group_ray = start_with_gloo
if "cpu" not in EngineRegistry._engines.get("language_model", {}).get("fsdp2", {}):
    register = EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
    register(FSDPEngineWithLMHead)


import cpu_server  # noqa: E402, F401  it needs the platform
