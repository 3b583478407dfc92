"""What is told of an answer piece by piece is its text."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.serve.spoken import Spoken
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@given(st.text(max_size=12))
def test_the_pieces_of_any_text_make_it(text: str) -> None:
    spoken = Spoken(TOKENIZER)
    pieces = [spoken.add(token) for token in TOKENIZER.encode(text, add_special_tokens=False)]
    pieces.append(spoken.rest())
    assert "".join(pieces) == spoken.text
    if "\ufffd" not in text and "<|" not in text:
        assert spoken.text == text.strip()
        assert not any("\ufffd" in piece for piece in pieces), "no half letter is told"


@given(st.lists(st.integers(3, len(TOKENIZER) - 1), max_size=12))
def test_the_pieces_of_any_tokens_make_their_text(tokens: list[int]) -> None:
    spoken = Spoken(TOKENIZER)
    told = "".join([*map(spoken.add, tokens), spoken.rest()])
    assert told == TOKENIZER.decode(tokens, skip_special_tokens=True).strip()
