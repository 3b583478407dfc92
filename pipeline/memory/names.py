"""Named things with one base vector each: the entities, relations and slots of a memory."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.encoder import Progress, TextEncoder


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
        self.keys: list[str] = []
        self.texts: list[str] = []
        self._encoder = encoder
        self._rows: dict[str, int] = {}
        self._vectors: Float[Tensor, "E P"] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def row(self, key: str) -> int:
        """Return the row of `key`, which must be known."""
        return self._rows[key]

    @property
    def vectors(self) -> Float[Tensor, "E P"]:
        """Unit vectors rounded to 16 bits, in float32 on a CPU and in float16 on a GPU."""
        if self._vectors is None:
            return torch.empty(0, self._encoder.dimension, device=self._encoder.device)
        return self._vectors

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
            if key not in self._rows and not found.get(key, "").strip():
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
        fresh = {key: text for key, text in texts.items() if key not in self._rows}
        if not fresh:
            return New([], [], torch.empty(0, 0, dtype=torch.float16))
        vectors = self._encoder.encode(list(fresh.values()), progress)
        self._check(vectors)
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
        rows = {key: len(self.keys) + i for i, key in enumerate(keys)}
        if len(rows) < len(keys) or not rows.keys().isdisjoint(self._rows):
            raise ValueError("a key is there twice")
        if not len(keys) and self._vectors is not None:
            return
        self._check(vectors)
        device = self._encoder.device
        # Rounded to what a snapshot keeps, so that a memory searches alike before and after it is reopened.
        held = vectors.half().to(
            device=device, dtype=torch.float16 if device.type == "cuda" else torch.float32
        )
        self._vectors = held if self._vectors is None else torch.cat([self._vectors, held])
        self.texts += texts
        self.keys += keys
        self._rows.update(rows)

    def _check(self, vectors: Float[Tensor, "E P"]) -> None:
        if self._vectors is not None and vectors.shape[1] != self._vectors.shape[1]:
            raise UserError(
                f"encoder {self._encoder.name} gives vectors of length {vectors.shape[1]}, but the "
                f"memory holds some of length {self._vectors.shape[1]}; run the stage `index` with it"
            )
