"""Vectors of many entities that lie as those of real names do, made again and again from their seed.

The first ones are vectors of names that an encoder read. Each further one is mixed from one of these, a,
and four others, b₁ to b₄,

    v = μ + cos θ · (a - μ) + sin θ · Σ (bᵢ - μ) / 2,

over its length, which keeps the mean μ and the spread in every direction. θ is such that a·v is as large as
the largest product of some name with another one, drawn from those that were measured: names lie as near to
others. The more mixtures there are, the nearer the nearest is, as with names.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

OTHERS = 4
"""Names that a mixture has beside the one that it lies near."""
BLOCK = 1 << 17
"""Vectors that are made, and compared, at once; another number makes others."""
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles that are told."""


class Best(NamedTuple):
    """The largest products of each query, largest first, and whose they are."""

    products: Float[Tensor, "Q n"]
    rows: Int[Tensor, "Q n"]


class Crowd:
    """Vectors by row: those of names, then mixtures.

    Args:
        names: unit vectors, in 16 bits.
        nearest: the largest products of some of them with another one.
        seed: of the mixtures; the kind of device counts too.
    """

    def __init__(self, names: Float[Tensor, "M P"], nearest: Float[Tensor, " k"], seed: int) -> None:
        self.names = names
        self.mean = names.float().mean(dim=0)
        self._nearest = nearest
        self._seed = seed

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, Float[Tensor, "n P"]]]:
        """Yield the vectors from row `start` to `end` in blocks, each with its first row."""
        known = len(self.names)
        for first in range(start, min(end, known), BLOCK):
            yield first, self.names[first : min(first + BLOCK, end, known)]
        row = max(start, known)
        while row < end:
            block, within = divmod(row - known, BLOCK)
            size = min(BLOCK - within, end - row)
            yield row, self._mixed(block)[within : within + size]
            row += size

    def _mixed(self, block: int) -> Float[Tensor, "n P"]:
        device = self.names.device
        random = torch.Generator(device).manual_seed(self._seed * 1_000_003 + block)

        def drawn(size: int) -> Int[Tensor, " n"]:
            return torch.randint(size, (BLOCK,), generator=random, device=device)

        def apart() -> Float[Tensor, "n P"]:
            return self.names[drawn(len(self.names))].float() - self.mean

        a, b = apart(), apart()
        for _ in range(OTHERS - 1):
            b += apart()
        b /= math.sqrt(OTHERS)
        wanted = self._nearest[drawn(len(self._nearest))]
        # a·v = m + x cos θ + y sin θ, for vectors whose length mixing leaves about 1.
        whole = a + self.mean
        m, x, y = whole @ self.mean, (whole * a).sum(dim=1), (whole * b).sum(dim=1)
        ratio = ((wanted - m) / torch.hypot(x, y)).clamp(-1, 1)
        angle = (torch.atan2(y, x) + ratio.arccos()).clamp(0, math.pi / 2)[:, None]
        return F.normalize(self.mean + angle.cos() * a + angle.sin() * b, dim=1).half()

    def nearest_other(self, rows: Int[Tensor, " k"], start: int, end: int) -> Float[Tensor, " k"]:
        """Return the largest product of each vector of `rows` with another one from row `start` to `end`."""
        return streamed(self.of(rows), self.blocks(start, end), 1, rows).products[:, 0]

    def of(self, rows: Int[Tensor, " k"]) -> Float[Tensor, "k P"]:
        """Return the vectors of `rows`, making each block that holds one."""
        found = torch.empty(len(rows), self.names.shape[1], dtype=self.names.dtype, device=self.names.device)
        for first in sorted(set((rows // BLOCK).tolist())):
            for start, vectors in self.blocks(first * BLOCK, (first + 1) * BLOCK):
                mine = (rows >= start) & (rows < start + len(vectors))
                found[mine] = vectors[rows[mine] - start]
        return found


def streamed(
    queries: Float[Tensor, "Q P"],
    blocks: Iterator[tuple[int, Float[Tensor, "n P"]]],
    n: int,
    but: Int[Tensor, " Q"] | None = None,
) -> Best:
    """Return the n largest products of each query with the vectors of `blocks`.

    Args:
        queries: what is compared.
        blocks: vectors, each block with its first row.
        n: products wanted.
        but: a row that each query is not compared with.
    """
    best = none(len(queries), queries.device)
    for start, vectors in blocks:
        best = better(best, queries, start, vectors, n, but)
    return best


def none(queries: int, device: torch.device) -> Best:
    """Return no products."""
    return Best(
        torch.empty(queries, 0, device=device), torch.empty(queries, 0, dtype=torch.long, device=device)
    )


def better(
    best: Best,
    queries: Float[Tensor, "Q P"],
    start: int,
    vectors: Float[Tensor, "n P"],
    n: int,
    but: Int[Tensor, " Q"] | None = None,
) -> Best:
    """Return the n best of `best` and of a block whose first row is `start`."""
    products = queries.float() @ vectors.float().T
    if but is not None:
        inside = ((but >= start) & (but < start + len(vectors))).nonzero()[:, 0]
        products[inside, but[inside] - start] = -torch.inf
    some, places = products.topk(min(n, products.shape[1]), dim=1)
    joined = torch.cat([best.products, some], dim=1)
    rows = torch.cat([best.rows, places + start], dim=1)
    kept, order = joined.topk(min(n, joined.shape[1]), dim=1)
    return Best(kept, rows.gather(1, order))


def quantiles(values: Float[Tensor, " k"]) -> dict[str, float]:
    """Return the quantiles of LEVELS."""
    found = values.float().quantile(torch.tensor(LEVELS, device=values.device)).tolist()
    return {f"{100 * level:.0f} %": round(value, 4) for level, value in zip(LEVELS, found, strict=True)}
