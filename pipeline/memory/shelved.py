"""Names of which the first ones stay on disk."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.names import BLOCK, Names
from pipeline.memory.offsets import Rows
from pipeline.memory.strings import Keys, Strings

LATELY = 1 << 17
"""Keys on disk whose rows are kept once they were asked for."""


class Vectors(Protocol):
    """Vectors on disk."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def __len__(self) -> int: ...

    def gather(self, rows: Rows) -> Float[np.ndarray, "n P"]:
        """Return the vectors of `rows` in float32."""
        ...


class Shelved(Names):
    """Names of which the first ones stay on disk.

    Args:
        encoder: turns texts into vectors.
        keys: of those on disk.
        texts: as many.
        vectors: as many.
    """

    def __init__(self, encoder: TextEncoder, keys: Keys, texts: Strings, vectors: Vectors) -> None:
        super().__init__(encoder)
        self._shelf = keys, texts, vectors
        self._lately: dict[str, int] = {}  # rows of those on disk that were asked for

    def __len__(self) -> int:
        return len(self._shelf[0]) + len(self._keys)

    @property
    def keys(self) -> Sequence[str]:
        """Stable keys by row."""
        return Joined(self._shelf[0], self._keys)

    @property
    def texts(self) -> Sequence[str]:
        """Texts by row."""
        return Joined(self._shelf[1], self._texts)

    def find(self, key: str) -> int | None:
        """Return the row of `key`, None where it isn't known."""
        row = self._rows.get(key)
        if row is None:
            row = self._lately.get(key)
        if row is None and (row := self._shelf[0].find_one(key)) is not None:
            self._keep({key: row})
        return row

    def many(self, keys: Sequence[str]) -> list[int]:
        """Return the rows of `keys`, which must be known."""
        late, known = self._rows, self._lately
        found = [late.get(key, -1) if (row := known.get(key)) is None else row for key in keys]
        return super().many(keys) if -1 in found else found

    def lacks(self, keys: Iterable[str]) -> bool:
        """Return whether one of `keys` isn't known."""
        late, known = self._rows, self._lately
        return super().lacks([key for key in keys if key not in known and key not in late])

    def look_up(self, keys: Sequence[str]) -> None:
        """Get ready to be asked for many `keys`."""
        asked = [key for key in dict.fromkeys(keys) if key not in self._rows and key not in self._lately]
        found = zip(asked, self._shelf[0].find(asked).tolist(), strict=True)
        self._keep({key: row for key, row in found if row >= 0})

    def _keep(self, rows: dict[str, int]) -> None:
        if len(self._lately) + len(rows) > LATELY:
            self._lately = {}
        self._lately.update(rows)

    @property
    def vectors(self) -> Float[Tensor, "E P"]:
        """Unit vectors; this reads all of them."""
        return self.gather(torch.arange(len(self)))

    def gather(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of `rows`."""
        shelf = self._shelf[2]
        wanted = rows.reshape(-1).cpu().numpy()
        found = np.empty((len(wanted), shelf.dimension), np.float32)
        old = wanted < len(shelf)
        found[old] = shelf.gather(wanted[old])
        if not old.all():
            assert self._vectors is not None
            found[~old] = self._vectors.rows[torch.from_numpy(wanted[~old] - len(shelf))].cpu().numpy()
        device = self._encoder.device
        kind = torch.float16 if device.type == "cuda" else torch.float32
        return torch.from_numpy(found).to(device=device, dtype=kind).reshape(*rows.shape, shelf.dimension)

    @property
    def _dimension(self) -> int:
        return self._shelf[2].dimension


class Joined(Sequence[str]):
    """Strings on disk and others behind them.

    Args:
        old: those on disk.
        new: those behind them.
    """

    def __init__(self, old: Strings, new: list[str]) -> None:
        self._old = old
        self._new = new

    def __len__(self) -> int:
        return len(self._old) + len(self._new)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """Return the string of a row, or those of several."""
        if isinstance(row, slice):
            rows = np.arange(*row.indices(len(self)))
            old = rows < len(self._old)
            return self._old.many(rows[old]) + [self._new[i] for i in (rows[~old] - len(self._old)).tolist()]
        place = row + len(self) if row < 0 else row
        return self._old[place] if place < len(self._old) else self._new[place - len(self._old)]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self[start : start + BLOCK]
