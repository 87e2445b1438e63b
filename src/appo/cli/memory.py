"""How much memory a run takes on each GPU: a formula of sizes that a model's configuration tells.

    weights       bytes of a weight x parameters
    gradients     the same for trained parameters (4 bytes for an adapter's)
    optimizer     AdamW's two moments: 8 bytes a trained parameter; 12 where weights have 16 bits, with the float32
                  copy that DeepSpeed or an adapter then keeps
    activations   of a micro-batch: with gradient checkpointing a hidden state per layer and all that one layer
                  computes, (10 hidden + 2 key-value + 4 intermediate) numbers a token; without it, that for all layers
    logits        12 bytes x vocabulary a token, in the cold start (TRL's loss of rollouts computes them in tiles)
    cache         keys and values of all rollouts written at once, at full length, and half as much spare room
    vllm          with vLLM in process instead of the cache: `vllm_gpu_memory_utilization` of the GPU, which holds
                  vLLM's own copy of the weights and its cache; where no GPU is here, that copy and the keys and values
                  of all rollouts written at once, without spare room. A server takes nothing of the training GPUs

Training holds the first five at once, and vLLM unless it sleeps (`vllm_enable_sleep_mode`); writing rollouts the
weights, the optimizer, and the cache or vLLM. FSDP2 and ZeRO-3 have whole weights while they write and score, in the
type that they compute in, which is taken to be that of the weights. Left out on purpose:
what CUDA and libraries take for themselves (some GB), fragments, and attention kernels that store scores.
"""

from dataclasses import dataclass
from typing import Any

GB = 1e9
GROWTH = 1.5  # of the cache's buffers


@dataclass(frozen=True)
class Sizes:
    """What of a model the formula needs; counts of numbers, except for the bytes of a weight."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    intermediate: int
    key_value: int
    vocabulary: int
    weight_bytes: int

    @classmethod
    def of(cls, config: Any, parameters: int, trained: int, weight_bytes: int) -> "Sizes":
        """Sizes by a transformers configuration."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
        key_value = (getattr(text, "num_key_value_heads", None) or heads) * head_dim
        intermediate = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        return cls(
            parameters, trained, text.num_hidden_layers, text.hidden_size, intermediate, key_value, text.vocab_size,
            weight_bytes,
        )  # fmt: skip

    def token_bytes(self, number: int) -> int:
        """Keys and values of one token, at so many bytes a number."""
        return 2 * self.layers * self.key_value * number


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by what takes them."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    cache: float
    vllm: float = 0.0
    resting: float = 0.0  # of vLLM's, while training

    def training(self, shards: int = 1, stage: int = 0) -> float:
        """Bytes while training, where DeepSpeed's ZeRO of a stage (or FSDP: 3) divides over `shards` GPUs."""
        return self._kept(shards, stage) + self.activations + self.logits + self.resting

    def writing(self, shards: int = 1, stage: int = 0) -> float:
        """Bytes while writing rollouts: there the weights are whole, gathered where they are sharded."""
        gathered = self.weights if stage == 3 else 0.0
        freed = self.gradients / (shards if stage >= 2 else 1)
        return self._kept(shards, stage) - freed + gathered + self.cache + self.vllm

    def peak(self, shards: int = 1, stage: int = 0) -> float:
        """The larger of both."""
        return max(self.training(shards, stage), self.writing(shards, stage))

    def lines(self, name: str, processes: int) -> list[tuple[str, str]]:
        """The estimate in words; with several processes also for what DeepSpeed and FSDP divide among them."""
        sizes = {part: size for part, size in vars(self).items() if size and part != "resting"}
        parts = ", ".join(f"{part} {size / GB:.1f}" for part, size in sizes.items())
        parts += " (asleep while training)" if self.vllm and not self.resting else ""
        peaks = [f"{self.peak() / GB:.1f} GB a GPU"]
        if processes > 1:
            peaks += [
                f"{self.peak(processes, stage) / GB:.1f} with {word} over {processes}"
                for stage, word in ((2, "ZeRO-2"), (3, "ZeRO-3 or FSDP"))
            ]
        return [(f"memory, {name}", f"{parts} GB (a formula: appo/cli/memory.py)"), ("  at most", "; ".join(peaks))]

    def _kept(self, shards: int, stage: int) -> float:
        by_stage = ((self.optimizer, 1), (self.gradients, 2), (self.weights, 3))
        return sum(part / (shards if stage >= least else 1) for part, least in by_stage)


def estimate(
    sizes: Sizes,
    *,
    rows: int,
    tokens: int,
    bytes_per_number: int,
    checkpointing: bool,
    cached_rows: int = 0,
    with_logits: bool = False,
    vllm: float = 0.0,
    sleeps: bool = False,
) -> Memory:
    """The memory of training on micro-batches of `rows` x `tokens`, and of writing `cached_rows` rollouts at once.

    Args:
        sizes: The model's.
        rows, tokens: Of a micro-batch, prompt included.
        bytes_per_number: Of an activation: 2 under bf16 or fp16, else 4.
        checkpointing: Gradient checkpointing.
        cached_rows: Rollouts written at once.
        with_logits: Whether the loss holds all logits, as the cold start's does.
        vllm: Bytes of vLLM in process (`serving`); then `cached_rows` is 0.
        sleeps: Whether it gives them back while training.
    """
    layer = 10 * sizes.hidden + 2 * sizes.key_value + 4 * sizes.intermediate
    numbers = sizes.layers * sizes.hidden + layer if checkpointing else sizes.layers * layer
    small = sizes.weight_bytes < 4
    # Adapters are trained in float32.
    trained_bytes = sizes.weight_bytes if sizes.trained == sizes.parameters else 4
    return Memory(
        weights=sizes.weight_bytes * sizes.parameters,
        gradients=trained_bytes * sizes.trained,
        optimizer=(12 if small else 8) * sizes.trained,
        activations=rows * tokens * numbers * bytes_per_number,
        logits=12.0 * rows * tokens * sizes.vocabulary if with_logits else 0.0,
        cache=GROWTH * cached_rows * tokens * sizes.token_bytes(sizes.weight_bytes),
        vllm=vllm,
        resting=0.0 if sleeps else vllm,
    )


def serving(
    sizes: Sizes, *, rows: int, tokens: int, bytes_per_number: int, share: float, gpu_bytes: int | None
) -> float:
    """Bytes that vLLM in process takes on a GPU.

    Args:
        sizes: The model's.
        rows, tokens: Rollouts written at once, and the tokens of each, prompt included.
        bytes_per_number: Of vLLM's weights and cache: 2 under bf16 or fp16, else 4.
        share: `vllm_gpu_memory_utilization`.
        gpu_bytes: The GPU's memory; None where there is none to ask.
    """
    if gpu_bytes is not None:
        return share * gpu_bytes
    return bytes_per_number * sizes.parameters + rows * tokens * sizes.token_bytes(bytes_per_number)
