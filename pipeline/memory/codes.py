"""Vectors as codes of one bit a dimension, mapped or in RAM, and the scan over all of them on a processor.

A vector v is kept as s, the signs of Q(v − μ) for a rotation Q and a centre μ, and one number, so that

    q·v ≈ q·μ + (Qq·s) · |v − μ|² / (Q(v − μ)·s),

which is right on average where Q is random (the estimator of RaBitQ, Gao and Long, arXiv 2405.12497). A
search counts the bits in which each code differs from the signs of Qq, takes the codes that differ least, a
few times as many as are wanted, and orders those by this estimate, or by their vectors where they are kept.

Measured for 5·10⁵ codes of 384 bits on one core: 2.4 ms to count word by word in blocks of 2¹⁸ rows, 12 ms
code by code, 31 ms to add up a table's entry a byte, 127 ms as a product of unpacked bits. For 64 questions
at once the product takes 10 ms a question and is still the slower way.

Of 300 questions about one of 14,000 entities of Wikidata by its label, 98.7 % find it first with MiniLM's
vectors, as many with codes and vectors, 97.0 % with codes alone; among 50 all of them do. Where first bits
choose what is compared in full: of 400 questions that people asked about one of 20,371, by the heads of the
shipped adapter, the first 192 bits leave 96.5 % of the entities asked about among the best 0.1 % of codes,
128 bits 93.0 %, all bits 98.3 %; with a rotation 97.3 %, 92.5 % and 98.3 %. Cells (an inverted multi-index
of 32² centres) were tried and left out: of the questions, whose vectors lie apart from the names', a fifth of
the codes held 73 %.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.memory.coding import WORD, Matrix, Part, as_words, coded
from pipeline.memory.differing import Differing
from pipeline.memory.flat import Flat
from pipeline.memory.offsets import Rows

BLOCK = 1 << 18
"""Codes that are compared at once."""
SAMPLE, STRETCH = 32, 1 << 10
"""Stretches of codes, and the length of each, that tell beforehand how many codes differ how much."""
GLANCE = 3
"""Words of a code that are compared first where not all are compared in full: 192 bits."""
ROW_BITS = 32


class Codes:
    """Codes, mapped or in RAM.

    Args:
        centre: μ.
        words: the codes by words.
        factors: the number beside each code.
        rotation: Q, None where vectors are left as they are.
        vectors: what is coded, where it is kept.
    """

    def __init__(
        self,
        centre: NDArray[np.float32],
        words: Sequence[NDArray[np.uint64]],
        factors: NDArray[np.float16],
        rotation: Matrix | None,
        vectors: Float[np.ndarray, "n P"] | None,
    ) -> None:
        self.centre = centre
        self.rotation = rotation
        self._words = words
        self._factors = factors
        self._vectors = vectors

    @classmethod
    def open(cls, files: Flat, name: str) -> Self:
        """Return the codes that `CodesWriter` wrote.

        Args:
            files: where they are.
            name: of the codes there.

        Raises:
            UserError: an array is missing.
        """
        centre: NDArray[np.float32] = files[f"{name}.centre"]
        words = [files[f"{name}.word{word}"] for word in range(-(-len(centre) // WORD))]
        some = {part: f"{name}.{part}" for part in ("rotation", "vectors")}
        rotation, vectors = (files[key] if key in files.arrays else None for key in some.values())
        return cls(centre, words, files[f"{name}.factors"], rotation, vectors)

    @classmethod
    def of(cls, vectors: Matrix) -> Self:
        """Return the codes of `vectors`, around their mean and with them, in RAM."""
        centre = vectors.mean(axis=0, dtype=np.float32)
        blocks = [coded(vectors[start : start + BLOCK], centre) for start in range(0, len(vectors), BLOCK)]
        words, factors = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return cls(centre, [np.ascontiguousarray(word) for word in words.T], factors, None, vectors)

    def __len__(self) -> int:
        return len(self._factors)

    def search(
        self,
        queries: Float[Tensor, "B P"],
        n: int,
        keep: Callable[[Rows], Bool[np.ndarray, " n"]] | None = None,
        rescored: int = 8,
        share: float = 1.0,
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products of each query, about, and their rows, largest first.

        Args:
            queries: of the length of the vectors.
            n: rows wanted; -1 with a product of -inf stands for those that there aren't.
            keep: says which rows may be found.
            rescored: rows that differ least to choose from, for each one wanted; with all rows of the table,
                and vectors kept, the search is exact.
            share: of all codes to compare in full: those whose first bits differ least.
        """
        n = min(n, len(self))
        rows = np.full((len(queries), n), -1)
        products = np.full(rows.shape, -np.inf, np.float32)
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
            for place, query in enumerate(queries.detach().float().cpu().numpy()):
                near = self._kept(query, n, rescored * n, share, keep, pool)
                found = self.products(query, near)
                best = np.argsort(-found, kind="stable")[:n]
                rows[place, : len(best)] = near[best]
                products[place, : len(best)] = found[best]
        return torch.from_numpy(products).to(queries.device), torch.from_numpy(rows).to(queries.device)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return len(self.centre)

    def part(self, rows: slice) -> Part:
        """Return the codes of `rows` as they are kept."""
        vectors = None if self._vectors is None else self._vectors[rows]
        return Part([word[rows] for word in self._words], self._factors[rows], vectors)

    @property
    def has_vectors(self) -> bool:
        """Whether the vectors are kept too."""
        return self._vectors is not None

    def gather(self, rows: Rows) -> Matrix:
        """Return the vectors of `rows` where kept, else those whose products are the estimated ones."""
        if self._vectors is not None:
            kept: Matrix = self._vectors[rows].astype(np.float32)
            return kept
        along = (2 * self._bits(rows) - 1) * self._factors[rows, None].astype(np.float32)
        vectors: Matrix = self.centre + (along if self.rotation is None else along @ self.rotation)
        return vectors

    def _bits(self, rows: Rows) -> Matrix:
        """Return the codes of `rows`, a number 0 or 1 a bit."""
        words = np.stack([word[rows] for word in self._words], axis=1)
        bits = np.unpackbits(words.view(np.uint8), axis=1, count=self.dimension, bitorder="little")
        return bits.astype(np.float32)

    def products(self, query: Float[np.ndarray, " P"], rows: Rows) -> Float[np.ndarray, " n"]:
        """Return inner products of `query` with `rows`: with their vectors where kept, else as estimated."""
        products: NDArray[np.float32]
        if self._vectors is not None:
            products = self._vectors[rows].astype(np.float32) @ query
            return products
        along = 2 * (self._bits(rows) @ self._moved(query)) - self._moved(query).sum()
        products = query @ self.centre + along * self._factors[rows].astype(np.float32)
        return products

    def nearest(
        self,
        query: Float[np.ndarray, " P"],
        n: int,
        pool: ThreadPoolExecutor | None = None,
        share: float = 1.0,
    ) -> Rows:
        """Return the n rows whose codes differ least from the query's, least first, then by row.

        Args:
            query: of the length of the vectors.
            n: rows wanted.
            pool: shares the work.
            share: of all codes to compare in full: those whose first bits differ least.
        """
        [words] = as_words(self._moved(query)[None] > 0)
        some = max(n, math.ceil(share * len(self)))
        if len(words) <= GLANCE or some >= len(self):
            return self._least(words, n, pool)
        rows = np.sort(self._least(words[:GLANCE], some, pool))
        differs = np.zeros(len(rows), np.uint16)
        for word, bits in zip(self._words, words, strict=True):
            differs += np.bitwise_count(word[rows] ^ bits)
        best: Rows = rows[np.argsort(differs, kind="stable")[:n]]
        return best

    def _least(self, words: NDArray[np.uint64], n: int, pool: ThreadPoolExecutor | None) -> Rows:
        """Return the n rows whose first words differ least from `words`, least first, then by row."""
        parts = pool._max_workers if pool else 1
        cuts = np.linspace(0, len(self), parts + 1).astype(int).tolist()
        bound, most = self._expected(words, n), WORD * len(words) + 1
        while True:
            scan = partial(self._scanned, words, n, bound)
            keys = np.concatenate(list((pool.map if pool else map)(scan, cuts[:-1], cuts[1:])))
            if len(keys) >= min(n, len(self)) or bound == most:
                break
            bound = min(bound + 8, most)
        if len(keys) > n > 0:
            keys = np.partition(keys, n - 1)[:n]
        keys.sort()
        rows: Rows = (keys & np.uint64((1 << ROW_BITS) - 1)).astype(np.int64)
        return rows

    def _expected(self, words: NDArray[np.uint64], n: int) -> int:
        """Return by how many bits less than which n rows differ, and a few more, going by a sample."""
        most = WORD * len(words) + 1
        if len(self) <= SAMPLE * STRETCH:
            return most
        starts = np.linspace(0, len(self) - STRETCH, SAMPLE).astype(int).tolist()
        held = Differing(STRETCH)
        counts = np.zeros(most, np.int64)
        for start in starts:
            counts += np.bincount(held.count(self._words, words, start, start + STRETCH), minlength=most)
        wanted = n * SAMPLE * STRETCH / len(self)
        return int(np.searchsorted(counts.cumsum(), wanted + 4 * math.sqrt(wanted) + 4)) + 1

    def _kept(
        self,
        query: Float[np.ndarray, " P"],
        n: int,
        looked_at: int,
        share: float,
        keep: Callable[[Rows], Bool[np.ndarray, " n"]] | None,
        pool: ThreadPoolExecutor | None,
    ) -> Rows:
        """Return rows near the query that may be found; looks at more where fewer than n may."""
        while True:
            near = self.nearest(query, looked_at, pool, share)
            if keep is None:
                return near
            kept: Rows = near[keep(near)]
            if len(kept) >= n or looked_at >= len(self):
                return kept
            looked_at *= 4

    def _moved(self, query: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        moved: NDArray[np.float32] = query if self.rotation is None else self.rotation @ query
        return moved

    def _scanned(
        self, wanted: NDArray[np.uint64], n: int, bound: int, start: int, end: int
    ) -> NDArray[np.uint64]:
        """Return difference · 2³² + row of the rows from `start` to `end` that differ by less than `bound`.

        Where these are many, the least n and maybe others.
        """
        found: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        held = 0
        differing = Differing(min(BLOCK, end - start))
        for first in range(start, end, BLOCK):
            differs = differing.count(self._words, wanted, first, min(first + BLOCK, end))
            near = np.flatnonzero(differs < bound)
            keys = differs[near].astype(np.uint64) << np.uint64(ROW_BITS) | (near + first).astype(np.uint64)
            found.append(keys)
            held += len(keys)
            if held > 4 * n > 0:
                found = [np.partition(np.concatenate(found), n - 1)[:n]]
                # What differs as much comes too late: its row is larger.
                held, bound = n, int(found[0][n - 1] >> np.uint64(ROW_BITS))
        return np.concatenate(found)
