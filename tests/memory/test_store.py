from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Key, Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.weights import Encoder
from tests.memory.small import RELATIONS, ask, fact, filled, held
from tests.tiny import memory_settings

BASE: list[Key] = [("Q0", "P0", "Q2"), ("Q0", "P1", "Q3"), ("Q1", "P0", "Q2")]


def state(memory: KnowledgeMemory) -> tuple[object, ...]:
    found = memory.search(ask(memory.encoder, 3))
    return held(memory), len(memory), memory.entities.keys[:], memory.relations.keys[:], found.facts.tolist()


def test_an_upsert_is_found_by_the_next_search(texts: TextEncoder) -> None:
    memory = filled(texts, BASE)
    query = Query(texts.encode(["euro"]) * 30, texts.encode(["anthem"]) * 30)
    assert memory.fact(int(memory.search(query).facts[0, 0])).head != "Q5"
    receipt = memory.upsert([Fact("Q5", "P2", "Q9", "euro", "anthem", "Song of the euro")])
    assert (receipt.entities, receipt.relations, receipt.superseded) == (2, 1, [])
    best = int(memory.search(query).facts[0, 0])
    assert best == receipt.facts[0]
    assert memory.fact(best) == Fact("Q5", "P2", "Q9", "euro", "anthem", "Song of the euro")
    assert memory.text(best) == "The anthem of euro is Song of the euro."
    memory.delete([("Q5", "P2", "Q9")])
    assert best not in memory.search(query).facts
    assert memory.find("Q5", "P2", "Q9") is None


def test_known_keys_need_no_names_and_repetitions_no_second_row(texts: TextEncoder) -> None:
    memory = filled(texts, BASE)
    receipt = memory.upsert([Fact(*BASE[0]), Fact("Q2", "P1", "Q0"), Fact(*BASE[0])])
    assert receipt.facts == [0, 3, 0]
    assert (receipt.entities, receipt.relations) == (0, 0)
    assert len(memory) == 4


def test_a_name_may_come_with_any_fact_of_the_call(texts: TextEncoder) -> None:
    memory = KnowledgeMemory(memory_settings(), texts)
    memory.upsert(
        [Fact("a", "r", "b", "", "", "Beta"), Fact("b", "r", "a", "", "rel", "Alpha"), Fact("a", "r", "a")]
    )
    assert dict(zip(memory.entities.keys, memory.entities.texts, strict=True)) == {"a": "Alpha", "b": "Beta"}
    assert memory.relations.texts == ["rel"]


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_replace_supersedes_the_rest_of_the_slot_and_names_it(texts: TextEncoder, layout: str) -> None:
    keys: list[Key] = [("Q0", "P0", "Q2"), ("Q0", "P0", "Q3"), ("Q0", "P1", "Q2"), ("Q1", "P0", "Q2")]
    memory = filled(texts, keys, layout=layout)
    receipt = memory.upsert([fact(("Q0", "P0", "Q3")), fact(("Q0", "P0", "Q5"))], replace=True)
    assert receipt.superseded == [0]
    assert held(memory) == {*keys[1:], ("Q0", "P0", "Q5")}
    again = memory.upsert([fact(keys[0])], replace=True)
    assert again.facts == [0]
    assert again.superseded == sorted(receipt.facts)


def test_deleting_an_unknown_fact_changes_nothing(texts: TextEncoder) -> None:
    memory = filled(texts, BASE, BASE[2:])
    before = state(memory)
    for unknown in [("Q0", "P0", "Q3"), ("Q9", "P0", "Q2"), ("Q0", "P9", "Q2"), BASE[2]]:
        with pytest.raises(UserError, match=rf"fact '{' . '.join(unknown)}': not in the memory") as raised:
            memory.delete([BASE[0], unknown])
        assert " | ".join(unknown) in str(raised.value)
        assert state(memory) == before


def test_a_fact_deleted_twice_in_one_call_is_counted_once(texts: TextEncoder) -> None:
    memory = filled(texts, BASE)
    assert memory.delete([BASE[0], BASE[0]]).facts == [0]
    assert len(memory) == 2


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (Fact("Q9", "P0", "Q2", " "), "the entity 'Q9' is new to the memory and comes without a name"),
        (Fact("Q0", "P0", "Q9"), "the entity 'Q9' is new to the memory and comes without a name"),
        (
            Fact("Q0", "P9", "Q8", "", "", "Eight"),
            "the relation 'P9' is new to the memory",
        ),
        (Fact("Q0", " ", "Q2"), r"fact 'Q0 \|   \| Q2': head, relation and tail must not be empty"),
    ],
)
@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_a_refused_upsert_changes_nothing(texts: TextEncoder, bad: Fact, text: str, layout: str) -> None:
    memory = filled(texts, BASE, layout=layout)
    before = state(memory)
    with pytest.raises(UserError, match=text):
        memory.upsert([Fact("Q7", "P0", "Q2", "Seven"), bad], replace=True)
    assert state(memory) == before
    memory.upsert([Fact("Q7", "P0", "Q2", "Seven")])
    query = Query(
        texts.encode(["the capital of Seven" if layout == "slot" else "Seven"]) * 30, texts.encode(["x"])
    )
    assert memory.fact(int(memory.search(query).facts[0, 0])).head == "Q7"


@pytest.mark.parametrize("layout", ["factored", "slot"])
def test_a_snapshot_is_searched_as_the_memory_was(texts: TextEncoder, layout: str, tmp_path: Path) -> None:
    memory = filled(texts, BASE, layout=layout)
    memory.snapshot(tmp_path)
    again = KnowledgeMemory.open(tmp_path, memory.settings, texts)
    query = ask(texts, 9)
    for before, after in zip(memory.search(query), again.search(query), strict=True):
        assert torch.equal(before, after)
    assert again.slots.texts == memory.slots.texts


def test_a_snapshot_with_slots_opens_in_either_layout(texts: TextEncoder, tmp_path: Path) -> None:
    memory = filled(texts, BASE)
    memory.snapshot(tmp_path / "without")
    with pytest.raises(UserError, match=r"without: holds no slot vectors, which memory\.layout=slot needs"):
        KnowledgeMemory.open(tmp_path / "without", memory_settings(layout="slot"), texts)
    memory.add_slots()
    memory.snapshot(tmp_path / "with")
    again = KnowledgeMemory.open(tmp_path / "with", memory_settings(layout="slot"), texts)
    right = filled(texts, BASE, layout="slot")
    query = ask(texts, 4)
    for left, other in zip(again.search(query), right.search(query), strict=True):
        assert torch.equal(left, other)


def test_opening_and_searching_needs_no_encoder(texts: TextEncoder, tmp_path: Path, encoder: Encoder) -> None:
    filled(texts, BASE).snapshot(tmp_path)
    gone = TextEncoder(Encoder(**(vars(encoder) | {"source": str(tmp_path / "nowhere")})), "cpu")
    memory = KnowledgeMemory.open(tmp_path, memory_settings(), gone)
    assert (memory.search(ask(texts, 1)).facts[0] >= 0).sum() == 3
    with pytest.raises(UserError, match=r"tiny-bert: tried the folder .*nowhere"):
        memory.upsert([Fact("Q9", "P0", "Q0", "New")])


def test_vectors_of_another_length_are_refused(texts: TextEncoder, tmp_path: Path) -> None:
    memory = filled(texts, BASE)
    other = memory.entities
    with pytest.raises(
        UserError, match=r"tiny-bert gives vectors of length 16, but the memory holds some of length 32"
    ):
        other.restore(["x"], ["X"], torch.zeros(1, 16))
    assert "x" not in other


def test_names_that_do_not_fit_together_are_refused(texts: TextEncoder) -> None:
    with pytest.raises(ValueError, match="2 keys, 1 texts and 1 vectors don't fit together"):
        filled(texts, BASE).entities.restore(["x", "y"], ["X"], torch.zeros(1, 32))


def remove(name: str) -> object:
    return lambda folder: (folder / name).unlink()


def damage(name: str) -> object:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:50])


def rename_column(folder: Path) -> None:
    table = pq.read_table(folder / "facts.parquet").rename_columns(["head", "relation", "end"])
    pq.write_table(table, folder / "facts.parquet")


def strange_fact(folder: Path) -> None:
    rows = {name: np.array([99]) for name in ("head", "relation", "tail")}
    pq.write_table(pa.table(rows), folder / "facts.parquet")


@pytest.mark.parametrize(
    "change",
    [
        *(remove(name) for name in ("vectors.safetensors", "entities.parquet", "facts.parquet")),
        *(damage(name) for name in ("vectors.safetensors", "slots.parquet", "facts.parquet")),
        rename_column,
        strange_fact,
    ],
)
def test_a_damaged_snapshot_is_named_with_the_remedy(
    texts: TextEncoder, change: object, tmp_path: Path
) -> None:
    filled(texts, BASE).snapshot(tmp_path)
    change(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=rf"(?s){tmp_path}: not a memory \(.+\); run the stage `index`"):
        KnowledgeMemory.open(tmp_path, memory_settings(), texts)


def test_relation_names_of_the_small_graph_are_used(texts: TextEncoder) -> None:
    memory = filled(texts, BASE)
    assert memory.relations.texts == RELATIONS[:2]
    assert memory.slot_text(0, 1) == "the official language of Aland"
