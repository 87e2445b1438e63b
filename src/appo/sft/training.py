"""Cold start: teaches a model the form of an agent's rollouts from demonstrations, on TRL's `SFTTrainer`.

A demonstration is tokenised piece by piece, never across a boundary, because a rollout is built that way too: what
the policy writes and what a tool returns are encoded apart. Loss falls on the pieces that the policy writes and on
the end token; the prompt and the tool results carry none. Demonstrations come from a task, or from recorded traces
(`traces.py`, `demonstrations.py`).

Left out on purpose: packing (the rollouts are short, and packed rows would see each other without flash attention)
and truncation (a demonstration cut short teaches an agent that never answers; too long ones are left out and counted).

    metrics = cold_start(model, tokenizer, TASK.demonstrations(8000, 0), SFTConfig(output_dir="out", max_steps=400))
"""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from appo.environments.base import Demonstration, each_demonstration
from appo.errors import UserError
from appo.rollout.unknown_words import UnknownWords, text_of

IGNORED = -100  # the label that torch's and TRL's losses skip
CHUNK = 1000  # demonstrations per tokenizer call: a call per piece would take longer than the training


def cold_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Iterable[Demonstration],
    args: SFTConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """Trains `model` in place and returns the metrics, among them how many demonstrations were too long."""
    trainer, counts = make_sft_trainer(model, tokenizer, demonstrations, args, callbacks)
    return {**trainer.train().metrics, **counts}


def make_sft_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Iterable[Demonstration],
    args: SFTConfig,
    callbacks: Sequence[TrainerCallback] = (),
    template: Mapping[str, Any] = MappingProxyType({}),
    peft_config: Any = None,
) -> tuple[SFTTrainer, dict[str, float]]:
    """The trainer, ready to run, and the counts `demonstrations`, `demonstrations_too_long` and
    `demonstrations_unknown_words`.

    Args:
        template: Further arguments of `apply_chat_template` for prompts of messages, as the rollouts' have them.
        peft_config: As in TRL.
    """
    if args.packing or args.padding_free:
        name = "packing" if args.packing else "padding_free"
        raise UserError(f"{name}=True is not supported in the cold start: set it to False.")
    unknown = UnknownWords(tokenizer, "demonstrations")
    rows = tokenize_demonstrations(tokenizer, demonstrations, template, unknown)
    unknown.tell()
    kept = [row for row in rows if args.max_length is None or len(row["input_ids"]) <= args.max_length]
    too_long = len(rows) - len(kept)
    if not kept:
        reason = f"all {too_long} are longer than max_length={args.max_length}: raise it" if rows else "there are none"
        raise UserError(f"demonstrations: {reason}.")
    if too_long:
        warnings.warn(
            f"{too_long} of {len(rows)} demonstrations are longer than max_length={args.max_length} tokens and were "
            "left out: raise max_length or shorten them.",
            stacklevel=2,
        )
    # The rows carry their labels; TRL's own preparation would only walk over them several times.
    args = copy.copy(args)
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(kept),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        peft_config=peft_config,
    )
    counts = {"demonstrations": len(kept), "demonstrations_too_long": too_long}
    return trainer, {**counts, "demonstrations_unknown_words": unknown.count}


def tokenize_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Iterable[Demonstration],
    template: Mapping[str, Any] = MappingProxyType({}),
    unknown: UnknownWords | None = None,
) -> list[dict[str, list[int]]]:
    """One row with `input_ids` and `labels` per demonstration; labels are -100 where no loss falls.

    Words that the tokenizer does not know are counted in `unknown`.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("tokenizer.eos_token is None, but a demonstration has to end with it: set it.")
    rows: list[dict[str, list[int]]] = []
    remaining = each_demonstration(demonstrations)
    while chunk := list(islice(remaining, CHUNK)):
        segments = [segment for demonstration in chunk for segment in demonstration.segments]
        texts = [segment.text for segment in segments if segment.token_ids is None]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        prompts = _prompt_ids(tokenizer, chunk, template)
        if unknown is not None:
            unknown.look([*texts, *(text_of(demonstration.prompt) for demonstration in chunk)], [*encoded, *prompts])
        found = iter(encoded)
        pieces = iter([next(found) if segment.token_ids is None else segment.token_ids for segment in segments])
        for demonstration, prompt in zip(chunk, prompts, strict=True):
            ids, labels = list(prompt), [IGNORED] * len(prompt)
            for segment in demonstration.segments:
                piece = next(pieces)
                ids += piece
                labels += piece if segment.trained else [IGNORED] * len(piece)
            if ids[-1:] != [tokenizer.eos_token_id] or len(ids) == len(prompt):
                ids.append(tokenizer.eos_token_id)
                labels.append(tokenizer.eos_token_id)
            rows.append({"input_ids": ids, "labels": labels})
    return rows


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase, chunk: list[Demonstration], template: Mapping[str, Any]
) -> list[list[int]]:
    """The prompts' ids as the trainer makes them: plain text as it is, messages through the chat template."""
    prompts: list[Any] = [demonstration.prompt for demonstration in chunk]
    if all(isinstance(prompt, str) for prompt in prompts):
        return tokenizer(prompts)["input_ids"]
    return [
        tokenizer(prompt)["input_ids"]
        if isinstance(prompt, str)
        else tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=False, **template
        )
        for prompt in prompts
    ]
