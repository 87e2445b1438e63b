"""A key-value cache for sequences that start, wait and stop at different times.

Rows share the cache's columns. A row that waits leaves a hole, which the attention mask hides; `repack` squeezes the
holes out and drops rows that have ended. Buffers have spare room, so a step writes one column and copies nothing.

Left out on purpose: sliding-window and recurrent layers, for which a hole would count as a token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicLayer

# Shapes: B rows, H key-value heads, K cached columns, D head size.

GROWTH = 1.5


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` whose keys and values are views into larger buffers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            room = int(end * GROWTH) + 16
            buffers = []
            for old, new in ((self.keys, key_states), (self.values, value_states)):  # type: ignore[has-type]
                buffer = new.new_zeros(*new.shape[:-2], room, new.shape[-1])
                if start:
                    buffer[..., :start, :] = old
                buffers.append(buffer)
            self._buffers = (buffers[0], buffers[1])
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        self._buffers[0][..., start:end, :] = key_states
        self._buffers[1][..., start:end, :] = value_states
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def replace(self, keys_BHKD: torch.Tensor, values_BHKD: torch.Tensor) -> None:
        """Takes other contents; the buffers are made anew at the next update."""
        self.keys, self.values, self._buffers = keys_BHKD, values_BHKD, None
        self.dtype, self.device, self.is_initialized = keys_BHKD.dtype, keys_BHKD.device, True


class RaggedCache(Cache):
    """A transformers cache made of `GrowingLayer`s, with row and column surgery."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=GrowingLayer)

    def select_rows(self, rows_B: torch.Tensor) -> "RaggedCache":
        """A new cache of the given rows (repeats allowed). Empty stays empty."""
        selected = RaggedCache()
        for index, layer in enumerate(self.layers):
            selected.layers.append(GrowingLayer())
            selected.layers[index].replace(layer.keys[rows_B], layer.values[rows_B])
        return selected

    def repack(self, rows_B: torch.Tensor, columns_BK: torch.Tensor) -> None:
        """Keeps rows `rows_B` and, of row b, the columns `columns_BK[b]` in that order."""
        for layer in self.layers:
            # One gather over rows and columns at once, (B, K, H, D), laid out for the attention by `replace`.
            keys, values = (
                states[rows_B[:, None], :, columns_BK].transpose(1, 2) for states in (layer.keys, layer.values)
            )
            layer.replace(keys, values)

    def absorb(self, rows_S: torch.Tensor, other: "RaggedCache") -> None:
        """Takes rows `rows_S` from `other`, which has more columns; all other rows get holes there."""
        for layer, longer in zip(self.layers, other.layers, strict=True):
            extra = longer.keys.shape[2] - layer.keys.shape[2]
            keys, values = (F.pad(states, (0, 0, 0, extra)) for states in (layer.keys, layer.values))
            keys[rows_S], values[rows_S] = longer.keys, longer.values
            layer.replace(keys, values)
