"""CoDEx: Wikidata facts of three sizes with published splits.

Safavi and Koutra, "CoDEx: A Comprehensive Knowledge Graph Completion Benchmark" (EMNLP 2020). A folder a size
holds train.txt, valid.txt and test.txt, each line head, relation and tail by tabs; en/relations.json holds
the labels of the relations. The labels of the entities are joined from the slice of Wikidata.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Extract, Triple
from pipeline.kg.sources.files import located, parsed_json, tab_separated

SIZES = ("s", "m", "l")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Codex:
    """Facts of one size; the `source` of a fact is its published split: "train", "valid" or "test"."""

    folder: str
    """Folder of CoDEx below the data root."""
    size: str
    """`s`, `m` or `l`."""
    labels: str
    """Folder of the slice of Wikidata whose entities.tsv.gz names the entities; empty: keys are labels."""

    def __post_init__(self) -> None:
        """Check the size."""
        if self.size not in SIZES:
            raise ValueError(f"data.size must be one of {', '.join(SIZES)}, not {self.size!r}")

    def extract(self) -> Extract:
        """Return the facts of all three splits.

        Raises:
            UserError: a file is missing, damaged or empty, or a relation has no label.
        """
        folder = located(self.folder, "put the folders codex-s, codex-m and en of CoDEx there")
        relations = _relations(folder / "en" / "relations.json")
        counts: Counter[str] = Counter()
        triples: dict[tuple[str, str, str], Triple] = {}
        for split in SPLITS:
            path = folder / f"codex-{self.size}" / f"{split}.txt"
            for number, (head, relation, tail) in tab_separated(
                path, ("head", "relation", "tail"), header=False
            ):
                if relation not in relations:
                    raise UserError(
                        f"{path}, line {number}: {relation} is not in en/relations.json; add its label there"
                    )
                counts[f"rows_{split}"] += 1
                if (head, relation, tail) in triples:
                    counts["facts_repeated"] += 1
                    continue
                counts["self_loops"] += head == tail
                triples[head, relation, tail] = Triple(head, relation, tail, source=split)
        entities = self._entities({key for head, _, tail in triples for key in (head, tail)}, counts)
        used = {triple.relation for triple in triples.values()}
        return Extract(
            entities=entities,
            relations={key: label for key, label in relations.items() if key in used},
            snapshots=[("base", list(triples.values()))],
            counts=dict(counts),
        )

    def _entities(self, keys: set[str], counts: Counter[str]) -> dict[str, Entity]:
        entities = {key: Entity(key) for key in sorted(keys)}
        if self.labels:
            path = located(self.labels, "put the slice of Wikidata there, or leave data.labels empty")
            for _, (key, label, description) in tab_separated(
                path / "entities.tsv.gz", ("qid", "label", "description"), header=True
            ):
                if key in entities and label:
                    entities[key] = Entity(label, description)
        counts["entities_without_label"] = sum(entity.label == key for key, entity in entities.items())
        return entities


def _relations(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"{path}: not found; it holds the labels of CoDEx's relations: put it there")
    listed: Any = parsed_json(path.read_bytes(), str(path))
    try:
        return {key: relation["label"] for key, relation in listed.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f'{path}: must hold {{"P17": {{"label": "country"}}, …}}; fetch it again') from error
