r"""Hierarchical key pruning: keys in three levels of clusters (HiKVP of AtlasKV, arXiv 2510.17934).

M keys are put into clusters of at most ⌈∛M⌉, those clusters into clusters of as many; a cluster's key is the
mean of its members'. A search scores all roots and keeps k_R, scores their children and keeps k_I, scores the
keys below those and returns the best n (k_L): some ∛M + k_R·∛M + k_I·∛M inner products in place of M.

The clusters are balanced spherical 2-means, applied again and again: each split puts as many keys on either
side as the clusters to come hold, so no cluster is larger than the others by more than one key and the depth
is three whatever the data. (The paper clusters with Gaussian mixtures after UMAP, which grows with M² / ∛M.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 6
"""Rounds of each 2-means."""

Found = tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]
Pool = Callable[[Float[Tensor, "B Q c"]], Float[Tensor, "B c"]]


@dataclass(frozen=True)
class Tree:
    """Keys with their two levels of clusters; a searcher like any other.

    Args:
        leaves: the keys.
        inner: mean key of each cluster of keys, perhaps scaled.
        roots: mean key of each cluster of clusters, likewise.
        below_inner: rows of `leaves` in each cluster; -1 where it has fewer than ⌈∛M⌉.
        below_root: rows of `inner` in each cluster of clusters, likewise.
        roots_kept: k_R (AtlasKV: 128).
        inner_kept: k_I (AtlasKV: 64).
    """

    leaves: Float[Tensor, "M P"]
    inner: Float[Tensor, "I P"]
    roots: Float[Tensor, "R P"]
    below_inner: Int[Tensor, "I S"]
    below_root: Int[Tensor, "R S"]
    roots_kept: int
    inner_kept: int

    def search(self, queries: Float[Tensor, "B P"], n: int) -> Found:
        """Return the n largest inner products among the keys that were not pruned, and their rows.

        Where fewer than n are left, row 0 with the score -inf stands for the rest; n is cut to M.
        """
        return self.descend(queries[:, None], n, lambda logits: logits[:, 0])

    def descend(self, queries: Float[Tensor, "B Q P"], n: int, pool: Pool) -> Found:
        """Return the n best keys for several queries together.

        Args:
            queries: a row's queries, of all heads and tokens.
            n: k_L; where fewer are left, row 0 with the score -inf stands for the rest.
            pool: makes one score of a candidate's inner products with the row's queries, at every level.
        """
        queries = queries.to(self.leaves.dtype)
        every = torch.arange(len(self.roots), device=queries.device).expand(len(queries), -1)
        _, roots = _best(queries, self.roots, every, self.roots_kept, pool)
        _, inner = _best(queries, self.inner, self.below_root[roots].flatten(1), self.inner_kept, pool)
        below = self.below_inner[inner.clamp(min=0)].masked_fill(inner[..., None] < 0, -1).flatten(1)
        wanted = min(n, len(self.leaves))
        best, rows = _best(queries, self.leaves, below, wanted, pool)
        missing = wanted - rows.shape[1]
        return F.pad(best.float(), (0, missing), value=-torch.inf), F.pad(rows.clamp(min=0), (0, missing))


def _best(
    queries: Float[Tensor, "B Q P"],
    keys: Float[Tensor, "n P"],
    rows: Int[Tensor, "B c"],
    kept: int,
    pool: Pool,
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """Return the best `kept` of each row's own `rows` of `keys`; a row of -1 scores -inf and stays -1."""
    logits = torch.einsum("bqp,bcp->bqc", queries, keys[rows.clamp(min=0)])
    none = rows < 0
    scores = pool(logits.masked_fill(none[:, None], torch.finfo(logits.dtype).min)).masked_fill(
        none, -torch.inf
    )
    best, places = scores.topk(min(kept, rows.shape[1]), dim=-1)
    return best, rows.gather(1, places)


def build_tree(
    keys: Float[Tensor, "M P"], roots_kept: int, inner_kept: int, unit: bool = False, seed: int = 0
) -> Tree:
    """Return the tree over `keys`.

    Args:
        keys: at least one.
        roots_kept: k_R.
        inner_kept: k_I.
        unit: whether the keys of clusters are scaled to length 1. The mean of keys that point apart is short,
            so that a search for unit vectors passes over wide clusters; AtlasKV leaves it as it is.
        seed: of where each 2-means begins.

    Raises:
        ValueError: there is no key.
    """
    if not len(keys):
        raise ValueError("a tree needs at least one key")
    size = cube_root(len(keys))
    draw = torch.Generator().manual_seed(seed)
    below_inner = clusters(keys, size, draw)
    inner = means(keys, below_inner)
    below_root = clusters(inner, size, draw)
    roots = means(inner, below_root)
    if unit:
        inner, roots = F.normalize(inner, dim=-1), F.normalize(roots, dim=-1)
    return Tree(keys, inner, roots, below_inner, below_root, roots_kept, inner_kept)


def cube_root(number: int) -> int:
    """Return ⌈∛number⌉, exactly."""
    root: int = round(number ** (1 / 3))
    while root**3 < number:
        root += 1
    while root > 1 and (root - 1) ** 3 >= number:
        root -= 1
    return root


def means(keys: Float[Tensor, "M P"], members: Int[Tensor, "c S"]) -> Float[Tensor, "c P"]:
    """Return the mean key of each cluster."""
    there = members >= 0
    total = (keys[members.clamp(min=0)] * there[..., None]).sum(dim=1)
    return total / there.sum(dim=1, keepdim=True)


def clusters(keys: Float[Tensor, "M P"], size: int, draw: torch.Generator) -> Int[Tensor, "c S"]:
    """Return ⌈M/size⌉ balanced clusters of at most `size` keys, as rows of `keys`, filled up with -1."""
    unit = F.normalize(keys.float(), dim=-1)
    open_, done = [(torch.arange(len(keys), device=keys.device), -(-len(keys) // size))], []
    while open_:
        rows, count = open_.pop()
        if count == 1:
            done.append(F.pad(rows, (0, size - len(rows)), value=-1))
            continue
        left = count // 2
        order = rows[_lean(unit[rows], draw).argsort(stable=True)]
        cut = len(rows) * left // count
        open_ += [(order[:cut], left), (order[cut:], count - left)]
    return torch.stack(done)


def _lean(unit: Float[Tensor, "n P"], draw: torch.Generator) -> Float[Tensor, " n"]:
    """Return how much nearer each key is to the second of two centres than to the first."""
    first, second = torch.randperm(len(unit), generator=draw)[:2].tolist()
    centres = unit[[first, second]]
    for _ in range(ROUNDS):
        side = (unit @ (centres[1] - centres[0])) > 0
        if side.all() or not side.any():
            break
        centres = F.normalize(torch.stack([unit[~side].mean(dim=0), unit[side].mean(dim=0)]), dim=-1)
    return unit @ (centres[1] - centres[0])
