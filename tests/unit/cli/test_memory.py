"""The formula of memory, by hand."""

from appo.cli.memory import Sizes, estimate


def test_memory_by_hand():
    sizes = Sizes(
        parameters=1000,
        trained=1000,
        layers=2,
        hidden=10,
        intermediate=20,
        key_value=4,
        vocabulary=100,
        weight_bytes=4,
    )
    memory = estimate(
        sizes, rows=3, tokens=5, bytes_per_number=4, checkpointing=False, cached_rows=6, with_logits=True
    )
    assert (memory.weights, memory.gradients, memory.optimizer) == (4000, 4000, 8000)
    # 3 x 5 tokens, 2 layers of 10 x 10 + 2 x 4 + 4 x 20 = 188 numbers
    assert memory.activations == 15 * 2 * 188 * 4
    assert memory.logits == 15 * 100 * 12
    # 6 x 5 tokens, keys and values of 2 layers, and half as much room
    assert memory.cache == 1.5 * 30 * 2 * 2 * 4 * 4
    assert memory.training() == 16_000 + memory.activations + memory.logits
    assert memory.writing() == 12_000 + memory.cache
    assert memory.training(4, 2) == 4000 + 1000 + 2000 + memory.activations + memory.logits
    assert memory.training(4, 3) == 1000 + 1000 + 2000 + memory.activations + memory.logits
    assert memory.writing(4, 3) == 1000 + 2000 + 4000 + memory.cache
    checkpointed = estimate(sizes, rows=3, tokens=5, bytes_per_number=4, checkpointing=True)
    assert checkpointed.activations == 15 * (2 * 10 + 188) * 4


def test_memory_of_an_adapter_by_hand():
    sizes = Sizes(
        parameters=1100, trained=100, layers=2, hidden=10, intermediate=20, key_value=4, vocabulary=100, weight_bytes=2
    )
    memory = estimate(sizes, rows=1, tokens=1, bytes_per_number=2, checkpointing=True)
    assert (memory.weights, memory.gradients, memory.optimizer) == (2200, 400, 1200)
