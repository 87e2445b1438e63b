"""Whether a turn has come to one of its stop strings, asked after every token and therefore cheap.

Only tokens that can complete a string are looked at more closely, and only the last few tokens are decoded then.

Left out on purpose: cutting off what follows the string in its last token. Sampled tokens stay as they are.
"""

import re
import weakref
from collections.abc import Collection, MutableMapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.engines.base import Stop

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # how tokenizers write a byte that no other token holds


# By tokenizer: to look through a large vocabulary takes a good part of a second, and engines come and go.
_closing: MutableMapping[Any, dict[Any, frozenset[int] | None]] = weakref.WeakKeyDictionary()


def closing_tokens(tokenizer: PreTrainedTokenizerBase, strings: Collection[str]) -> frozenset[int] | None:
    """Tokens that may complete one of the strings: what a token holds up to the string's last character is the
    string's end, or ends with the string. None for every token: where a string has characters that a vocabulary may
    write in another way."""
    known = _closing.setdefault(tokenizer, {})
    key = (len(tokenizer), tuple(strings))  # tokens may be added
    if key not in known:
        known[key] = _look_for_closing_tokens(tokenizer, key[1])
    return known[key]


def _look_for_closing_tokens(tokenizer: PreTrainedTokenizerBase, strings: tuple[str, ...]) -> frozenset[int] | None:
    if any(not string.isascii() or re.search(r"\s", string) for string in strings):
        return None
    last = re.compile("[" + re.escape("".join({string[-1] for string in strings})) + "]")
    found = set()
    for token, index in tokenizer.get_vocab().items():
        byte = BYTE_TOKEN.fullmatch(token)
        text = chr(int(byte[1], 16)) if byte else token
        parts = [text[: match.end()] for match in last.finditer(text)]
        if any(string.endswith(part) or part.endswith(string) for string in strings for part in parts):
            found.add(index)
    return frozenset(found)


class StopMatcher:
    """A `Stop` for one tokenizer.

    Args:
        stop: What ends a turn.
        tokenizer: The policy's; may be None where there are no strings.

    Attributes:
        candidates: Tokens after which `ended` may be true; None for any.
        window: How many of a turn's last tokens `ended` looks at, at most.
    """

    def __init__(self, stop: Stop, tokenizer: PreTrainedTokenizerBase | None) -> None:
        if "" in stop.strings:
            raise ValueError("a stop string is empty, which would end every turn at once; leave it out.")
        self.stop, self.tokenizer = stop, tokenizer
        self.candidates: frozenset[int] | None = stop.token_ids
        self.window = 1
        if stop.strings:
            if tokenizer is None:
                raise ValueError("stop strings need a tokenizer; give one to the engine.")
            closing = closing_tokens(tokenizer, stop.strings)
            self.candidates = None if closing is None else stop.token_ids | closing
            self.window = max(len(string.encode()) for string in stop.strings)  # no token holds less than a byte

    def ended(self, turn_ids: list[int]) -> bool:
        """Whether the turn ends with its last token; earlier ones are known not to end it.

        Args:
            turn_ids: The turn, or its last `window` tokens.
        """
        if turn_ids[-1] in self.stop.token_ids:
            return True
        if not self.stop.strings or (self.candidates is not None and turn_ids[-1] not in self.candidates):
            return False
        assert self.tokenizer is not None
        text = _decode(self.tokenizer, turn_ids[-self.window :])
        return any(string in text for string in self.stop.strings)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Straight from the Rust tokenizer where there is one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return tokenizer.decode(ids) if backend is None else backend.decode(ids, skip_special_tokens=False)
