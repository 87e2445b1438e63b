"""vLLM in this process: the engine for a GPU that trains and writes in turn.

Requests are token ids, and tokens come back one step at a time, so that the first token that ends a turn aborts its
request. No stop strings are given to vLLM: it looks for them only in what it wrote itself. A sequence is a new request
in each turn; what it has read is found in the prefix cache, which is emptied when new weights come.

vLLM is made from the configuration alone, in the dtype that the trainer computes in: weights reach it by `load`,
before the first turn and whenever they have changed. Log-probabilities are those of the distribution that is sampled
from. With top-p, top-k or min-p they are of what these leave, unlike the embedded engine's.

    engine = VLLMEngine(make_llm(model.config, torch.bfloat16, rows=256), eos_token_ids=[...], tokenizer=tokenizer)
    engine.load(model.named_parameters())

Left out on purpose: tensor parallelism, for which all processes would have to step together (a server has it), LoRA
adapters (they are merged into the weights), quantized models, and giving a vLLM's memory back within a process: vLLM
keeps what it has of the process' state, so make one.
"""

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from appo.engines.base import Turn
from appo.engines.sequences import Sequence, SequenceEngine
from appo.engines.vllm_worker import load_parameters
from appo.errors import UserError

MISSING = "needs vLLM, which is not installed; run `pip install 'appo[vllm]'` (docs/gpus.md)."
CPU_CACHE_BYTES = 2 << 30
CPU_BLOCK = 32
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # how configurations count them
# vLLM looks at what every object of every loaded module holds; those of this one (of numba's) take that amiss.
UNREADABLE = "llvmlite.binding.ffi"


def make_llm(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    *,
    rows: int,
    context_length: int | None = None,
    memory_utilization: float = 0.9,
    sleep: bool = False,
    model_impl: str = "auto",
    processes: int = 1,
) -> Any:
    """A `vllm.LLM` for models of this configuration, with weights that mean nothing yet.

    Args:
        config: The model's; a custom one needs its code installed as a package.
        dtype: What weights and cache are kept in.
        rows: Sequences that are written at once.
        context_length: Tokens that a sequence may have; None: as many as the model's positions.
        memory_utilization: Share of the GPU's memory for weights and cache.
        sleep: Whether the memory can be given back between writing phases (`VLLMEngine.rest`).
        model_impl: vLLM's option of that name.
        processes: How many processes train; each has a vLLM of its own.

    Raises:
        UserError: where vLLM is missing, or cannot run the model.
    """
    llm_class = _import_llm()
    if sleep and not torch.cuda.is_available():
        raise UserError("vllm_enable_sleep_mode = True needs a GPU with CUDA; leave it out.")
    own = {} if torch.accelerator.is_available() else _cpu_options(config, dtype, rows, context_length)
    if processes > 1:  # vLLM has to find the group that they are in, and not make one
        own["distributed_executor_backend"] = "external_launcher"
    directory = tempfile.mkdtemp(prefix="appo-vllm-")
    config.save_pretrained(directory)
    options = {
        "model": directory,
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": context_length,
        "max_num_seqs": rows,
        "gpu_memory_utilization": memory_utilization,
        "enable_sleep_mode": sleep,
        "model_impl": model_impl,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "seed": 0,  # every request has its own
    }
    return _start(llm_class, directory, {**options, **own})


def _start(llm_class: Any, directory: str, options: dict[str, Any]) -> Any:
    """The `LLM`; the directory with its configuration goes when it does."""
    try:
        with _hidden(UNREADABLE):
            llm = llm_class(**options)
    except (ValueError, NotImplementedError) as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise UserError(f"vLLM cannot run this model: {' '.join(str(error).split())}") from error
    weakref.finalize(llm, shutil.rmtree, directory, ignore_errors=True)
    return llm


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Takes a module out of those that are loaded, for the time being."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


def _import_llm() -> Any:
    # In this process, else weights would have to be copied to another; it is read when vLLM is first imported.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # it would set the trainer's threads too
    try:
        from vllm import LLM
    except ImportError as error:
        raise UserError(f"the engine vllm {MISSING}") from error
    return LLM


def _cpu_options(config: Any, dtype: torch.dtype, rows: int, context_length: int | None) -> dict[str, Any]:
    """A cache for all rows at full length, within bounds: it is written to the end before the first turn.

    Raises:
        UserError: for heads that vLLM has no kernel for, which shows at the first turn else.
    """
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    text = config.get_text_config()
    if any(getattr(text, name, None) for name in EXPERTS):
        raise UserError(
            "vLLM on a CPU does not take new weights of experts, whose packed copies it keeps; use a GPU, or the "
            "embedded engine (use_vllm = false)."
        )
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    known = CPUAttentionBackend.get_supported_head_sizes()
    if head_dim not in known:
        raise UserError(
            f"vLLM cannot run this model on a CPU: head_dim = {head_dim}, and it knows {', '.join(map(str, known))}."
        )
    token_bytes = 2 * text.num_hidden_layers * heads * head_dim * dtype.itemsize
    length = CPU_BLOCK * -(-(context_length or text.max_position_embeddings) // CPU_BLOCK)
    return {
        "enforce_eager": True,
        "block_size": CPU_BLOCK,
        # A seeded prompt that is read in pieces crashes vLLM on a CPU: there is room for all rows' at once.
        "max_num_batched_tokens": rows * length,
        "kv_cache_memory_bytes": max(min(rows * length * token_bytes, CPU_CACHE_BYTES), 2 * length * token_bytes),
    }


@dataclass
class Read:
    """Tokens of contexts, and how many of them were in the prefix cache."""

    tokens: int = 0
    cached: int = 0


@dataclass
class _Running:
    sequence: Sequence
    internal_id: str
    new: bool = field(default=True)  # whether nothing has come back yet


class VLLMEngine(SequenceEngine):
    """Writes turns with a `vllm.LLM` of this process.

    Args:
        llm: Of `make_llm`.
        eos_token_ids: Tokens that end a turn.
        tokenizer: For stop strings; may be None where no request has any.
        temperature, top_p, top_k, min_p: As in transformers; temperature 0 takes the likeliest token.

    Attributes:
        context_length: Tokens that a sequence may have.
        awake: Whether it has weights; after `rest` it needs `load`.
        starts, continuations: What was read of sequences' first and of later turns.
    """

    def __init__(
        self,
        llm: Any,
        *,
        eos_token_ids: Collection[int],
        tokenizer: PreTrainedTokenizerBase | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float | None = None,
    ) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        super().__init__(eos_token_ids, tokenizer, llm.llm_engine.model_config.max_model_len)
        self.llm = llm
        self.sleeps: bool = llm.llm_engine.model_config.enable_sleep_mode
        self.awake = False
        if self.sleeps:
            llm.sleep(level=2)  # its weights mean nothing yet
        self.starts, self.continuations = Read(), Read()
        self._params = SamplingParams
        self._sampling = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k or 0,
            "min_p": min_p or 0.0,
            "detokenize": False,
            "ignore_eos": True,  # the end tokens are those given here
            "output_kind": RequestOutputKind.DELTA,
        }
        self._running: dict[str, _Running] = {}
        self._requests = 0

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Takes new weights: whole tensors under the names of a saved model.

        Raises:
            RuntimeError: while sequences are open.
        """
        self.check_closed()
        if self.sleeps and not self.awake:
            self.llm.wake_up(tags=["weights"])
        with torch.no_grad():
            self.llm.collective_rpc(load_parameters, args=(iter(weights),))
        if self.sleeps and not self.awake:
            self.llm.wake_up(tags=["kv_cache"])
        self.awake = True
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM could not empty its prefix cache, which holds what other weights computed.")

    def rest(self) -> bool:
        """Gives memory back until the next `load`, if the engine was made for that."""
        if self.sleeps and self.awake:
            self.llm.sleep(level=2)
            self.awake = False
        return self.sleeps

    def close(self, id: int) -> None:
        for name in [name for name, running in self._running.items() if running.sequence.id == id]:
            self.llm.llm_engine.abort_request([self._running.pop(name).internal_id], internal=True)
        super().close(id)

    def abandon(self) -> None:
        self.llm.llm_engine.abort_request([running.internal_id for running in self._running.values()], internal=True)
        self._running.clear()
        self._sequences.clear()

    def ask(self, sequence: Sequence) -> None:
        own = {} if sequence.temperature is None else {"temperature": sequence.temperature}
        params = self._params(
            max_tokens=sequence.budget,
            seed=sequence.next_seed(),
            logprobs=max(sequence.top_alternatives, sequence.top_count),
            stop_token_ids=sorted(self.eos_token_ids | sequence.matcher.stop.token_ids),
            **self._sampling | own,
        )
        name = str(self._requests)
        self._requests += 1
        internal = self.llm.llm_engine.add_request(name, {"prompt_token_ids": list(sequence.ids)}, params)
        self._running[name] = _Running(sequence, internal)

    def step(self) -> list[Turn]:
        turns, ended_early = [], []
        for output in self.llm.llm_engine.step():
            running = self._running.get(output.request_id)
            if running is None:
                continue  # a last token of a request that was aborted
            if running.new:
                self._begin(running, output)
            reason = self._take(running.sequence, output.outputs[0])
            if reason:
                turns.append(running.sequence.end_turn(reason))
                del self._running[output.request_id]
                if not output.finished:
                    ended_early.append(running.internal_id)
            elif output.finished:
                raise RuntimeError(f"vLLM ended a turn of sequence {running.sequence.id} without reason.")
        if ended_early:
            self.llm.llm_engine.abort_request(ended_early, internal=True)
        return turns

    def _begin(self, running: _Running, output: Any) -> None:
        """Counts what a request read, and keeps the alternatives to its first token."""
        sequence, running.new = running.sequence, False
        read = self.continuations if sequence.turn else self.starts
        read.tokens += len(sequence.ids)
        read.cached += output.num_cached_tokens or 0
        if sequence.top_alternatives:
            sequence.alternatives = _ranked(output.outputs[0].logprobs[0])[: sequence.top_alternatives]

    @staticmethod
    def _take(sequence: Sequence, written: Any) -> Any:
        for token, entries in zip(written.token_ids, written.logprobs, strict=True):
            likeliest = _ranked(entries) if sequence.top_count else ()
            reason = sequence.take(token, entries[token].logprob, likeliest)
            if reason:
                return reason
        return None


def _ranked(entries: Any) -> list[tuple[int, float]]:
    """What vLLM tells of one place, as (id, log-probability in nats), likeliest first."""
    found = sorted(entries.items(), key=lambda item: -item[1].logprob)
    return [(id, entry.logprob) for id, entry in found]
