"""How far facts that came and went have moved each entity since RotatE was trained, and when to train again.

Where its facts put an entity is the mean of their points (`pipeline.kg.foldin`), f. An entity that was
trained drifts by |f(now) − f(then)| / |e|: how far that place moved since training, in lengths of its
trained vector e. That is 0 as long as its facts are what they were, which |f(now) − e| is not: training
doesn't put an entity at the mean. Neighbours count with their trained vectors, so a change costs two
additions; facts with an entity or a relation that was not trained say nothing of the trained one.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import UserError

OPS = {"added": 1, "removed": -1}
"""What a change does to a fact."""

Change = tuple[str, str, str, str]
"""Head, relation and tail by stable key, and one of `OPS`."""

WHOLLY = 1.0
"""Drift of an entity that lost all its facts, and of one that came after training."""


def asks_refresh(drift: Float[Tensor, " n"], threshold: float, share: float) -> bool:
    """Return whether more than `share` of the entities drifted by more than `threshold`.

    Args:
        drift: of each entity, in lengths of its trained vector.
        threshold: in the same unit, at least 0.
        share: in [0, 1).

    Raises:
        ValueError: a bound is out of its range.
    """
    if threshold < 0 or not 0 <= share < 1:
        raise ValueError(f"threshold must be at least 0 and share in [0, 1), not {threshold} and {share}")
    return len(drift) > 0 and float((drift > threshold).float().mean()) > share


class Drift:
    """The drift of each entity, kept while facts come and go.

    Args:
        entities: keys of the trained ones, each once.
        relations: keys of the trained ones, each once.
        vectors: of the entities.
        rotations: of the relations.
        facts: those trained on, as rows of both.
    """

    def __init__(
        self,
        entities: Sequence[str],
        relations: Sequence[str],
        vectors: Complex[Tensor, "E d"],
        rotations: Complex[Tensor, "R d"],
        facts: Int[Tensor, "M 3"],
    ) -> None:
        self._entity = {key: row for row, key in enumerate(entities)}
        self._relation = {key: row for row, key in enumerate(relations)}
        self.vectors, self.rotations = vectors, rotations
        self._new: dict[str, int] = {}
        self._sums, self._counts = torch.zeros_like(vectors), torch.zeros(len(vectors))
        self._move(facts, 1)
        self._then = self._means()
        self._had = self._counts > 0

    def apply(self, changes: Iterable[Change]) -> None:
        """Take facts in and out; a fact that is there may not be added, nor one removed that is not.

        Raises:
            ValueError: there is no such operation; nothing was changed.
        """
        listed = list(changes)
        for change in listed:
            if change[3] not in OPS:
                raise ValueError(f"a change must be one of {', '.join(OPS)}, not {change[3]!r}")
        for op, sign in OPS.items():
            rows = []
            for head, relation, tail, _ in (change for change in listed if change[3] == op):
                for key in {head, tail} - self._entity.keys():
                    self._new[key] = self._new.get(key, 0) + sign
                known = head in self._entity and tail in self._entity and relation in self._relation
                if known:
                    rows.append((self._entity[head], self._relation[relation], self._entity[tail]))
            self._move(torch.tensor(rows, dtype=torch.long).reshape(-1, 3), sign)

    def __call__(self) -> Float[Tensor, " n"]:
        """Return the drift of each trained entity, in order, and then 1 for each of `newcomers`."""
        lengths = self.vectors.abs().square().sum(dim=1).sqrt().clamp(min=1e-12)
        moved = (self._means() - self._then).abs().square().sum(dim=1).sqrt() / lengths
        moved = moved.where(self._counts > 0.5, WHOLLY).where(self._had, 0)
        return torch.cat([moved, torch.full((len(self.newcomers),), WHOLLY)])

    @property
    def newcomers(self) -> list[str]:
        """Keys of entities that have facts and were not trained."""
        return [key for key, facts in self._new.items() if facts > 0]

    def _move(self, facts: Int[Tensor, "M 3"], sign: int) -> None:
        facts = facts[facts[:, 0] != facts[:, 2]]
        head, relation, tail = facts.T
        turn = self.rotations[relation]
        ones = torch.full((len(facts),), float(sign))
        for here, points in ((tail, self.vectors[head] * turn), (head, self.vectors[tail] * turn.conj())):
            self._sums.index_add_(0, here, sign * points)
            self._counts.index_add_(0, here, ones)

    def _means(self) -> Complex[Tensor, "E d"]:
        return self._sums / self._counts.clamp(min=1)[:, None]

    def save(self, file: Path) -> None:
        """Write all of it to one safetensors file."""
        names = json.dumps([list(self._entity), list(self._relation), self._new]).encode()
        tensors = {name: torch.view_as_real(getattr(self, name)).contiguous() for name in _COMPLEX}
        tensors |= {"_counts": self._counts, "_had": self._had}
        save_file(tensors | {"names": torch.from_numpy(np.frombuffer(names, np.uint8).copy())}, file)

    @classmethod
    def load(cls, file: Path) -> "Drift":
        """Return what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            tensors = load_file(file)
            entities, relations, new = json.loads(tensors.pop("names").numpy().tobytes())
            held = {name: torch.view_as_complex(tensors[name]) for name in _COMPLEX}
            held |= {name: tensors[name] for name in ("_counts", "_had")}
        except (OSError, KeyError, SafetensorError, ValueError) as error:
            raise UserError(f"{file}: no drift of entities ({error}); train RotatE again") from error
        none = torch.zeros(0, 3, dtype=torch.long)
        found = cls(entities, relations, held["vectors"], held["rotations"], none)
        found._new = new
        for name, tensor in held.items():
            setattr(found, name, tensor)
        return found


_COMPLEX = ("vectors", "rotations", "_sums", "_then")
