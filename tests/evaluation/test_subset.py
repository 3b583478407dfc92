"""A memory of some facts finds what the whole one finds when it holds those facts alone."""

import pytest
import torch

from pipeline.evaluation.subset import subset
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours, rag, vector
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Tell me the currency of Cland, please.", "Why?"]
ROWS = [17, 3, 4, 9, 25]


@pytest.mark.parametrize("method", [ours(), rag(), vector()], ids=["ours", "rag", "vector"])
def test_the_same_facts_are_found(
    method: object, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(method, world, lm, encoder, layout="slot")  # type: ignore[arg-type]
    whole = system.memory
    with whole.only(ROWS), system.attached():
        right = system.ground(QUESTIONS, 3).tolist()
    system.memory = subset(whole, ROWS)
    with system.attached():
        found = system.ground(QUESTIONS, 3).tolist()
    assert [[ROWS[row] for row in rows] for rows in found] == right
    assert [system.memory.text(row) for row in range(5)] == [whole.text(row) for row in ROWS]


def test_it_holds_no_other_names_and_is_read_back(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = opened(rag(), world, lm, encoder).memory
    small = subset(whole, ROWS)
    wanted = {name for row in ROWS for name in (whole.fact(row).head, whole.fact(row).tail)}
    assert set(small.entities.keys) == wanted
    assert len(small.slots) == len({tuple(whole.triples[row, :2]) for row in ROWS})
    folder = tmp_path_factory.mktemp("subset")
    small.snapshot(folder)
    again = KnowledgeMemory.open(folder, Memory(**vars(small.settings)), small.encoder)
    assert [again.fact(row) for row in range(5)] == [whole.fact(row) for row in ROWS]
    assert torch.equal(again.slots.vectors, small.slots.vectors)
