"""Random small graphs with snapshots, folds and label twins, written as tables."""

from collections import Counter
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from pipeline.config import CONF, Paths, section
from pipeline.kg.facts import Graph, write_table
from pipeline.synthesize import Synthesis

RELATIONS = [
    ("P19", "place of birth"),
    ("P26", "spouse"),
    ("P106", "occupation"),
    ("P57", "director"),
    ("P36", "capital"),
    ("P136", "genre"),
]
HELD_OUT = 5


def synthesis(*overrides: str, **values: object) -> Synthesis:
    """The default configuration without a model, with `overrides` such as "questions.evaluation=40"."""
    config = OmegaConf.load(CONF / "synthesis" / "default.yaml")
    plain = ["nouns.writer=none", "questions.evaluation=40", "synthetic.count=20", *overrides]
    return section(Synthesis, OmegaConf.merge(config, OmegaConf.from_dotlist(plain), values), "synthesis")


def paths(folder: Path) -> Paths:
    names = ("tables", "kv", "rotate", "index", "adapters", "evaluations", "reports")
    return Paths(**{name: folder / name for name in names})


def write_graph(
    folder: Path, seed: int = 0, heads: int = 60, changes: bool = True, linked: bool = False
) -> Graph:
    """Write tables of `heads` head entities, a tenth of which share their label with another one.

    Where it is linked, half of the tails are heads too.
    """
    random = np.random.default_rng(seed)
    people = [number % int(heads * 0.9) for number in range(heads)]
    labels = [f"Given{number} Family{number}" for number in people]
    labels += [f"Thing {number}" for number in range(heads)]
    described = ["" if number % 3 else "one of the people of this town" for number in range(len(labels))]
    folds = random.choice(["train", "valid", "test"], p=[0.5, 0.15, 0.35], size=heads)
    triples: dict[tuple[int, int, int], None] = {}
    for head in range(heads):
        for relation in random.choice(len(RELATIONS), size=random.integers(1, 5), replace=False):
            for tail in random.integers(0 if linked else heads, 2 * heads, size=random.integers(1, 3)):
                triples[head, int(relation), int(tail)] = None
    facts = sorted(triples)
    late = random.random(len(facts)) < (0.15 if changes else 0)
    gone = ~late & (random.random(len(facts)) < (0.15 if changes else 0))
    columns = list(zip(*facts, strict=True))
    fold = ["unseen_relation" if r == HELD_OUT else folds[h] for h, r, _ in facts]
    count = len(labels)
    keys = [f"Q{number}" for number in range(count)]
    aliases = [[f"alias {number}"] if number % 5 == 0 else [] for number in range(count)]
    entities = {
        "id": range(count),
        "key": keys,
        "label": labels,
        "description": described,
        "aliases": aliases,
    }
    write_table(folder, "entities", entities)
    names = list(zip(*RELATIONS, strict=True))
    blank = [""] * len(RELATIONS)
    relations = {"id": range(len(blank)), "key": names[0], "label": names[1]}
    write_table(folder, "relations", relations | {"noun_tail": blank, "noun_head": blank})
    dates = [""] * len(facts)
    write_table(
        folder,
        "facts",
        {"id": range(len(facts)), "head": columns[0], "relation": columns[1], "tail": columns[2]}
        | {"start": dates, "end": dates, "source": dates, "snapshot": late.astype(int), "fold": fold},
    )
    moves = [(1, "delete", int(f)) for f in np.flatnonzero(gone)]
    moves += [(1, "upsert", int(f)) for f in np.flatnonzero(late)]
    write_table(
        folder,
        "changes",
        dict(
            zip(("snapshot", "op", "fact"), zip(*moves, strict=True) if moves else ([], [], []), strict=True)
        ),
    )
    write_table(
        folder, "questions", {name: [] for name in ("id", "text", "kind", "facts", "answers", "split")}
    )
    return Graph.read(folder)


def shares(values: list[object]) -> list[float]:
    """The share of each distinct value, largest first."""
    return [count / len(values) for _, count in Counter(values).most_common()]
