"""Named things with one base vector each: the entities, relations and slots of a memory."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.encoder import Progress, TextEncoder


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
        """Unit vectors, in float32 on a CPU and in float16 on a GPU."""
        if self._vectors is None:
            return torch.empty(0, self._encoder.dimension, device=self._encoder.device)
        return self._vectors

    def add(self, texts: Mapping[str, str], progress: Progress | None = None) -> None:
        """Add the keys of `texts` that are new, with their texts.

        Raises:
            UserError: a new key has an empty text.
        """
        fresh = [key for key in texts if key not in self._rows]
        if not fresh:
            return
        for key in fresh:
            if not texts[key].strip():
                raise UserError(f"{key!r} is new to the memory and comes without a name; give it a label")
        encoded = self._encoder.encode([texts[key] for key in fresh], progress)
        self._append(fresh, [texts[key] for key in fresh], encoded)

    def restore(self, keys: Sequence[str], texts: Sequence[str], vectors: Float[Tensor, "E P"]) -> None:
        """Add rows whose vectors are known already."""
        if not len(keys) == len(texts) == len(vectors):
            raise ValueError(
                f"{len(keys)} keys, {len(texts)} texts and {len(vectors)} vectors don't fit together"
            )
        self._append(keys, texts, vectors)

    def _append(self, keys: Sequence[str], texts: Sequence[str], vectors: Float[Tensor, "E P"]) -> None:
        self._rows.update({key: len(self.keys) + i for i, key in enumerate(keys)})
        self.keys += keys
        self.texts += texts
        device = self._encoder.device
        held = vectors.to(device=device, dtype=torch.float16 if device.type == "cuda" else torch.float32)
        self._vectors = held if self._vectors is None else torch.cat([self._vectors, held])
