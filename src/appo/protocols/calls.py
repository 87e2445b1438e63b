"""What both ways of writing calls share: a call as written, and the way between sampled ids and text.

Sampled ids are decoded to be read and never encoded again; only results are encoded, and the text of a special token
inside a result stays text.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.errors import UserError
from appo.rollout.unknown_words import UnknownWords

THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>")
LAST_THOUGHT = re.compile(r"(<think>(?:(?!<think>).)*</think>|<think>)\s*\Z", re.DOTALL)
PAPER_TAGS = ("think", "search", "python", "result", "answer")
MAX_CALL_CHARS = 65_536  # a longer call is not run: what a policy babbles should not reach a tool


@dataclass
class ParsedCall:
    """A call as written. `start` and `end` count tokens from the start of the turn.

    `error` is None, or a sentence that tells the policy why the call cannot be run (`arguments` are None then).
    """

    name: str
    arguments: Any
    start: int
    end: int
    error: str | None = None


class PlainText:
    """Encodes text in which the text of special and added tokens is text.

    Such text is cut behind its first character, and the pieces are encoded apart. (`split_special_tokens` would leave
    out tokens that were added without being special, such as `<tool_call>` in many models.) Words that the tokenizer
    does not know are told once; what was cut is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        longest_first = sorted((token for token in added if len(token) > 1), key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._unknown = UnknownWords(tokenizer, "tool results")

    def holds_tokens(self, text: str) -> bool:
        """Whether the text of a special or added token occurs in `text`."""
        return self._tokens.search(text) is not None

    def cut(self, text: str) -> list[str]:
        """The pieces of `text`, none of which holds such a token."""
        cuts = [match.start() + 1 for match in self._tokens.finditer(text)]
        return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def __call__(self, text: str) -> list[int]:
        tokens = [token for ids in self._encode(self.cut(text)) for token in ids]
        self.tell_unknown([text], tokens)
        return tokens

    def _encode(self, pieces: list[str]) -> list[list[int]]:
        """Straight by the Rust tokenizer where there is one: a short text takes a fifth of the time."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or backend.padding is not None or backend.truncation is not None:
            return self.tokenizer(pieces, add_special_tokens=False)["input_ids"]
        return [backend.encode(piece, add_special_tokens=False).ids for piece in pieces]

    def rendered(self, texts: list[str], render: Callable[[list[str]], list[int]]) -> list[int]:
        """Token ids of messages with these texts, in which the text of special tokens stays text.

        Args:
            texts: Of the messages.
            render: From texts to token ids; it may turn the text of special tokens into these.

        Raises:
            UserError: where `render` changes the texts.
        """
        safe = texts
        if any(map(self.holds_tokens, texts)):
            # `render` would turn this text into special tokens: a character that is not in it keeps them apart.
            cut = next(chr(code) for code in range(0xE000, 0xF900) if not any(chr(code) in text for text in texts))
            safe = [cut.join(self.cut(text)) for text in texts]
        ids = render(safe)
        self.tell_unknown(texts, ids)
        if safe is texts:
            return ids
        pieces = decode(self.tokenizer, ids).split(cut)
        if len(pieces) <= sum(text.count(cut) for text in safe):
            raise UserError("The tokenizer or its chat template changes the text of tool results.")
        return [token for ids in self.tokenizer(pieces, add_special_tokens=False)["input_ids"] for token in ids]

    def tell_unknown(self, texts: list[str], ids: list[int]) -> None:
        """Says, once, which words of `texts` became the unknown token in `ids`."""
        self._unknown.look([self._tokens.sub(" ", " ".join(texts))], [ids])
        self._unknown.tell()


class ReadableText:
    """Decodes what reward functions read: without special tokens, except tags, which a tokenizer may hold as such.

    Args:
        tokenizer: The policy's.
        names: Of tags, besides the paper's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, names: Iterable[str] = ()) -> None:
        self.tokenizer = tokenizer
        tags = {f"<{slash}{name}>" for name in (*PAPER_TAGS, *names) for slash in ("", "/")}
        added = tokenizer.added_tokens_decoder
        special = {*tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}
        self._left_out = frozenset(index for index in special if decode(tokenizer, [index]).strip() not in tags)

    def __call__(self, ids: list[int]) -> str:
        return self.tokenizer.decode([index for index in ids if index not in self._left_out])

    def begun(self, text: str, context_ids: list[int]) -> str:
        """The text of a turn with the thought that its context ends with; it may have written one of its own."""
        return text if text.lstrip().startswith("<think>") else last_thought(self.tokenizer, context_ids) + text


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Text of sampled ids, special tokens included; straight from the Rust tokenizer where there is one, as this is
    called at every candidate for a stop."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return tokenizer.decode(ids) if backend is None else backend.decode(ids, skip_special_tokens=False)


def last_thought(tokenizer: PreTrainedTokenizerBase, context_ids: list[int]) -> str:
    """What the prompt already wrote of a turn's thoughts, as some templates do: `<think>`, a whole thought, mostly an
    empty one, where the policy is not to think, or nothing."""
    found = LAST_THOUGHT.search(decode(tokenizer, context_ids[-64:]))
    return found[1] if found else ""


def opens_thought(tokenizer: PreTrainedTokenizerBase, context_ids: list[int]) -> bool:
    """Whether the prompt already wrote the opening tag of a turn's thoughts, as some templates do."""
    return last_thought(tokenizer, context_ids) == "<think>"


def has_begun_to_answer(text: str, answer_tag: str = "answer") -> bool:
    """Whether a turn, as far as it is written, holds the answer's opening tag; thoughts may speak of it."""
    return f"<{answer_tag}>" in THOUGHT.sub("", text).partition("<think>")[0]


def token_at(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str, offset: int) -> int:
    """Index of the token that completes character `offset` of `text`, the decoded `ids`; by bisection.

    Prefixes are compared and not measured: one that ends inside a character decodes to other text of any length.
    """
    wanted = text[: offset + 1]
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if decode(tokenizer, ids[: middle + 1]).startswith(wanted):
            high = middle
        else:
            low = middle + 1
    return low
