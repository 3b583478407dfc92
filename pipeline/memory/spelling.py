"""Token ids of a few texts, as a tokenizer of the transformers library gives them, without its detours.

A tokenizer takes "<|im_end|>" in a text for the special token of that name, so that a fact or a question
could end the turn that it stands in. `Spelling.plain` and `Spelling.filled` let texts be texts.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
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
        added = self._own.get_added_tokens_decoder()
        self._ids = {token.content: place for place, token in added.items() if token.special}
        self._marks = frozenset(self._ids.values())
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return _spelled(self._own, texts, self._special)

    @cached_property
    def _letters(self) -> Any:
        """The same tokenizer, to which the name of a special token is letters."""
        other = type(self._own).from_str(self._own.to_str())
        other.encode_special_tokens = True
        return other

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, none of them special: what looks like one is spelled out.

        Nothing is added around a text.
        """
        return _spelled(self._letters, texts, False)

    def filled(self, form: str, fields: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """Return the token ids of a form, once with each of `fields`; only the form's own tokens are special.

        Args:
            form: as `str.format` takes it, with special tokens.
            fields: texts that stand in it.
        """
        own = [self._ids[mark] for mark in self._mark.findall(form)]
        whole = self([form.format(**named) for named in fields])
        return [
            ids if [token for token in ids if token in self._marks] == own else self._apart(form, named)
            for ids, named in zip(whole, fields, strict=True)
        ]

    def _apart(self, form: str, named: Mapping[str, str]) -> list[int]:
        """Return the token ids of a form whose texts hold the names of special tokens, part by part."""
        ids: list[int] = []
        at = 0
        for mark in self._mark.finditer(form):
            ids += [*self.plain([form[at : mark.start()].format(**named)])[0], self._ids[mark.group()]]
            at = mark.end()
        return ids + self.plain([form[at:].format(**named)])[0]


def _spelled(tokenizer: Any, texts: Sequence[str], special: bool) -> list[list[int]]:
    if len(texts) <= FEW:
        return [tokenizer.encode(text, add_special_tokens=special).ids for text in texts]
    return [found.ids for found in tokenizer.encode_batch(list(texts), add_special_tokens=special)]
