"""Nearest vectors by inner product: exact or by HiKVP's tree on any device, by codes or through faiss."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.codes import Codes
from pipeline.memory.resident import ResidentCodes
from pipeline.memory.settings import Memory
from pipeline.memory.tree import build_tree

POINTS = 39
"""Vectors that faiss trains a cell or a centre on at least."""
BITS = 8
"""Of a code of the product quantiser, one for as many dimensions."""


class Searcher(Protocol):
    """Finds the vectors with the largest inner product."""

    def search(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products of each query and the rows that have them, largest first."""
        ...


@dataclass(frozen=True)
class Exact:
    """Scans every vector, on the device that holds them."""

    vectors: Float[Tensor, "E P"]

    def search(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products and their rows; n is cut to the number of vectors."""
        scores = queries.to(self.vectors.dtype) @ self.vectors.T
        best, rows = scores.topk(min(n, len(self.vectors)), dim=-1)
        return best.float(), rows


@dataclass(frozen=True)
class CodesSearcher:
    """Scans a code of one bit a dimension of every vector, and orders the nearest by the vectors."""

    codes: Codes | ResidentCodes
    settings: Memory

    def search(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products of those compared, and their rows; -inf and -1 for none."""
        return self.codes.search(queries, n, None, self.settings.rescored, self.settings.share)


@dataclass(frozen=True)
class Faiss:
    """Searches a faiss index; where it finds fewer than n, row 0 with the score -inf stands for the rest."""

    index: Any

    def search(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products that the index finds and their rows."""
        scores, rows = self.index.search(queries.detach().float().cpu().numpy(), min(n, self.index.ntotal))
        unfound = rows < 0
        rows[unfound] = 0
        scores[unfound] = -torch.inf
        device = queries.device
        return torch.from_numpy(scores).to(device), torch.from_numpy(rows).to(device)


def searcher(vectors: Float[Tensor, "E P"], memory: Memory) -> Searcher:
    """Return a searcher over `vectors`.

    Args:
        vectors: unit vectors.
        memory: says which: `exact`; `codes` of one bit a dimension and `int8`, eight bits, which all are
            scanned; `hikvp`, the tree of `pipeline.memory.tree`; `hnsw` (Malkov and
            Yashunin, arXiv 1603.09320); `ivf`, an inverted file, of fewer cells where there are few vectors;
            `ivfpq`, one of product-quantised vectors of a bit a dimension, as long as `codes`, whose nearest
            are compared in full as those of `codes` are (Jégou et al., TPAMI 2011).

    Raises:
        UserError: faiss is asked for but not installed.
    """
    backend = memory.backend
    if backend == "exact" or len(vectors) == 0:
        return Exact(vectors)
    if backend == "hikvp":
        return build_tree(vectors, memory.roots, memory.inner, memory.spread)
    if backend == "codes":
        codes = Codes.of(vectors.float().cpu().numpy())
        return CodesSearcher(ResidentCodes(codes, vectors.device) if vectors.is_cuda else codes, memory)
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"memory.backend is {backend!r}, which needs faiss: pip install 'living-memory[cpu]' (or [gpu]), "
            f"or set memory.backend to exact"
        ) from error
    rows = vectors.float().cpu().numpy()
    index = _index(faiss, len(rows), rows.shape[1], memory)
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    return Faiss(index)


def _index(faiss: Any, count: int, dimension: int, memory: Memory) -> Any:
    """Return the empty index of `memory.backend` for `count` vectors."""
    product, trained = faiss.METRIC_INNER_PRODUCT, max(1, count // POINTS)
    if memory.backend == "int8":
        return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit, product)
    if memory.backend == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, memory.links, product)
        index.hnsw.efSearch = max(index.hnsw.efSearch, memory.probes)
        return index
    cells = min(memory.lists, trained)
    coarse = faiss.IndexFlatIP(dimension)
    if memory.backend == "ivf":
        index = faiss.IndexIVFFlat(coarse, dimension, cells, product)
    else:
        parts, bits = math.gcd(dimension, max(1, dimension // BITS)), min(BITS, trained.bit_length() - 1)
        index = faiss.IndexIVFPQ(coarse, dimension, cells, parts, max(1, bits), product)
    index.nprobe = min(memory.probes, cells)
    if memory.backend == "ivf":
        return index
    refined = faiss.IndexRefineFlat(index)
    refined.k_factor = memory.rescored
    return refined
