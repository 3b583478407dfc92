"""Codes where queries are: copied to a GPU once, and searched there without the processor.

Every code is compared by its estimate, which a processor has time to do for the nearest few only: what
`memory.share` and, without vectors, `memory.rescored` leave out is not left out here. A question finds the
same rows alone and among others.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.memory.codes import Codes
from pipeline.memory.flat import untouched
from pipeline.memory.scan import Table, bits, largest, rounded

COPIED = 1 << 22
"""Numbers that are copied to the device at once."""
SPARE = 64
"""Rows found by the rounded query beyond those that are wanted, at least; they are ordered by the query."""


class ResidentCodes:
    """Codes on a device.

    Args:
        codes: mapped or in RAM; what they map is read once and then counts as resident no longer.
        device: where to. Vectors, where they are kept, stay where `codes` has them.
    """

    def __init__(self, codes: Codes, device: torch.device) -> None:
        self._codes = codes
        self._centre = torch.from_numpy(codes.centre.copy()).to(device)
        turned = codes.rotation
        self._rotation = None if turned is None else torch.from_numpy(turned.astype(np.float64)).to(device)
        part = codes.part(slice(None))
        words = torch.empty(len(part.words), len(codes), dtype=torch.long, device=device)
        for row, word in zip(words, part.words, strict=True):
            copied(word.view(np.int64), row)
        factors = torch.empty(len(codes), dtype=torch.float16, device=device)
        copied(part.factors, factors)
        self.table = Table(words, factors)

    def __len__(self) -> int:
        return len(self.table.factors)

    def search(
        self,
        queries: Float[Tensor, "B P"],
        n: int,
        keep: Callable[[Int[Tensor, "*n"]], Bool[Tensor, "*n"]] | None = None,
        rescored: int = 8,
        share: float = 1.0,
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products of each query, about, and their rows, largest first.

        Args:
            queries: of the length of the vectors.
            n: rows wanted; -1 with a product of -inf stands for those that there aren't.
            keep: says which rows may be found.
            rescored: rows to choose from by their vectors, for each one wanted, where these are kept.
            share: as `Codes.search` takes it; all codes are compared in full, whatever it is.
        """
        n, queries = min(n, len(self)), queries.detach().float()
        # In 64 bits, so that a question alone is rotated as among others.
        moved = queries if self._rotation is None else (queries.double() @ self._rotation.T).float()
        asked = rounded(moved, len(self.table.words))
        looked_at = n + max(n, SPARE)
        if self._codes.has_vectors:
            looked_at = max(looked_at, rescored * n)
        while True:
            rows = largest(self.table, asked, min(looked_at, len(self)))
            kept = None if keep is None else keep(rows)
            if kept is None or looked_at >= len(self) or int(kept.sum(dim=1).amin()) >= n:
                break
            looked_at *= 4
        products = self._products(queries, moved, rows)
        if kept is not None:
            products = products.masked_fill(~kept, -torch.inf)
        rows, order = rows.sort(dim=1)  # so that ties go by row
        products, best = products.gather(1, order).sort(dim=1, descending=True, stable=True)
        rows = rows.gather(1, best)[:, :n]
        return products[:, :n], rows.masked_fill(products[:, :n] == -torch.inf, -1)

    def _products(
        self, queries: Float[Tensor, "B P"], moved: Float[Tensor, "B P"], rows: Int[Tensor, "B m"]
    ) -> Float[Tensor, "B m"]:
        """Return inner products with `rows`: with their vectors where kept, else as estimated."""
        if self._codes.has_vectors:
            vectors = torch.from_numpy(self._codes.gather(rows.reshape(-1).cpu().numpy())).to(rows.device)
            return torch.einsum("bp,bmp->bm", queries, vectors.reshape(*rows.shape, moved.shape[1]))
        codes = bits(self.table.words[:, rows.reshape(-1)])[:, : moved.shape[1]].reshape(
            *rows.shape, moved.shape[1]
        )
        # Sums of their own, which are the same for a question alone and among others.
        along = torch.where(codes.bool(), moved[:, None], -moved[:, None]).sum(dim=-1)
        return (queries * self._centre).sum(dim=1, keepdim=True) + along * self.table.factors[rows].float()


def copied(source: np.ndarray, target: Int[Tensor, " n"] | Float[Tensor, " n"]) -> None:
    """Copy an array, mapped or not, into a tensor on any device, piece by piece."""
    for start in range(0, len(source), COPIED):
        piece = torch.from_numpy(source[start : start + COPIED].copy())
        target[start : start + COPIED].copy_(piece)
        untouched(source)
