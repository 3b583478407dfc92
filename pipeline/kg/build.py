"""Turns what a source yields into the tables that pass between stages, and counts what it met."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.kg.asked import assign, rows
from pipeline.kg.counts import count
from pipeline.kg.facts import write_table
from pipeline.kg.numbering import changes, number
from pipeline.kg.sources import Extract
from pipeline.kg.splits import Splits

log = logging.getLogger(__name__)


def build(extract: Extract, splits: Splits, seed: int, out: Path) -> dict[str, Any]:
    """Write the tables entities, relations, facts, changes and questions to `out`; return the counts.

    The same input gives the same bytes, in whatever order it comes.

    Raises:
        UserError: there is no fact, a fact names an entity or a relation that the source does not list, or
            a question has an unknown split.
    """
    graph = number(extract)
    heads = graph.triples[:, 0].tolist()
    fractions = {graph.entities[head]: splits.fold_of(graph.entities[head], seed) for head in set(heads)}
    folds = assign(extract.questions, fractions)
    sizes = np.bincount(graph.triples[:, 1], minlength=len(graph.relations)).tolist()
    held_out = splits.held_out(dict(zip(graph.relations, sizes, strict=True)), seed)
    hidden = [relation in held_out for relation in graph.relations]
    fold = [
        "unseen_relation" if hidden[relation] else folds[graph.entities[head]]
        for head, relation in zip(heads, graph.triples[:, 1].tolist(), strict=True)
    ]
    questions = rows(extract.questions, graph, folds, held_out)

    entities = [extract.entities[key] for key in graph.entities]
    write_table(
        out,
        "entities",
        {
            "id": range(len(entities)),
            "key": graph.entities,
            "label": graph.labels,
            "description": [" ".join(entity.description.split()) for entity in entities],
            "aliases": [list(entity.aliases) for entity in entities],
        },
    )
    blank = [""] * len(graph.relations)
    write_table(
        out,
        "relations",
        {
            "id": range(len(graph.relations)),
            "key": graph.relations,
            "label": [extract.relations[key] for key in graph.relations],
            "noun_tail": blank,
            "noun_head": blank,
        },
    )
    start, end, source = zip(*graph.dates, strict=True)
    columns = {"head": graph.triples[:, 0], "relation": graph.triples[:, 1], "tail": graph.triples[:, 2]}
    first = np.argmax(graph.live, axis=0)
    dated = {"start": start, "end": end, "source": source, "snapshot": first, "fold": fold}
    write_table(out, "facts", {"id": np.arange(len(first)), **columns, **dated})
    write_table(out, "changes", changes(graph.live))
    write_table(out, "questions", questions)
    log.info("wrote %d facts of %d entities to %s", len(first), len(entities), out)
    counts = count(graph, fold, [name for name, _ in extract.snapshots], extract.relations)
    asked = {split: questions["split"].count(split) for split in sorted(set(questions["split"]))}
    return {**counts, "questions": asked, "source": dict(sorted(extract.counts.items()))}
