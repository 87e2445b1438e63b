"""A cache whose rows have lengths of their own, by hand."""

import torch

from appo.engines.kv_cache import SlotLayer

# Two rows, one head, a head size of three.


def write(layer, value, dtype, columns):
    """Writes one token in each row, the last of `columns`; all that there is then."""
    layer.capacity = (2, columns)
    layer.rows_B, layer.lengths_B, layer.columns = torch.arange(2), torch.full((2,), columns - 1), columns
    states = torch.full((2, 1, 1, 3), value, dtype=dtype)
    return layer.update(states, states)


def test_a_cache_that_grows_keeps_the_dtype_of_what_came_first():
    layer = SlotLayer()
    third = 1 / 3  # which 16 bits do not hold
    write(layer, third, torch.float32, 1)
    for found in write(layer, 0.5, torch.bfloat16, 2):
        assert found.dtype == torch.float32
        assert torch.equal(found[0, 0, :, 0], torch.tensor([third, 0.5]))
    assert layer.dtype == torch.float32


def test_states_of_more_bits_are_rounded_to_those_of_what_came_first():
    layer = SlotLayer()
    write(layer, 0.5, torch.bfloat16, 1)
    for found in write(layer, 1 / 3, torch.float32, 2):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found[1, 0, :, 0], torch.tensor([0.5, 1 / 3]).bfloat16())
