"""What a process has seen of a memory in shards: names and facts get numbers as they come by.

The numbers hold in this process, as long as it lives, whatever becomes of the shards' own rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.cluster.messages import Named, distinct
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.labels import Labels
from pipeline.memory.names import Names

VECTORS = 1 << 16
"""Vectors of entities that are kept, so that those of a question's candidates are fetched once."""


class SeenNames(Names):
    """Names that are asked for where they aren't known.

    Args:
        encoder: says where vectors are to be.
        ask: returns those of some keys that any shard knows.
    """

    def __init__(self, encoder: TextEncoder, ask: Callable[[Sequence[str]], Named]) -> None:
        super().__init__(encoder)
        self._ask = ask
        self._near: dict[int, Float[Tensor, " P"]] = {}

    def find(self, key: str) -> int | None:
        """Return the number of `key`, None where no shard knows it."""
        if key not in self._rows:
            self.look_up([key])
        return self._rows.get(key)

    def look_up(self, keys: Sequence[str]) -> None:
        """Ask for those of `keys` that haven't been seen."""
        if wanted := [key for key in dict.fromkeys(keys) if key not in self._rows]:
            found = self._ask(wanted)
            self.see(found.keys, found.texts)

    def lacks(self, keys: Iterable[str]) -> bool:
        """Return whether one of `keys` isn't known."""
        wanted = list(keys)
        self.look_up(wanted)
        return any(key not in self._rows for key in wanted)

    def see(self, keys: Sequence[str], texts: Sequence[str]) -> list[int]:
        """Return the numbers of names, new ones for those that come for the first time."""
        for key, text in zip(keys, texts, strict=True):
            if key not in self._rows:
                self._keys.append(key)
                self._texts.append(text)
                self._rows[key] = len(self._keys) - 1
        return [self._rows[key] for key in keys]

    def keep(self, keys: Sequence[str], vectors: Float[Tensor, "n P"]) -> None:
        """Keep the vectors of names that have been seen."""
        for key, vector in zip(keys, vectors, strict=True):
            self._near[self._rows[key]] = vector
        for row in list(self._near)[: max(0, len(self._near) - VECTORS)]:
            del self._near[row]

    def gather(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n P"]:
        """Return the vectors of `rows`, which are fetched where they aren't kept."""
        found, place = distinct(rows)
        wanted = found.tolist()
        near = {row: self._near[row] for row in wanted if row in self._near}
        if missing := [self._keys[row] for row in wanted if row not in near]:
            came = self._ask(missing)
            self.keep(came.keys, came.vectors)
            near |= {self._rows[key]: vector for key, vector in zip(came.keys, came.vectors, strict=True)}
        table = torch.stack([near[row] for row in wanted]) if wanted else torch.empty(0, 0)
        return table[place].to(rows.device)


class Asking(Protocol):
    """Finds names in the shards."""

    def bearing(self, kind: str, name: str) -> tuple[list[str], list[str]]:
        """Return the keys of what has a label, and of what has it in whatever case."""
        ...

    def alike(self, kind: str, name: str, count: int) -> list[str]:
        """Return the labels that are written most like a name."""
        ...


class SeenLabels(Labels):
    """Labels that the shards are asked for.

    Args:
        names: entities or relations.
        kind: which.
        asking: finds them in the shards.
        others: further labels, each with its key.
    """

    def __init__(
        self, names: Names, kind: str, asking: Asking, others: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(lambda: names, kind, others)
        self._seen = 0
        self._asking = asking

    def bearing(self, name: str) -> tuple[list[str], list[str]]:
        """Return the keys of what has the label `name`, and of what has it in whatever case."""
        more = self._exact.get(name, []), self._folded.get(name.casefold(), [])
        found = self._asking.bearing(self.kind, name)
        exact, folded = (list(dict.fromkeys([*a, *b])) for a, b in zip(more, found, strict=True))
        return exact, folded

    def alike(self, name: str, count: int = 3) -> list[str]:
        """Return the labels that are written most like `name`."""
        return self._asking.alike(self.kind, name, count)
