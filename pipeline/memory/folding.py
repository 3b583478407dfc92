"""Between a memory and a base on disk: one is written as the other, and opened from it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pipeline.config import UserError
from pipeline.memory.base import CODES, RELATIONS, Base
from pipeline.memory.build import Named, build
from pipeline.memory.chronicle import Chronicle
from pipeline.memory.coding import CodesWriter
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.flat import REMEDY, FlatWriter
from pipeline.memory.names import BLOCK, Names
from pipeline.memory.shelved import Shelved
from pipeline.memory.triples import Triples

PERIODS = "periods"
FACTS = 1 << 20
"""Facts read at once."""


def fold(folder: Path, names: Mapping[str, Names], facts: Triples, chronicle: Chronicle) -> Base:
    """Write what a memory holds now as a base, the rows of its names as they are.

    Of facts that don't hold no more than their periods is kept. Codes of names that were in a base are
    copied.

    Args:
        folder: must not be there yet.
        names: entities and relations.
        facts: of these.
        chronicle: the periods of the facts.

    Raises:
        UserError: there is no room; nothing of it is left then.
    """
    entities, relations = names["entities"], names["relations"]

    def more(files: FlatWriter) -> None:
        if len(chronicle):
            files.column(PERIODS, np.uint8).append(np.frombuffer(chronicle.packed(), np.uint8))
        if not len(entities):
            return
        old = facts.base.entity_codes if facts.base else None
        if old is None:
            centre = torch.zeros(entities.gather(torch.zeros(1, dtype=torch.long)).shape[1])
            for block in entities.blocks():
                centre += block.vectors.float().sum(dim=0)
            codes = CodesWriter(files, CODES, (centre / len(entities)).numpy(), vectors=True)
        else:
            codes = CodesWriter(files, CODES, old.centre, old.rotation, vectors=old.has_vectors)
            for start in range(0, len(old), BLOCK):
                codes.copy(old.part(slice(start, start + BLOCK)))
        for block in entities.blocks(start=len(old) if old else 0):
            codes.append(block.vectors.numpy())
        column = files.column(RELATIONS, np.float16, (codes.dimension,))
        for block in relations.blocks():
            column.append(block.vectors.numpy())

    return build(folder, _named(entities), _named(relations), facts.held(FACTS), more=more)[0]


def _named(names: Names) -> Named:
    """Yield keys and texts."""
    return ((block.keys, block.texts) for block in names.blocks(vectors=False))


Held = tuple[dict[str, Names], Triples, Chronicle]
"""Names by kind, facts of these and their periods."""


def opened(folder: Path, encoder: TextEncoder) -> Held:
    """Return what the base in `folder` holds; entities and facts stay on disk.

    Raises:
        UserError: a file is missing or damaged, or it was built without vectors.
    """
    base = Base.open(folder)
    names = {kind: Names(encoder) for kind in ("entities", "relations", "slots")}
    if base.entities:
        if base.entity_codes is None or base.relation_vectors is None:
            raise UserError(f"{folder}: a base without vectors, which nothing can be found in; {REMEDY}")
        names["entities"] = Shelved(encoder, base.entity_keys, base.entity_texts, base.entity_codes)
        rows = np.arange(len(base.relation_keys))
        vectors = torch.from_numpy(base.relation_vectors[rows])
        names["relations"].restore(base.relation_keys.many(rows), base.relation_texts.many(rows), vectors)
    facts = Triples(base=base)
    return names, facts, _chronicle(base, facts)


def _chronicle(base: Base, facts: Triples) -> Chronicle:
    """Return the periods that a base keeps.

    Args:
        base: maybe without any.
        facts: its own.
    """
    chronicle = Chronicle(facts)
    if PERIODS in base.files.arrays:
        try:
            content = base.files[PERIODS].tobytes()
            chronicle.restore(content, base.entities, len(base.relation_keys))
        except (ValueError, OSError) as error:
            raise UserError(f"{base.files.folder / PERIODS}.bin: damaged ({error}); {REMEDY}") from error
    return chronicle


def loaded(folder: Path, encoder: TextEncoder) -> Held:
    """Return what the base in `folder` holds, in RAM."""
    held, facts, _ = opened(folder, encoder)
    base = facts.base
    assert base is not None
    names = {kind: Names(encoder) for kind in held}
    for kind, part in held.items():
        for block in part.blocks():
            names[kind].restore(*block)
    mine = Triples(base.triples(np.arange(len(base))))
    return names, mine, _chronicle(base, mine)
