"""Vectors to codes of one bit a dimension; see `pipeline.memory.codes` for what they are good for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from pipeline.memory.flat import FlatWriter

WORD = 64
"""Bits of a word."""

Matrix = Float[np.ndarray, "n P"]


class Part(NamedTuple):
    """Codes of some rows, as they are kept."""

    words: Sequence[NDArray[np.uint64]]
    factors: NDArray[np.float16]
    vectors: Float[np.ndarray, "n P"] | None


def rotation(dimensions: int, seed: int) -> Matrix:
    """Return a random rotation of vectors with so many dimensions."""
    random = np.random.default_rng(seed).standard_normal((dimensions, dimensions))
    return np.linalg.qr(random)[0].astype(np.float32)


class CodesWriter:
    """Writes codes as a stream.

    Args:
        files: where to.
        name: of the codes there.
        centre: μ, about the mean of the vectors.
        turned: Q; None leaves vectors as they are, which costs nothing and less fits random ones.
        vectors: whether to keep the vectors too, in 16 bits, to order what is found by.
    """

    def __init__(
        self,
        files: FlatWriter,
        name: str,
        centre: Float[np.ndarray, " P"],
        turned: Matrix | None = None,
        vectors: bool = False,
    ) -> None:
        size = len(centre)
        self._centre = centre.astype(np.float32)
        self._turned = turned
        words = -(-size // WORD)
        self._words = [files.column(f"{name}.word{word}", np.uint64) for word in range(words)]
        self._factors = files.column(f"{name}.factors", np.float16)
        self._vectors = files.column(f"{name}.vectors", np.float16, (size,)) if vectors else None
        files.column(f"{name}.centre", np.float32).append(self._centre)
        if turned is not None:
            files.column(f"{name}.rotation", np.float32, (size,)).append(turned)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return len(self._centre)

    def append(self, vectors: Matrix) -> None:
        """Write the codes of `vectors` behind those before."""
        words, factors = coded(vectors, self._centre, self._turned)
        for column, word in zip(self._words, words.T, strict=True):
            column.append(word)
        self._factors.append(factors)
        if self._vectors is not None:
            self._vectors.append(vectors)

    def copy(self, part: "Part") -> None:
        """Write codes that another writer of the same centre and rotation wrote, as they are."""
        for column, words in zip(self._words, part.words, strict=True):
            column.append(words)
        self._factors.append(part.factors)
        if self._vectors is not None:
            assert part.vectors is not None
            self._vectors.append(part.vectors)


def coded(
    vectors: Matrix, centre: Float[np.ndarray, " P"], turned: Matrix | None = None
) -> tuple[NDArray[np.uint64], NDArray[np.float16]]:
    """Return the codes of `vectors` as words, [n, words], and the number beside each."""
    moved = vectors.astype(np.float32) - centre
    if turned is not None:
        moved = moved @ turned.T
    lengths = np.einsum("np,np->n", moved, moved)
    sums = np.abs(moved).sum(axis=1)  # Q(v - μ)·s, for s are its signs
    factors = np.divide(lengths, sums, out=np.zeros_like(sums), where=sums > 0)
    return as_words(moved > 0), factors.astype(np.float16)


def as_words(bits: Bool[np.ndarray, "n P"]) -> NDArray[np.uint64]:
    """Return rows of bits as words, filled up with zeros: [n, words]."""
    padded = np.zeros((len(bits), -(-bits.shape[1] // WORD) * WORD), np.bool_)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
