"""Named things with one base vector each: the entities, relations and slots of a memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.growing import Growing
from pipeline.memory.offsets import Rows
from pipeline.memory.strings import Keys, Strings

BLOCK = 1 << 16
"""Names read from disk at once."""
LATELY = 1 << 17
"""Keys on disk whose rows are kept once they were asked for."""


class New(NamedTuple):
    """Names that a memory doesn't hold yet."""

    keys: Sequence[str]
    texts: Sequence[str]
    vectors: Float[Tensor, "E P"]
    """Unit vectors of the texts in float16."""


class Names:
    """A growing list of stable keys, their texts and the vectors of those texts.

    Args:
        encoder: turns texts into vectors; loaded only when a text is new.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._keys: list[str] = []
        self._texts: list[str] = []
        self._rows: dict[str, int] = {}
        self._vectors: Growing | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self.find(key) is not None

    @property
    def keys(self) -> Sequence[str]:
        """Stable keys by row."""
        return self._keys

    @property
    def texts(self) -> Sequence[str]:
        """Texts by row."""
        return self._texts

    def find(self, key: str) -> int | None:
        """Return the row of `key`, None where it isn't known."""
        return self._rows.get(key)

    def row(self, key: str) -> int:
        """Return the row of `key`, which must be known."""
        if (row := self.find(key)) is None:
            raise KeyError(key)
        return row

    @property
    def vectors(self) -> Float[Tensor, "E P"]:
        """Unit vectors rounded to 16 bits, in float32 on a CPU and in float16 on a GPU."""
        if self._vectors is None:
            return torch.empty(0, self._encoder.dimension, device=self._encoder.device)
        return self._vectors.rows

    def gather(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of `rows`, as `vectors` holds them."""
        return self.vectors[rows]

    def look_up(self, keys: Sequence[str]) -> None:
        """Get ready to be asked for many `keys`."""

    def fresh(self, named: Iterable[tuple[str, str]], kind: str) -> dict[str, str]:
        """Return the new keys among pairs of key and text, each with the first text that isn't empty.

        Args:
            named: keys, new or known, with their texts.
            kind: what errors call a key.

        Raises:
            UserError: a new key has no text.
        """
        found: dict[str, str] = {}
        for key, text in named:
            if not found.get(key, "").strip() and key not in self:
                found[key] = text
        for key, text in found.items():
            if not text.strip():
                raise UserError(
                    f"the {kind} {key!r} is new to the memory and comes without a name; give it a label"
                )
        return found

    def encoded(self, texts: Mapping[str, str], progress: Progress | None = None) -> New:
        """Return the keys of `texts` that are new with their texts' vectors; nothing is added.

        Raises:
            UserError: the vectors are of another length than those held.
        """
        fresh = {key: text for key, text in texts.items() if key not in self}
        if not fresh:
            return New([], [], torch.empty(0, 0, dtype=torch.float16))
        vectors = self._encoder.encode(list(fresh.values()), progress)
        self._check(vectors.shape[1])
        return New(list(fresh), list(fresh.values()), vectors.half())

    def add(self, texts: Mapping[str, str], progress: Progress | None = None) -> None:
        """Add the keys of `texts` that are new, with their texts."""
        new = self.encoded(texts, progress)
        if new.keys:
            self.restore(*new)

    def restore(self, keys: Sequence[str], texts: Sequence[str], vectors: Float[Tensor, "E P"]) -> None:
        """Add rows whose vectors are known already.

        Raises:
            ValueError: there are not as many of each, or a key is known already.
            UserError: the vectors are of another length than those held.
        """
        if not len(keys) == len(texts) == len(vectors):
            raise ValueError(
                f"{len(keys)} keys, {len(texts)} texts and {len(vectors)} vectors don't fit together"
            )
        first = len(self)
        rows = {key: first + i for i, key in enumerate(keys)}
        if len(rows) < len(keys) or any(key in self for key in rows):
            raise ValueError("a key is there twice")
        if not len(keys) and self._vectors is not None:
            return
        self._check(vectors.shape[1])
        device = self._encoder.device
        # Rounded to what a snapshot keeps, so that a memory searches alike before and after it is reopened.
        held = vectors.half().to(
            device=device, dtype=torch.float16 if device.type == "cuda" else torch.float32
        )
        if self._vectors is None:
            self._vectors = Growing(held)
        else:
            self._vectors.append(held)
        self._texts += texts
        self._keys += keys
        self._rows.update(rows)

    @property
    def _dimension(self) -> int | None:
        """Length of the vectors held, None where there are none."""
        return None if self._vectors is None else self._vectors.rows.shape[1]

    def _check(self, length: int) -> None:
        if self._dimension is not None and length != self._dimension:
            raise UserError(
                f"encoder {self._encoder.name} gives vectors of length {length}, but the "
                f"memory holds some of length {self._dimension}; run the stage `index` with it"
            )

    def blocks(self, start: int = 0, vectors: bool = True) -> Iterator[New]:
        """Yield them in the order of their rows, `BLOCK` at a time.

        Args:
            start: first row.
            vectors: whether to read these too; empty otherwise.
        """
        for first in range(start, len(self), BLOCK):
            end = min(first + BLOCK, len(self))
            rows = torch.arange(first, end if vectors else first, device=self._encoder.device)
            yield New(self.keys[first:end], self.texts[first:end], self.gather(rows).half().cpu())


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
