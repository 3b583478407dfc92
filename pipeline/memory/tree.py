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
Pool = Callable[[Float[Tensor, "B Q c"], Float[Tensor, "B Q"]], Float[Tensor, "B c"]]
"""Makes one score of a candidate's inner products with a row's queries, and the weight of each query."""

GATHERED = 1 << 27
"""Numbers of candidates' keys that are gathered at a time: half a gibibyte in float32."""


@dataclass(frozen=True)
class Level:
    """Clusters of one level.

    Args:
        keys: mean key of each cluster.
        reach: what a unit query's score of each cluster is raised by, for keys that stand out of its mean.
        below: rows of the level below in each cluster; -1 where it has fewer than ⌈∛M⌉.
    """

    keys: Float[Tensor, "c P"]
    reach: Float[Tensor, " c"]
    below: Int[Tensor, "c S"]


@dataclass(frozen=True)
class Tree:
    """Keys with their two levels of clusters; a searcher like any other.

    Args:
        leaves: the keys.
        inner: clusters of keys.
        roots: clusters of clusters.
        roots_kept: k_R (AtlasKV: 128).
        inner_kept: k_I (AtlasKV: 64).
    """

    leaves: Float[Tensor, "M P"]
    inner: Level
    roots: Level
    roots_kept: int
    inner_kept: int

    def search(self, queries: Float[Tensor, "B P"], n: int) -> Found:
        """Return the n largest inner products among the keys that were not pruned, and their rows.

        Where fewer than n are left, row 0 with the score -inf stands for the rest; n is cut to M.
        """
        return self.descend(queries[:, None], torch.ones_like(queries[:, :1]), n, _alone)

    def descend(
        self, queries: Float[Tensor, "B Q P"], weight: Float[Tensor, "B Q"], n: int, pool: Pool
    ) -> Found:
        """Return the n best keys for several queries together.

        Args:
            queries: a row's queries, of all heads and tokens.
            weight: of each query, for `pool`.
            n: k_L; where fewer are left, row 0 with the score -inf stands for the rest.
            pool: scores the candidates, at every level.
        """
        queries = queries.to(self.leaves.dtype)
        widest = max(self.roots_kept * self.roots.below.shape[1], self.inner_kept * self.inner.below.shape[1])
        rows = max(1, GATHERED // (min(widest, len(self.leaves)) * queries.shape[-1]))
        starts = range(0, max(len(queries), 1), rows)
        parts = [self._descend(queries[i : i + rows], weight[i : i + rows], n, pool) for i in starts]
        best, found = zip(*parts, strict=True)
        return torch.cat(best), torch.cat(found)

    def _descend(
        self, queries: Float[Tensor, "B Q P"], weight: Float[Tensor, "B Q"], n: int, pool: Pool
    ) -> Found:
        roots = torch.arange(len(self.roots.keys), device=queries.device).expand(len(queries), -1)
        inner = _below(queries, weight, self.roots, roots, self.roots_kept, pool)
        leaves = _below(queries, weight, self.inner, inner, self.inner_kept, pool)
        wanted = min(n, len(self.leaves))
        logits = torch.einsum("bqp,bcp->bqc", queries, _at(self.leaves, leaves))
        best, rows = _best(logits, weight, leaves, wanted, pool)
        missing = wanted - rows.shape[1]
        return F.pad(best.float(), (0, missing), value=-torch.inf), F.pad(rows.clamp(min=0), (0, missing))


def _alone(logits: Float[Tensor, "B Q c"], weight: Float[Tensor, "B Q"]) -> Float[Tensor, "B c"]:
    """Return the scores that the only query gives."""
    return logits[:, 0]


def _below(
    queries: Float[Tensor, "B Q P"],
    weight: Float[Tensor, "B Q"],
    level: Level,
    rows: Int[Tensor, "B c"],
    kept: int,
    pool: Pool,
) -> Int[Tensor, "B k"]:
    """Return what the best `kept` of each row's own clusters of a level hold; -1 where there is none."""
    logits = torch.einsum("bqp,bcp->bqc", queries, _at(level.keys, rows))
    reach = queries.norm(dim=-1, keepdim=True) * _at(level.reach, rows)[:, None]
    _, best = _best(logits + reach, weight, rows, kept, pool)
    return _at(level.below, best).masked_fill(best[..., None] < 0, -1).flatten(1)


def _at(values: Tensor, rows: Int[Tensor, "B c"]) -> Tensor:
    return values[rows.clamp(min=0)]


def _best(
    logits: Float[Tensor, "B Q c"],
    weight: Float[Tensor, "B Q"],
    rows: Int[Tensor, "B c"],
    kept: int,
    pool: Pool,
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """Return the best `kept` of each row's own `rows`; a row of -1 scores -inf and stays -1."""
    none = rows < 0
    logits = logits.masked_fill(none[:, None], torch.finfo(logits.dtype).min)
    scores = pool(logits, weight).masked_fill(none, -torch.inf)
    best, places = scores.topk(min(kept, rows.shape[1]), dim=-1)
    return best, rows.gather(1, places)


def build_tree(
    keys: Float[Tensor, "M P"], roots_kept: int, inner_kept: int, spread: float = 0.0, seed: int = 0
) -> Tree:
    """Return the tree over `keys`.

    Args:
        keys: at least one.
        roots_kept: k_R.
        inner_kept: k_I.
        spread: a cluster's score for a query q is q·μ + spread·|q|·σ, where σ² is the mean squared distance
            of its keys from their mean μ. AtlasKV scores by the mean alone (0): that of keys which point
            apart is short, so that wide clusters are passed over whatever they hold.
        seed: of where each 2-means begins.

    Raises:
        ValueError: there is no key.
    """
    if not len(keys):
        raise ValueError("a tree needs at least one key")
    size = cube_root(len(keys))
    draw = torch.Generator().manual_seed(seed)
    squares = keys.float().square().sum(dim=-1, keepdim=True)
    levels = []
    below, squared = keys, squares
    for _ in range(2):
        members = clusters(below, size, draw)
        below, squared = means(below, members), means(squared, members)
        variance = (squared[:, 0] - below.float().square().sum(dim=-1)).clamp(min=0)
        levels.append(Level(below, spread * variance.sqrt().to(keys.dtype), members))
    return Tree(keys, levels[0], levels[1], roots_kept, inner_kept)


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
