"""An answer piece by piece, while its tokens are computed."""

from typing import Any

BROKEN = "\ufffd"
"""What a tokenizer makes of the first bytes of a letter."""


class Pieces:
    """The text of tokens that come one by one: joined, the pieces are the text of all, stripped.

    Args:
        tokenizer: of the transformers library.
        stop: the token that ends an answer.
    """

    def __init__(self, tokenizer: Any, stop: int) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self._told = ""
        self.ended = False
        """Whether nothing more comes."""

    def add(self, token: int) -> str:
        """Return what a token adds: nothing as long as a letter isn't whole, or a space may be the last."""
        if token == self._stop:
            return self.end()
        self._tokens.append(token)
        text = self._text()
        if text.endswith(BROKEN) or not text.startswith(self._told):
            return ""
        return self._tell(text)

    def end(self) -> str:
        """Return what is left to tell."""
        self.ended = True
        return self._tell(self._text())

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        return text.strip()

    def _tell(self, text: str) -> str:
        piece, self._told = text[len(self._told) :], text
        return piece
