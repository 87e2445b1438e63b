"""A tiny model with Qwen3's chat template, taught on the spot to write calls: what a model from a hub is in tests."""

import json
import re
from pathlib import Path

import torch
import trl
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
THINKING = {"enable_thinking": False}
END = "<|im_end|>"
SPECIALS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>", END]


def turns_of(question, calls, results, tools):
    """(what precedes, what is written) of an episode's two turns: the calls, as (name, arguments), and "Done."."""
    template = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    options = {"tools": tools, "chat_template": TEMPLATE, "tokenize": False, "add_generation_prompt": True, **THINKING}
    chat = [{"role": "user", "content": question}]
    start = template.apply_chat_template(chat, **options)
    written = [{"name": name, "arguments": arguments} for name, arguments in calls]
    chat += [{"role": "assistant", "content": "", "tool_calls": written}]
    chat += [{"role": "tool", "content": str(result)} for result in results]
    text = "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in written)
    return [(start, text + END), (template.apply_chat_template(chat, **options), "Done." + END)]


def tokenizer_for(texts):
    """Its tokens may be as long as whatever lies between special ones, so that there is little to learn."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False, use_regex=False), ByteLevelDecoder()
    pieces = [piece for text in texts for piece in re.split("|".join(map(re.escape, SPECIALS)), text)]
    backend.train_from_iterator(pieces, BpeTrainer(vocab_size=2000, initial_alphabet=ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token="<|endoftext|>")
    tokenizer.add_tokens(SPECIALS)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def taught(turns, steps=100):
    """A tiny model that writes such turns, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = tokenizer_for(map("".join, turns))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    pairs = [[torch.tensor(tokenizer(text)["input_ids"]) for text in turn] for turn in turns]
    labels = [torch.cat([torch.full_like(before, -100), written]) for before, written in pairs]
    batch = {
        "input_ids": pad_sequence([torch.cat(pair) for pair in pairs], True, tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in labels], True),
        "labels": pad_sequence(labels, True, -100),
    }
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 6e-3 * (1 - step / steps)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer
