"""Letters from tables against those that are read from texts."""

import pytest
import torch

from pipeline.memory.facts import Fact
from pipeline.memory.store import KnowledgeMemory
from pipeline.model import lettertables
from pipeline.model.letters import overlaps
from pipeline.model.lettertables import TRIGRAMS, WORDS, LetterTables
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours
from tests.tiny import SmallWorld

QUESTIONS = [
    "What is the capital of MICK thomson?",
    "what language, in the crossing-point of the crossing point?",
    "?",
    "Paris Paris",
    "größe der straße in 東京都",
]
NAMES = ["Mick Thomson", "The Crossing Point", "Paris", "!!", "STRASSE in 東京都", "Paris Paris Paris"]


def told(name: str) -> Fact:
    return Fact(name, "P36", "Z", name, "", "Z")


def same(memory: KnowledgeMemory, tables: LetterTables) -> None:
    facts = torch.tensor([[row for row, alive in enumerate(memory.alive) if alive]] * len(QUESTIONS))
    heads, relations, _ = memory.columns(facts)
    counts = torch.from_numpy(memory.counts(heads.numpy().ravel())).view(facts.shape)
    assert tables.ask(QUESTIONS)
    found = tables.overlaps(heads, relations, counts)
    expected = overlaps(memory, QUESTIONS, facts, torch.full_like(facts, -1))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert found[:, :, 3].sum() > 3  # some names stand in their question as a whole


def test_tables_say_what_the_texts_do_and_take_in_new_names(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    memory = opened(ours(), world, lm, encoder).memory
    memory.upsert([told(name) for name in NAMES[:3]])
    tables = LetterTables(memory, len(memory.entities) + 9, len(memory.relations) + 2, len(QUESTIONS))
    assert tables.follow()
    memory.upsert([told(name) for name in NAMES])
    memory.upsert([Fact("Paris", "P99", "Z", "", "crossing point", "")])
    assert tables.follow()
    same(memory, tables)


def test_what_has_no_place_is_told(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = opened(ours(), world, lm, encoder).memory
    tables = LetterTables(memory, len(memory.entities) + 2, len(memory.relations) + 1, 1)
    assert tables.ask(["word " * WORDS])
    assert not tables.ask(["word " * (WORDS + 1)])
    assert not tables.ask(["".join(f"{n:03}" for n in range(TRIGRAMS))])
    memory.upsert([told("Paris in the morning")])
    assert tables.follow()
    memory.upsert([told("Paris in the evening")])
    assert not tables.follow()
    monkeypatch.setattr(lettertables, "FRESH", 3)
    tables = LetterTables(memory, len(memory.entities) + 2, len(memory.relations) + 1, 1)
    memory.upsert([told("東京都")])
    assert tables.follow()
    memory.upsert([told("北海道")])
    assert not tables.follow()
