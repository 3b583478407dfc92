"""Endless text that a needle is hidden in: the classic sentences, a manual, real prose."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from jaxtyping import Int

from pipeline.longcontext import corpora
from pipeline.longcontext.samples import encoded

CLASSIC = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
"""Of the passkey test (arXiv 2305.16300)."""


@dataclass(frozen=True)
class Filler:
    """A text that begins anew at its end."""

    ids: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " s"]
    """First tokens of its sentences, ascending from 0."""

    def taken(self, sentence: int, count: int) -> Int[np.ndarray, " c"]:
        """Return `count` tokens from the beginning of a sentence on."""
        first = self.starts[sentence % len(self.starts)]
        ids: Int[np.ndarray, " c"] = self.ids[(first + np.arange(count)) % len(self.ids)]
        return ids

    def parted(self, sentence: int, count: int) -> int:
        """Return the most tokens, `count` at most, after which a sentence ends in what `taken` returns."""
        first = self.starts[sentence % len(self.starts)]
        rounds, place = divmod(int(first) + count, len(self.ids))
        begun = self.starts[np.searchsorted(self.starts, place, side="right") - 1]
        return max(0, int(begun) + rounds * len(self.ids) - int(first))


def classic() -> Iterator[str]:
    """Yield the classic sentences."""
    yield from corpora.sentences(CLASSIC)


def manual() -> Iterator[str]:
    """Yield Python's reference manual, which every Python brings along."""
    for name in sorted(topics):
        yield from corpora.sentences(f"\n\n{' '.join(topics[name].split())}")


def real() -> Iterator[str]:
    """Yield passages of Wikipedia, news and plays, by turns."""
    texts = (
        [f"{one.title}. {one.text}" for one in corpora.passages()],
        [f"{one.headline}. {one.text}" for one in corpora.news()],
        corpora.plays(),
    )
    for place in range(max(map(len, texts))):
        for kind in texts:
            if place < len(kind):
                yield from corpora.sentences(f"\n\n{kind[place]}")


KINDS = {"classic": classic, "manual": manual, "real": real}


def check_kinds(kinds: Iterable[str], where: str) -> None:
    """Raise a ValueError that names `where` unless there are fillers of all `kinds`."""
    unknown = sorted(set(kinds) - KINDS.keys())
    if unknown:
        raise ValueError(f"{where} must be of {', '.join(KINDS)}, not {unknown[0]!r}")


def filler(kind: str, tokenizer: Any) -> Filler:
    """Return one of `KINDS` in a model's tokens.

    Raises:
        UserError: the files of `real` are missing.
    """
    parts = list(KINDS[kind]())
    pieces = tokenizer(parts, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = [piece for piece in pieces if piece]
    ends = np.cumsum([len(piece) for piece in pieces])
    ids = np.fromiter((token for piece in pieces for token in piece), np.int64, int(ends[-1]))
    return Filler(ids, np.concatenate([[0], ends[:-1]]))


def one_line(tokenizer: Any, text: str, count: int) -> list[int]:
    """Return the last `count` tokens of a text that is repeated until it has as many."""
    ids = encoded(tokenizer, text)
    return (ids * -(-count // len(ids)))[-count:] if count else []
