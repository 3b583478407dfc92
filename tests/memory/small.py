"""Small memories and questions to them; some entities share their label, so that scores tie."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Key, Query
from pipeline.memory.store import KnowledgeMemory
from tests.tiny import memory_settings

ENTITIES = ["Aland", "Borland", "Paris", "Lyon", "Aland", "euro"]
RELATIONS = ["capital", "official language", "anthem"]
EVERYTHING = 100

KEYS = st.tuples(
    st.sampled_from([f"Q{i}" for i in range(len(ENTITIES))]),
    st.sampled_from([f"P{i}" for i in range(len(RELATIONS))]),
    st.sampled_from([f"Q{i}" for i in range(len(ENTITIES))]),
)
KEY_LISTS = st.lists(KEYS, max_size=12)


def fact(key: Key) -> Fact:
    """Return the fact with that key and the names that go with it."""
    head, relation, tail = key
    return Fact(*key, ENTITIES[int(head[1:])], RELATIONS[int(relation[1:])], ENTITIES[int(tail[1:])])


def filled(
    texts: TextEncoder, keys: Sequence[Key], deleted: Sequence[Key] = (), **changes: object
) -> KnowledgeMemory:
    """Return a memory of `keys` from which `deleted` were removed again."""
    memory = KnowledgeMemory(memory_settings(**({"entities": EVERYTHING} | changes)), texts)
    memory.upsert([fact(key) for key in keys])
    memory.delete(deleted)
    return memory


def ask(texts: TextEncoder, questions: int, seed: int = 0, hops: int = 1) -> Query:
    """Return random queries."""
    generator = torch.Generator().manual_seed(seed)
    key, relation, second = (torch.randn(questions, texts.dimension, generator=generator) for _ in range(3))
    later = (second * 2, torch.randn(questions, 1, generator=generator)) if hops == 2 else ()
    return Query(key * 5, relation * 2, *later)


def slow_scores(memory: KnowledgeMemory, query: Query, question: int) -> dict[int, float]:
    """Return the score of every fact that holds, one fact after the other."""
    logits = [float(query.relation[question] @ vector.float()) for vector in memory.relations.vectors]
    scores = {}
    for entity in range(len(memory.entities)):
        for row in memory.facts_of(entity):
            head, relation, _ = memory.triples[row].tolist()
            if memory.settings.layout == "slot":
                vector = memory.slots.vectors[memory.slots.row(f"{head}/{relation}")]
                scores[row] = float(query.key[question] @ vector)
            else:
                share = torch.log_softmax(torch.tensor(logits), dim=0)[relation]
                near = query.key[question] @ memory.entities.vectors[head]
                scores[row] = float(near + memory.settings.relation_weight * share)
    return scores


def held(memory: KnowledgeMemory) -> set[Key]:
    """Return the keys of the facts that hold."""
    return {memory.fact(row).key for entity in range(len(memory.entities)) for row in memory.facts_of(entity)}
