"""verl on CPUs, for tests alone: a platform without a device, and gloo for FSDP.

verl asks a device module for much that a CPU does not have; what changes nothing is answered with nothing.
"""

import types
from contextlib import contextmanager

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

NAME = "appo_cpu"
NOTHING = (
    "set_device", "empty_cache", "synchronize", "reset_peak_memory_stats", "ipc_collect", "current_stream",
)  # fmt: skip


class DeviceModule(types.ModuleType):
    """In the place of `torch.cuda`."""

    def __init__(self):
        super().__init__("appo_cpu_device")
        for name in NOTHING:
            setattr(self, name, lambda *args: None)
        for name in ("memory_reserved", "memory_allocated", "max_memory_allocated", "max_memory_reserved"):
            setattr(self, name, lambda *args: 0)

    def is_available(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def mem_get_info(self, *args):
        return 8 << 30, 8 << 30

    def get_device_name(self, *args):
        return "cpu"

    def get_device_capability(self, *args):
        return 0, 0

    def get_rng_state(self, *args):
        return torch.get_rng_state()

    def set_rng_state(self, state, *args):
        torch.set_rng_state(state)

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed


@PlatformRegistry.register(platform=NAME)
class CPUPlatform(PlatformBase):
    """Chosen by `VERL_PLATFORM=appo_cpu`."""

    device_name = "cpu"
    vendor_name = NAME
    device_module = DeviceModule()

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def set_device(self, index):
        pass

    def synchronize(self, index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "APPO_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, message):
        yield

    def profiler_start(self):
        pass

    def profiler_stop(self):
        pass

    def ray_resource_name(self):
        return "GPU"

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None
