"""A key-value cache in which every row has a length of its own.

Row b holds its tokens in the columns from 0 on, without holes; its next token is written where it ends. So rows enter,
wait and leave without a copy of the others, and a forward reads as many columns as its longest row has tokens. Buffers
have spare room and grow by half; rows that are no longer used are dropped then.

Left out on purpose: pages of a few tokens, which would save memory where lengths differ much but need kernels of their
own; sliding-window and recurrent layers, for which a row's end is not where its last column is.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

# Shapes: B rows of a forward, S rows, R rows of the buffers, H key-value heads, K columns, D head size.

GROWTH = 1.5
SPARE = 48  # columns beyond that: to grow costs a copy of everything


class SlotLayer(DynamicLayer):
    """Keys and values of one layer, (R, K, H, D), and where the next forward writes.

    A row's tokens lie side by side, so that it is copied in one piece.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys_RKHD: torch.Tensor | None = None
        self.values_RKHD: torch.Tensor | None = None
        self.capacity = (0, 0)
        self.rows_B = self.lengths_B = torch.zeros(0, dtype=torch.long)
        self.columns = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes one token (B, H, 1, D) at the end of each of the first B rows; their keys and values so far."""
        self.fit(key_states, value_states)
        assert self.keys_RKHD is not None and self.values_RKHD is not None
        # Under autocast some forwards of a run are of 16 bits and others are not; what was first decides.
        for buffer, states in ((self.keys_RKHD, key_states), (self.values_RKHD, value_states)):
            buffer[self.rows_B, self.lengths_B] = states[:, :, 0].to(buffer.dtype)
        count = len(self.rows_B)
        keys_BKHD, values_BKHD = (buffer[:count, : self.columns] for buffer in (self.keys_RKHD, self.values_RKHD))
        return keys_BKHD.transpose(1, 2), values_BKHD.transpose(1, 2)

    def get_seq_length(self) -> int:
        return max(self.columns - 1, 0)  # before the forward's own token: transformers makes masks by it

    def fit(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Gives the buffers the room that `capacity` asks for, for states (.., H, .., D) of this kind."""
        old_keys, old_values = self.keys_RKHD, self.values_RKHD
        if old_keys is not None and old_keys.shape[0] >= self.capacity[0] and old_keys.shape[1] >= self.capacity[1]:
            return
        self.keys_RKHD, self.values_RKHD = (
            _grown(old, new, self.capacity) for old, new in ((old_keys, keys), (old_values, values))
        )
        self.dtype, self.device, self.is_initialized = self.keys_RKHD.dtype, keys.device, True


def _grown(old: torch.Tensor | None, new: torch.Tensor, capacity: tuple[int, int]) -> torch.Tensor:
    rows, columns = capacity
    like = new if old is None else old  # what was first decides the dtype
    buffer = like.new_zeros(rows, columns, new.shape[1], new.shape[3])  # a masked column must hold numbers
    if old is not None:
        buffer[: old.shape[0], : old.shape[1]] = old[:rows, :columns]
    return buffer


class SlotCache(Cache):
    """A transformers cache made of `SlotLayer`s.

    Args:
        layers: How many the model has.
        most_rows: Bound on the rows.
    """

    def __init__(self, device: torch.device, layers: int, most_rows: int) -> None:
        super().__init__(layers=[SlotLayer() for _ in range(layers)])
        self.device, self.most_rows = device, most_rows
        self._capacity = (0, 0)

    @property
    def columns(self) -> int:
        """Tokens that a row has room for."""
        return self._capacity[1]

    def reserve(self, rows: int, columns: int) -> None:
        """Makes room for so many rows of so many tokens each; what is there stays, up to the last of these rows."""
        had_rows, had_columns = self._capacity
        if columns > had_columns:
            self._capacity = (rows, int(columns * GROWTH) + SPARE)
        elif rows > had_rows:
            self._capacity = (max(rows, min(self.most_rows, int(had_rows * GROWTH))), had_columns)
        else:
            return
        for layer in self.layers:
            layer.capacity = self._capacity

    def begin(self, lengths_B: torch.Tensor, columns: int) -> None:
        """Says where the next forward, of one token for each of the first B rows, writes.

        Args:
            lengths_B: Tokens that each row has.
            columns: How many columns are read, the new token's included.
        """
        rows_B = torch.arange(len(lengths_B), device=self.device)
        for layer in self.layers:
            layer.rows_B, layer.lengths_B, layer.columns = rows_B, lengths_B, columns

    def copy_rows(self, to: list[int], source: list[int], columns: int) -> None:
        """Gives each row of `to` the first columns of the row of `source` beside it; rows may change places."""
        target, origin = (torch.tensor(rows, device=self.device) for rows in (to, source))
        for layer in self.layers:
            if layer.keys_RKHD is None:
                continue  # a layer that reads another one's
            layer.fit(layer.keys_RKHD.transpose(1, 2), layer.values_RKHD.transpose(1, 2))
            for buffer in (layer.keys_RKHD, layer.values_RKHD):
                buffer[target, :columns] = buffer[origin, :columns]

    def read_out(self, rows: list[int], columns: int) -> DynamicCache:
        """A cache of its own that holds these rows' first columns."""
        part = DynamicCache()
        index = torch.tensor(rows, device=self.device)
        for number, layer in enumerate(self.layers):
            if columns and layer.keys_RKHD is not None:
                layer.fit(layer.keys_RKHD.transpose(1, 2), layer.values_RKHD.transpose(1, 2))
                keys, values = (b[index, :columns].transpose(1, 2) for b in (layer.keys_RKHD, layer.values_RKHD))
                part.update(keys, values, number)
        return part

    def write_back(self, rows: list[int], starts: list[int], counts: list[int], part: Cache) -> None:
        """Appends to each row the last `counts[i]` columns of row i of `part`, from column `starts[i]` on."""
        index, first, count = (torch.tensor(values, device=self.device) for values in (rows, starts, counts))
        width = max(counts)
        offsets = torch.arange(width, device=self.device) - (width - count)[:, None]  # of left-padded columns
        which, column = (offsets >= 0).nonzero(as_tuple=True)
        place = first[which] + offsets[which, column]
        for layer, longer in zip(self.layers, part.layers, strict=True):
            layer.fit(longer.keys, longer.values)
            for buffer, states in ((layer.keys_RKHD, longer.keys), (layer.values_RKHD, longer.values)):
                buffer[index[which], place] = states[which, :, column + states.shape[2] - width].to(buffer.dtype)
