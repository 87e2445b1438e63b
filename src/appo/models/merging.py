"""A policy's parameters as a saved model has them: adapters merged, one layer at a time, beside its own weights.

peft merges in place. In bfloat16 the base does not come back to the bit when an adapter is taken out again, and moves
with every merge: here a layer is copied, and the copy is merged.

Left out on purpose: weights that are divided among processes.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch

FIRST = "base_model.model."  # how peft's names begin


@torch.no_grad()
def merged_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) pairs of a `PeftModel`, under the names of its base."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    copied: tuple[str, Any] = ("", None)  # the layer that was merged last
    for name, parameter in model.named_parameters():
        place, _, own = name.rpartition(".base_layer.")
        plain = name.removeprefix(FIRST).replace(".base_layer", "").replace("modules_to_save.default.", "")
        if place in layers:
            if copied[0] != place:
                copied = (place, copy.deepcopy(layers[place]))
                copied[1].merge()
            yield plain, copied[1].get_base_layer().get_parameter(own).data
        elif model.prefix not in plain and "original_module" not in plain:
            yield plain, parameter.data


def saved_buffers(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) pairs of the buffers that are saved with a model, such as the bias of an expert's gate."""
    for place, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                whole = f"{place}.{name}" if place else name
                yield whole.removeprefix(FIRST).replace(".base_layer", ""), buffer
