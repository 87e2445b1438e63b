"""Tiny models in directories, for tests of commands: one that writes what a script says, and one that samples."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TAGS = ("<think>", "</think>", "<python>", "</python>", "<search>", "</search>", "<answer>", "</answer>")


def byte_tokenizer():
    """One token per byte, so that any bytes can be written; tags and the end are tokens of their own."""
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")


def config_for(tokenizer, hidden_size, **options):
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=hidden_size, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=4096, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **options,
    )  # fmt: skip


def save_scripted(directory, script, tokens=(), template=None):
    """A model whose next token depends on the last one only, as `script` says; others are followed by the end.

    A prompt without a chat template ends with a line break, and so does a tool's result. Keys and values are texts of
    one token, or bytes such as b"\\xff"; a list is of those that are equally likely. `tokens` are texts that are one
    token besides, `template` is a chat template, whose end of a turn is <|im_end|>.
    """
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(text, special=False) for text in tokens])
    if template is not None:
        tokenizer.chat_template = template
        tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    byte_texts = dict(zip(range(256), _byte_texts(), strict=True))

    def token(text):
        name = byte_texts[text[0]] if isinstance(text, bytes) else text if len(text) > 1 else byte_texts[ord(text)]
        return tokenizer.convert_tokens_to_ids(name)

    size = len(tokenizer) + len(tokenizer) % 2
    model = LlamaForCausalLM(config_for(tokenizer, size, tie_word_embeddings=False))
    following = {index: [tokenizer.eos_token_id] for index in range(len(tokenizer))}
    for before, after in script.items():
        following[token(before)] = [token(text) for text in (after if isinstance(after, list) else [after])]
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), size))
        model.lm_head.weight.zero_()
        for before, after in following.items():
            model.lm_head.weight[after, before] = 10.0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def save_random(directory):
    """A model that samples bytes nearly evenly; any of ten letters ends a turn, so lengths differ."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    model = LlamaForCausalLM(config_for(tokenizer, 32))
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcdefghij"]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def _byte_texts():
    """How byte-level tokenizers write each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
