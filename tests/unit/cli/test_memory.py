"""The formula of memory, by hand."""

from dataclasses import replace

from appo.cli.memory import Sizes, estimate, serving

SMALL = Sizes(
    parameters=1000, trained=1000, layers=2, hidden=10, intermediate=20, key_value=4, vocabulary=100, weight_bytes=4
)


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


def test_vllm_in_process_takes_its_share_of_the_gpu_that_is_here():
    assert serving(SMALL, rows=6, tokens=5, bytes_per_number=2, share=0.25, gpu_bytes=80_000) == 20_000


def test_vllm_in_process_without_a_gpu_is_its_weights_and_the_cache_of_all_rollouts():
    # 1000 weights of 2 bytes; 6 x 5 tokens x keys and values x 2 layers x 4 numbers x 2 bytes
    needed = serving(SMALL, rows=6, tokens=5, bytes_per_number=2, share=0.25, gpu_bytes=None)
    assert needed == 2000 + 30 * 2 * 2 * 4 * 2


def test_vllm_counts_while_training_unless_it_sleeps():
    options = {"rows": 3, "tokens": 5, "bytes_per_number": 4, "checkpointing": True}
    plain, awake = estimate(SMALL, **options), estimate(SMALL, **options, vllm=7000)
    asleep = estimate(SMALL, **options, vllm=7000, sleeps=True)
    assert awake.training() == plain.training() + 7000
    assert asleep.training() == plain.training()
    # weights and optimizer, 4 + 8 bytes a weight, and vLLM
    assert awake.writing() == asleep.writing() == 12_000 + 7000
    # ZeRO-3 over 4: a quarter of them, and the whole weights that are scored with
    assert asleep.writing(4, 3) == 3000 + 4000 + 7000
    # 4 + 4 + 8 bytes a weight, and 3 x 5 tokens x (2 x 10 + 188) numbers of 4 bytes
    assert asleep.peak() == 16_000 + 12_480


def test_the_line_says_whether_vllm_sleeps():
    memory = estimate(
        replace(SMALL, parameters=10**9, trained=10**9), rows=0, tokens=0, bytes_per_number=4, checkpointing=True,
        vllm=24e9, sleeps=True,
    )  # fmt: skip
    (_, parts), (_, peak) = memory.lines("APPO", 1)
    assert parts.startswith("weights 4.0, gradients 4.0, optimizer 8.0, vllm 24.0 (asleep while training) GB")
    assert peak == "36.0 GB a GPU"
