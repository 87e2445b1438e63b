"""A model small enough to learn a testbed in minutes on a CPU, and a tokenizer that knows its words.

    tokenizer = word_tokenizer(["north", "south"], ["<act>", "</act>"])
    model = tiny_llama(tokenizer)

Left out on purpose: pretrained weights (`smollm2.py`).
"""

from collections import Counter
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def word_tokenizer(words: Sequence[str], tags: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: one token per word, words joined by spaces in decoding.

    The tags are added tokens and not words of the model's vocabulary: text that only looks like a tag (encoded
    without added tokens) becomes `<unk>`. They are not special, since decoding without special tokens, which is what
    a reward function gets to see, would drop them.

    Args:
        words: All different; others become `<unk>`.
        tags: Such as `<act>`, `</act>`.

    Raises:
        ValueError: for a word that is given twice: an id without a word would be left.
    """
    known = ["<unk>", *words]
    if twice := [word for word, count in Counter(known).items() if count > 1]:
        raise ValueError(f"words must all be different, got {', '.join(twice)} more than once.")
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return tokenizer


def tiny_llama(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int = 96, layers: int = 2, context: int = 1024
) -> LlamaForCausalLM:
    """A Llama with fresh weights from torch's generator; of about 0.2M parameters by default.

    Args:
        tokenizer: Gives the size of the vocabulary, and the ids of `<eos>` and `<pad>`.
        hidden_size: A multiple of 4, the number of heads.
        layers: How many.
        context: Most tokens of a prompt and its completion.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        # About 1 / sqrt(hidden_size): with the usual 0.02 a model this narrow learns to copy much later.
        initializer_range=0.1,
        max_position_embeddings=context,
        # Rollouts are short: a small base tells "the last result" from the one before it, the usual 10,000 hardly.
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
        tie_word_embeddings=True,
        attention_dropout=0.0,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
