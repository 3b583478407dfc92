"""A memory written as a base and opened from it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import UserError
from pipeline.memory.base import CODES, RELATIONS, Base
from pipeline.memory.build import build
from pipeline.memory.coding import CodesWriter
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.flat import FlatWriter
from pipeline.memory.folding import fold, loaded, opened
from pipeline.memory.store import KnowledgeMemory
from tests.memory.bases import built, rows
from tests.memory.small import fact, filled, held
from tests.tiny import memory_settings

KEYS = [("Q0", "P0", "Q2"), ("Q0", "P1", "Q3"), ("Q1", "P0", "Q2"), ("Q5", "P2", "Q1")]


def test_names_keep_their_rows_through_any_number_of_foldings(texts: TextEncoder, tmp_path: Path) -> None:
    memory = filled(texts, KEYS, KEYS[1:2])
    right = [*memory.entities.keys], [*memory.entities.texts], memory.entities.vectors
    for turn in range(3):
        memory.lay_down(tmp_path / str(turn))
        memory = KnowledgeMemory.open(tmp_path / str(turn), memory_settings(entities=100), texts)
        assert memory.arrangement.base is not None
        count = len(right[0])
        assert ([*memory.entities.keys[:count]], [*memory.entities.texts[:count]]) == right[:2]
        assert torch.equal(memory.entities.vectors[:count], right[2])
        assert memory.entities.keys[-1] == [*memory.entities.keys][-1]
        memory.upsert([fact(("Q4", "P0", "Q0"))])
        memory.delete([("Q4", "P0", "Q0")] if turn % 2 else [])
    assert held(memory) == {KEYS[0], KEYS[2], KEYS[3], ("Q4", "P0", "Q0")}
    names, facts, _ = loaded(tmp_path / "2", texts)
    assert [*names["entities"].keys] == [*memory.entities.keys]
    assert len(facts) == 3
    assert facts.base is None


def test_codes_without_vectors_are_copied_as_they_are(texts: TextEncoder, tmp_path: Path) -> None:
    memory = filled(texts, KEYS)

    def codes_alone(files: FlatWriter) -> None:
        CodesWriter(files, CODES, np.zeros(texts.dimension)).append(memory.entities.vectors.numpy())
        column = files.column(RELATIONS, np.float16, (texts.dimension,))
        column.append(memory.relations.vectors.numpy())

    named = ([(part.keys, part.texts)] for part in (memory.entities, memory.relations))
    build(tmp_path / "first", *named, [memory.triples], more=codes_alone)
    settings = memory_settings(entities=100, backend="codes")
    first = KnowledgeMemory.open(tmp_path / "first", settings, texts)
    first.upsert([fact(("Q4", "P0", "Q3"))])
    fold(
        tmp_path / "second",
        {"entities": first.entities, "relations": first.relations},
        first._facts,
        first.chronicle,
    )
    second = KnowledgeMemory.open(tmp_path / "second", settings, texts)
    assert held(second) == {*KEYS, ("Q4", "P0", "Q3")}
    count = len(memory.entities)
    assert torch.equal(first.entities.vectors[:count], second.entities.vectors[:count])


def test_a_base_without_vectors_is_no_memory(texts: TextEncoder, tmp_path: Path) -> None:
    built(tmp_path / "base", [rows([(0, 0, 1)])])
    assert len(Base.open(tmp_path / "base")) == 1
    with pytest.raises(UserError, match=r"base: a base without vectors, which nothing can be found in; "):
        opened(tmp_path / "base", texts)
