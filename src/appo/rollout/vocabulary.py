"""The text of each token id, as a table beside the records, so that reading them needs no tokenizer.

Left out on purpose: where the table is (`records.py`).
"""

from typing import Any

import pyarrow as pa


def vocabulary_table(tokenizer: Any) -> pa.Table:
    """Ids and texts of the whole vocabulary: about 1 MB, where the texts of each rollout would be many.

    A text stands as it would in the middle of others: with its white space, and with U+FFFD for a part of a character.
    """
    ids = sorted(tokenizer.get_vocab().values())
    tokens = tokenizer.convert_ids_to_tokens(ids)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend is not None and backend.decoder is None  # such a tokenizer joins whole words with spaces
    texts = [f" {token}" if words else tokenizer.convert_tokens_to_string([token]) for token in tokens]
    # SentencePiece's decoder drops the space at the beginning of a text.
    pairs = zip(tokens, texts, strict=True)
    texts = [f" {text}" if token.startswith("\u2581") and text[:1] != " " else text for token, text in pairs]
    return pa.table({"id": pa.array(ids, pa.int32()), "text": pa.array(texts, pa.string())})
