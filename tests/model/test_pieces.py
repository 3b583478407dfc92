"""Answers piece by piece against those that are told at once."""

from typing import Any

import pytest

from pipeline.model.pieces import BROKEN, Pieces


class Bytes:
    """A tokenizer whose tokens are bytes; 0 stands for nothing."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return bytes(token for token in tokens if token or not skip_special_tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Paris", ["P", "a", "r", "i", "s", ""]),
        (" of ", ["", "o", "f", "", ""]),
        ("a b", ["a", "", " b", ""]),
        ("é", ["", "é", ""]),
        ("", [""]),
    ],
)
def test_pieces_are_whole_letters_without_spaces_around_them(text: str, pieces: list[str]) -> None:
    tokenizer: Any = Bytes()
    told = Pieces(tokenizer, 255)
    found = []
    for token in [*text.encode(), 255]:
        assert not told.ended
        found.append(told.add(token))
    assert told.ended
    assert found == pieces
    assert "".join(found) == text.strip()


def test_what_is_cut_short_ends_as_it_is_told_at_once() -> None:
    tokenizer: Any = Bytes()
    told = Pieces(tokenizer, 255)
    found = [told.add(token) for token in "aé".encode()[:2]]
    assert [*found, told.end()] == ["a", "", BROKEN]
