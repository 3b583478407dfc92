"""A fact as one vector f = [e_h ; r ; e_t], from RotatE, from text or from both."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import UserError
from pipeline.kg.facts import Graph
from pipeline.kg.foldin import fold_in
from pipeline.memory.store import KnowledgeMemory

SPACES = ("rotate", "text", "fused")


def rotate_vectors(file: Path, graph: Graph) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the RotatE vectors of entities and of relations by stable key, real parts then imaginary.

    Raises:
        UserError: the file is missing or damaged, or belongs to other tables.
    """
    try:
        tables = load_file(file)
        entities, relations = tables["entities"], tables["relations"]
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{file}: no RotatE vectors ({error}); run the stage `embed`") from error
    if (len(entities), len(relations)) != (graph.entities.num_rows, graph.relations.num_rows):
        raise UserError(f"{file}: belongs to other tables; run the stage `embed` again")
    keys, relation_keys = graph.entities["key"].to_pylist(), graph.relations["key"].to_pylist()
    known = entities.abs().sum(dim=1) > 0  # an entity without facts has a row of zeros
    return (
        {key: row for key, row, there in zip(keys, entities, known.tolist(), strict=True) if there},
        dict(zip(relation_keys, relations, strict=True)),
    )


class FactVectors:
    """Vectors of a memory's facts, gathered from those of its entities and relations.

    Entities that the RotatE run did not know get the vector that `fold_in` makes of their facts with known
    ones, or zeros where they have none.

    Args:
        memory: the facts.
        space: `rotate`, `text` or `fused`.
        entities: RotatE vectors by stable key of the entity.
        relations: RotatE vectors by stable key of the relation.
    """

    def __init__(
        self,
        memory: KnowledgeMemory,
        space: str,
        entities: dict[str, Float[Tensor, " D2"]],
        relations: dict[str, Float[Tensor, " D2"]],
    ) -> None:
        if space not in SPACES:
            raise ValueError(f"method.space must be one of {', '.join(SPACES)}, not {space!r}")
        self.memory = memory
        self.space = space
        self._known = (entities, relations)
        self._dimension = len(next(iter(entities.values()))) if entities else 0
        self._tables = [torch.empty(0, self._dimension, device=memory.device) for _ in range(2)]

    @property
    def width(self) -> int:
        """Length of f."""
        text = self.memory.encoder.dimension if self.space != "rotate" else 0
        return 3 * (text + (self._dimension if self.space != "text" else 0))

    def __call__(self, facts: Int[Tensor, "B N"]) -> Float[Tensor, "B N F"]:
        """Return f of each fact; that of a padded place is the first fact's."""
        rows = facts.clamp(min=0)
        places = list(self.memory.columns(rows))
        parts: list[Tensor] = []
        if self.space != "text":
            self._extend()
            tables = [self._tables[0], self._tables[1], self._tables[0]]
            parts += [table[place] for table, place in zip(tables, places, strict=True)]
        if self.space != "rotate":
            names = [self.memory.entities, self.memory.relations, self.memory.entities]
            parts += [n.gather(place).float() for n, place in zip(names, places, strict=True)]
        return torch.cat(parts, dim=-1)

    def _extend(self) -> None:
        """Add the rows of entities and relations that the memory got since the last call."""
        for which, names in enumerate((self.memory.entities, self.memory.relations)):
            fresh = []
            for row in range(len(self._tables[which]), len(names)):
                vector = self._known[which].get(names.keys[row])
                if vector is None and which == 0:
                    vector = self._folded(row)
                fresh.append(torch.zeros(self._dimension) if vector is None else vector)
            if fresh:
                rows = torch.stack(fresh).to(self._tables[which])
                self._tables[which] = torch.cat([self._tables[which], rows])

    def _folded(self, entity: int) -> Float[Tensor, " D2"] | None:
        """Return the vector of a new entity from its facts with entities and relations of the RotatE run."""
        triples = self.memory.triples
        neighbours, rotations, incoming = [], [], []
        for head, relation, tail in triples[(triples[:, 0] == entity) | (triples[:, 2] == entity)].tolist():
            other = self._known[0].get(self.memory.entities.keys[head if tail == entity else tail])
            rotation = self._known[1].get(self.memory.relations.keys[relation])
            if other is not None and rotation is not None:
                neighbours.append(torch.complex(*other.float().chunk(2)))
                rotations.append(torch.complex(*rotation.float().chunk(2)))
                incoming.append(tail == entity)
        if not neighbours:
            return None
        vector = fold_in(torch.stack(neighbours), torch.stack(rotations), torch.tensor(incoming))
        return torch.cat([vector.real, vector.imag])
