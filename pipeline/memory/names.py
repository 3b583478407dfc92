"""Named things with one base vector each: the entities, relations and slots of a memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.growing import Growing

BLOCK = 1 << 16
"""Names read from disk at once."""


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

    def many(self, keys: Sequence[str]) -> list[int]:
        """Return the rows of `keys`, which must be known."""
        return list(map(self.row, keys))

    def lacks(self, keys: Iterable[str]) -> bool:
        """Return whether one of `keys` isn't known."""
        return any(self.find(key) is None for key in keys)

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
            if self.find(key) is None and not found.get(key, "").strip():
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
        vectors = self._encoder.named(fresh, progress)
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
