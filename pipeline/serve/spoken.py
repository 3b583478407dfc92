"""Tokens to text, as they come."""

from typing import Any

INCOMPLETE = "\ufffd"
"""What a tokenizer makes of the first bytes of a letter."""


class Spoken:
    """An answer that is being said, and how much of its text can be told already.

    Blanks at its ends are no part of an answer, so one is told only once something follows it.

    Args:
        tokenizer: of the language model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._told = ""
        self.tokens: list[int] = []

    @property
    def text(self) -> str:
        """The answer so far."""
        text: str = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
        return text.strip()

    def add(self, token: int) -> str:
        """Take a token; return the text that can be told now."""
        self.tokens.append(token)
        return self._more(self.text.rstrip(INCOMPLETE).rstrip())

    def rest(self) -> str:
        """Return what is left to tell at the end."""
        return self._more(self.text)

    def _more(self, text: str) -> str:
        if not text.startswith(self._told):
            return ""
        more = text[len(self._told) :]
        self._told = text
        return more
