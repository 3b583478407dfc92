"""Names in a text: the longest wins, all that bear it are meant, aliases and new entities count."""

import pytest

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact
from pipeline.memory.mentions import Mentions
from pipeline.memory.store import KnowledgeMemory
from tests.tiny import memory_settings

LABELS = {"a": "Paris", "b": "Paris, Texas", "c": "Texas", "d": "São Tomé", "e": "Paris", "f": "1984"}


@pytest.fixture
def memory(texts: TextEncoder) -> KnowledgeMemory:
    made = KnowledgeMemory(memory_settings(), texts)
    made.upsert([Fact(key, "r", "z", label, "mayor", "Nobody") for key, label in LABELS.items()])
    return made


def told(mentions: Mentions, memory: KnowledgeMemory, text: str) -> list[tuple[str, set[str]]]:
    """Return the stretches that are names and the keys of who bears them."""
    return [
        (text[mention.start : mention.end], {memory.entities.keys[row] for row in mention.entities})
        for mention in mentions.of(text)
    ]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Who is the mayor of Paris, Texas?", [("Paris, Texas", {"b"})]),
        ("Who is the mayor of PARIS TEXAS?", [("PARIS TEXAS", {"b"})]),
        ("Is Texas as old as Paris?", [("Texas", {"c"}), ("Paris", {"a", "e"})]),
        ("Paris's mayor", [("Paris", {"a", "e"})]),
        ("sao tome's mayor", [("sao tome", {"d"})]),
        ("the mayor of 1984", [("1984", {"f"})]),
        ("Parisian mayors of Texa", []),
        ("Nobody is a tail alone", []),
        ("", []),
    ],
)
def test_the_longest_names_are_found_with_all_who_bear_them(
    text: str, right: list[tuple[str, set[str]]], memory: KnowledgeMemory
) -> None:
    assert told(Mentions(memory, {}), memory, text) == right


def test_of_overlapping_names_as_long_the_first_counts(memory: KnowledgeMemory) -> None:
    memory.upsert([Fact("x", "r", "z", "new york"), Fact("y", "r", "z", "york new")])
    assert told(Mentions(memory, {}), memory, "new york new") == [("new york", {"x"})]


def test_aliases_name_an_entity_too(memory: KnowledgeMemory) -> None:
    mentions = Mentions(memory, {"a": ["City of Light", "paris", "?"], "gone": ["Atlantis"]})
    assert told(mentions, memory, "the mayor of the city of light") == [("city of light", {"a"})]
    assert told(mentions, memory, "Paris? Atlantis?") == [("Paris", {"a", "e"})]


def test_an_entity_counts_as_long_as_it_heads_a_fact(memory: KnowledgeMemory) -> None:
    mentions = Mentions(memory, {})
    assert told(mentions, memory, "of Newtown") == []
    memory.upsert([Fact("n", "r", "z", "Newtown")])
    assert told(mentions, memory, "of Newtown") == [("Newtown", {"n"})]
    memory.delete([("n", "r", "z"), ("b", "r", "z")])
    assert told(mentions, memory, "of Newtown") == []
    assert told(mentions, memory, "of Paris, Texas") == [("Paris", {"a", "e"}), ("Texas", {"c"})]
