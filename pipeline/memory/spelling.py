"""Token ids of a few texts, as a tokenizer of the transformers library gives them, without its detours."""

from collections.abc import Sequence
from typing import Any

FEW = 64
"""Texts up to which one is spelled after the other, without the threads that many are worth."""


class Spelling:
    """The token ids of texts.

    Args:
        tokenizer: of the transformers library; its own settings of padding and cutting don't count.
        special: whether the tokens that it puts around a text are added.
        limit: tokens of the longest text; a longer one is cut. 0 cuts none.
    """

    def __init__(self, tokenizer: Any, special: bool, limit: int = 0) -> None:
        self._special = special
        kept = tokenizer.backend_tokenizer
        self._own = type(kept).from_str(kept.to_str())
        self._own.no_padding()
        self._own.no_truncation()
        if limit:
            self._own.enable_truncation(limit)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        special = self._special
        if len(texts) <= FEW:
            return [self._own.encode(text, add_special_tokens=special).ids for text in texts]
        return [found.ids for found in self._own.encode_batch(list(texts), add_special_tokens=special)]
