"""Words that a tokenizer has no tokens for: found and told, where they would become its `<unk>` in silence.

Left out on purpose: what a policy writes, which is made of tokens.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

logger = logging.getLogger(__name__)

SHOWN = 8  # words in a message


def text_of(prompt: str | list[dict[str, Any]]) -> str:
    """A prompt's own words: itself, or the texts of its messages."""
    if isinstance(prompt, str):
        return prompt
    return " ".join(message["content"] for message in prompt if isinstance(message.get("content"), str))


class UnknownWords:
    """Looks for unknown words in texts of one kind.

    Args:
        tokenizer: Most have tokens for any text, and nothing is looked at.
        place: What the texts are, for the message.
    """

    def __init__(self, tokenizer: Any, place: str) -> None:
        self.tokenizer, self.place = tokenizer, place
        self.found = Counter[str]()
        self._told = False

    @property
    def count(self) -> int:
        """How many there were so far, each as often as it came."""
        return self.found.total()

    def look(self, texts: Iterable[str], ids: Iterable[Sequence[int]]) -> None:
        """Counts the unknown words of `texts`, whose token ids are `ids`."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return
        for text, own in zip(texts, ids, strict=True):
            if unknown in own:
                # Its own name, written out, is known.
                words = text.replace(self.tokenizer.unk_token, " ").split()
                pieces = self.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
                self.found.update(word for word, piece in zip(words, pieces, strict=True) if unknown in piece)

    def tell(self) -> None:
        """Says what was found, once."""
        if self.found and not self._told:
            self._told = True
            shown = ", ".join(f"{word!r} ({count})" for word, count in self.found.most_common(SHOWN))
            more = f", and {len(self.found) - SHOWN} more" if len(self.found) > SHOWN else ""
            logger.warning(
                "%s hold words that the tokenizer does not know, so that the model sees %s for them: %s%s; use words "
                "of its vocabulary, or another model. This is said once.",
                self.place,
                self.tokenizer.unk_token,
                shown,
                more,
            )
