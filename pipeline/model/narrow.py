"""What KBLaM learns from: three attributes of invented names, in a memory of their own."""

import random
from dataclasses import replace

import pyarrow as pa

from pipeline.memory.encoder import Progress, TextEncoder
from pipeline.memory.facts import Fact
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.batches import Pool
from pipeline.model.system import Example

ABSENT = 0.1
"""Share of the names that the memory doesn't know: their questions are to be refused."""


def narrow_rows(
    rows: pa.Table, settings: Memory, encoder: TextEncoder, seed: int, progress: Progress | None = None
) -> tuple[KnowledgeMemory, Pool]:
    """Return a memory of the synthetic rows, and their questions.

    Args:
        rows: of the table `synthetic`, whose keys read "the {attribute} of {name}".
        settings: of the memory; its layout is `slot` whatever they say.
        encoder: gives names, keys and values their vectors.
        seed: of which names are left out.
        progress: wraps the iteration over batches of texts.
    """
    asked = []
    for question, key, value in zip(
        *(rows[n].to_pylist() for n in ("question", "key", "value")), strict=True
    ):
        attribute, name = key.removeprefix("the ").split(" of ", 1)
        asked.append((question, Fact(name, attribute, value, name, attribute, value)))
    names = sorted({fact.head for _, fact in asked})
    absent = set(random.Random(seed).sample(names, int(ABSENT * len(names))))
    known = [(question, fact) for question, fact in asked if fact.head not in absent]
    memory = KnowledgeMemory(replace(settings, layout="slot"), encoder)
    ids = memory.upsert([fact for _, fact in known], progress=progress).facts
    told = [
        Example(question, (fact.tail_label,), (row,))
        for (question, fact), row in zip(known, ids, strict=True)
    ]
    untold = [Example(question, (), (), "unanswerable") for question, fact in asked if fact.head in absent]
    return memory, Pool(told, [], untold)
