"""One way to an engine, for training, evaluation and research.

Left out on purpose: what an engine does (`base.py`), and the loading of models.
"""

from collections.abc import Collection
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from appo.engines.base import Engine
from appo.engines.transformers_engine import TransformersEngine
from appo.engines.vllm import VLLMEngine, make_llm
from appo.engines.vllm_server import VLLMServerEngine, check_server
from appo.engines.weight_transfer import FileTransfer, NCCLTransfer
from appo.errors import UserError


def open_engine(
    args: Any,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    eos_token_ids: Collection[int],
    max_rows: int,
    *,
    processes: int = 1,
    first_process: bool = True,
    device: torch.device | None = None,
) -> Engine:
    """The engine for a run. Those of vLLM still need `load`, unless a server keeps its own weights.

    Args:
        args: Which engine (`engine`, one of `base.ENGINES`), and how tokens are sampled: `temperature` (0 takes the
            likeliest), `top_p`, and `top_k` and `min_p` where there are any; an `APPOConfig` or an `EvalConfig`.
        model: The policy, unwrapped.
        tokenizer: The policy's.
        eos_token_ids: Tokens that end a turn.
        max_rows: Sequences that write at once.
        processes: That train.
        first_process: Whether this is the one that talks to a server about weights.
        device: That training happens on, which the model may not be on yet.

    Raises:
        UserError: for a model that the engine cannot run, and where vLLM or a server is missing or unfit.
    """
    options: dict[str, Any] = {
        "eos_token_ids": eos_token_ids,
        "tokenizer": tokenizer,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": getattr(args, "top_k", 0),
        "min_p": getattr(args, "min_p", None),
    }
    if args.engine == "vllm_server":
        return _open_server(args, model, options, max_rows, first_process, device or model.device)
    if args.engine == "vllm":
        return VLLMEngine(_make_llm(args, model, max_rows, processes), **options)
    if args.temperature == 0:
        options.update(temperature=1.0, top_k=1)
    pad = tokenizer.pad_token_id
    pad_token_id = pad if pad is not None else min(eos_token_ids, default=0)  # what is padded is masked
    return TransformersEngine(model, pad_token_id=pad_token_id, max_rows=max_rows, **options)


def _make_llm(args: Any, model: Any, rows: int, processes: int) -> Any:
    check_tied_head(model)
    return make_llm(
        model.config,
        serving_dtype(args, model),
        rows=rows,
        context_length=getattr(args, "vllm_max_model_length", None),
        memory_utilization=args.vllm_gpu_memory_utilization,
        sleep=getattr(args, "vllm_enable_sleep_mode", False),
        model_impl=getattr(args, "vllm_model_impl", "auto"),
        processes=processes,
    )


def check_tied_head(model: Any) -> None:
    """
    Raises:
        UserError: for a model whose configuration says that embeddings and output layer share their weights, where an
            adapter gave one of them weights of its own: vLLM would share them.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if tied and head is not None and getattr(head, "weight", None) is not getattr(table, "weight", None):
        raise UserError(
            "lora: embeddings and output layer share their weights in this model, and the adapter changes one of "
            "them, which vLLM cannot; name both in modules_to_save with ensure_weight_tying: true, or neither."
        )


def serving_dtype(args: Any, model: Any) -> torch.dtype:
    """What the trainer's forwards compute in, which is what the policy is: vLLM's own choice would be another one."""
    if getattr(args, "bf16", False):
        return torch.bfloat16
    return torch.float16 if getattr(args, "fp16", False) else model.dtype


def _open_server(
    args: Any, model: Any, options: dict[str, Any], rows: int, first_process: bool, device: torch.device
) -> VLLMServerEngine:
    url = args.server_url.rstrip("/")
    check_tied_head(model)
    engine = VLLMServerEngine(url, rows=rows, timeout=getattr(args, "vllm_server_timeout", 0.0), **options)
    if hasattr(args, "use_vllm"):  # a training
        check_server(url, serving_dtype(args, model))
        if device.type == "cuda" and args.vllm_weight_directory is None:
            engine.transfer = NCCLTransfer(url, args.vllm_group_port, device, sends=first_process)
        else:
            engine.transfer = FileTransfer(url, args.vllm_weight_directory, sends=first_process)
    return engine
