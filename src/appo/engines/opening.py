"""One way to an engine, for training, evaluation and research.

Left out on purpose: what an engine does (`base.py`), and the loading of models.
"""

from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.engines.base import Engine
from appo.engines.transformers_engine import TransformersEngine


def open_engine(
    args: Any, model: Any, tokenizer: PreTrainedTokenizerBase, eos_token_ids: Collection[int], max_rows: int
) -> Engine:
    """The engine for a run.

    Args:
        args: How tokens are sampled: `temperature` (0 takes the likeliest), `top_p`, and `top_k` and `min_p` where
            there are any; an `APPOConfig` or an `EvalConfig`.
        model: The policy, unwrapped.
        tokenizer: The policy's.
        eos_token_ids: Tokens that end a turn.
        max_rows: Sequences that write at once.

    Raises:
        UserError: for a model that the engine cannot run.
    """
    greedy = args.temperature == 0
    pad = tokenizer.pad_token_id
    return TransformersEngine(
        model,
        pad_token_id=pad if pad is not None else min(eos_token_ids, default=0),  # what is padded is masked
        eos_token_ids=eos_token_ids,
        tokenizer=tokenizer,
        temperature=1.0 if greedy else args.temperature,
        top_p=args.top_p,
        top_k=1 if greedy else getattr(args, "top_k", 0),
        min_p=getattr(args, "min_p", None),
        max_rows=max_rows,
    )
