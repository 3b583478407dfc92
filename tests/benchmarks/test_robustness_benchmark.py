"""The benchmark of robustness on the small world: what is attacked, and what defences keep."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.benchmarks.robustness import robustness, sieved
from pipeline.config import UserError
from pipeline.evaluation.poison import Robustness, infect, poison, vouch
from pipeline.evaluation.runs import drawn
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.evaluation.toys import table
from tests.kg.graphs import paths as a_place
from tests.model.tiny_systems import CPU, opened, ours, shaken
from tests.rotations import laptop
from tests.tiny import SEED, SmallWorld, memory_settings


def settings(**changes: Any) -> Robustness:
    values: dict[str, Any] = {"entries": ["ours"], "attacks": ["noise", "conflict", "forged"]}
    values |= {"shares": [0.5], "defences": ["none", "provenance", "plausibility", "apart", "all"]}
    values |= {"values": "relation", "trusted": "graph", "kept": 0.5, "split": "unseen", "changed": "updated"}
    values |= {"questions": 8, "seeds": [0], "batch_size": 4, "bootstrap_samples": 50}
    return Robustness(**(values | changes))


@pytest.mark.parametrize("attack", ["noise", "conflict", "dated", "forged"])
@pytest.mark.parametrize("defended", [False, True])
def test_provenance_keeps_what_unknown_sources_contradict(
    attack: str, defended: bool, world: SmallWorld, encoder: Encoder
) -> None:
    graph, paths = world.graph, world.indexed(encoder)
    asked = drawn(read_table(paths.kv, "questions"), "unseen", ["template"], 0, 0)
    held = memory_settings(sources=["graph"] if defended else [])
    memory = KnowledgeMemory.open(paths.index, held, opened_encoder(encoder))
    vouch(memory, graph, [fact for one in asked for fact in one["facts"]], "graph")
    given = poison(graph, asked, attack, 1.0, settings(), 0)
    assert len(given.facts) == len(asked) == infect(memory, given, None)
    for fact, place in zip(given.facts, given.questions, strict=True):
        right = graph.triples[asked[place]["facts"]].tolist()
        keys = graph.entities["key"].to_pylist()
        lives = [memory.find(fact.head, fact.relation, keys[tail]) is not None for _, _, tail in right]
        false = memory.find(*fact.key) is not None
        assert fact.tail_label not in asked[place]["answers"]
        if attack == "noise":
            assert all(lives)
            assert false
        elif attack == "conflict" and defended:
            assert all(lives)
            assert not false
        else:
            assert not any(lives)
            assert false


def opened_encoder(encoder: Encoder) -> Any:
    from pipeline.memory.encoder import TextEncoder

    return TextEncoder(encoder, "cpu")


def test_a_larger_share_holds_the_smaller_one(world: SmallWorld, encoder: Encoder) -> None:
    asked = drawn(read_table(world.paths.kv, "questions"), "unseen", ["template"], 0, 0)
    few, many = (poison(world.graph, asked, "noise", share, settings(), 0) for share in (0.3, 1.0))
    assert many.questions[: len(few.questions)] == few.questions
    assert many.facts[: len(few.facts)] == few.facts
    assert 0 < len(few.facts) < len(many.facts)


def test_every_condition_is_measured(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(ours(), world, lm, encoder)
    shaken(system)
    save_adapter(system, tmp_path / "0" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "SEED")
    entry = f"ours:{SIZES}@mine"
    asked = settings(entries=[entry], attacks=["conflict"], defences=["none", "provenance", "apart"])
    robustness.run(  # type: ignore[attr-defined]
        asked, memory_settings(), laptop(), lm, encoder, CPU, paths, SEED, tmp_path
    )
    told = json.loads((tmp_path / "robustness.json").read_text(encoding="utf-8"))
    assert (tmp_path / "robustness.png").stat().st_size > 1000
    assert told["settings"]["robustness"] == asdict(asked)
    rows = told["figures"]
    assert [(row["defence"], row["attack"]) for row in rows] == [
        (defence, attack) for defence in asked.defences for attack in (None, "conflict")
    ]
    for row in rows:
        assert ("changed" in row) == (row["attack"] is None)
        assert ("attacked" in row) == ("misled" in row) == (row["attack"] is not None)
    clean, attacked = rows[:2]
    defended = next(row for row in rows if row["defence"] == "provenance" and row["attack"])
    assert attacked["false updates that passed"] == [attacked["attacked"]["n"]]
    assert defended["em"] == clean["em"], "what the trusted source says is read as before"


def test_the_sieve_is_set_by_facts_that_were_held_out(tmp_path: Path) -> None:
    """Each head points exactly at its tail, so that true facts come first and others don't."""
    heads, tails = 40, 8
    random = torch.Generator().manual_seed(0)
    turn = torch.polar(torch.ones(1, 4), 6 * torch.rand(1, 4, generator=random))
    ends = torch.polar(
        0.5 + torch.rand(tails, 4, generator=random), 6 * torch.rand(tails, 4, generator=random)
    )
    starts = ends.repeat(heads // tails, 1) * turn.conj()
    vectors = torch.cat([starts, ends])
    tables = {"entities": vectors, "relations": turn.repeat(2, 1)}
    parts = {name: torch.cat([values.real, values.imag], dim=1) for name, values in tables.items()}
    save_file(parts, tmp_path / "rotate.safetensors")
    facts = [(head, 0, heads + head % tails) for head in range(heads)]
    facts += [(head, 1, heads) for head in range(heads)]  # so that a head can spare a fact
    facts += [(head, 0, heads + (head + 1) % tails) for head in range(3)]  # of the next snapshot, and false
    graph = Graph(
        table("entities", [(i, f"Q{i}", f"Name {i}", "", []) for i in range(heads + tails)]),
        table("relations", [(i, f"P{i}", f"relation {i}", "lead", "") for i in range(2)]),
        table(
            "facts", [(i, *fact, "", "", "toy", int(i >= 2 * heads), "train") for i, fact in enumerate(facts)]
        ),
        table("changes", [(1, "upsert", 2 * heads + extra) for extra in range(3)]),
    )
    paths = replace(a_place(tmp_path), rotate=tmp_path)
    rotate = laptop(validation=0.2, test=0.1)
    accepts, at_most, told = sieved(graph, paths, rotate, 0, 1.0)
    assert at_most == 0.0
    assert told["validation"]["pass"] == told["test"]["pass"] == 1.0
    assert told["validation"]["with a place"] > 0
    assert told["later"]["facts"] == 3
    assert told["later"]["pass"] == 0.0
    assert accepts(graph.triples[:heads]).all()
    assert not accepts(graph.triples[2 * heads :]).any()


def test_what_can_not_be_is_named(world: SmallWorld, encoder: Encoder) -> None:
    for changes, text in (
        ({"attacks": ["flood"]}, "attacks must be some of"),
        ({"defences": []}, "defences must be some of"),
        ({"entries": []}, "entries and"),
        ({"shares": [0.0]}, "shares must be in"),
        ({"values": "all"}, "values must be"),
        ({"kept": 0.0}, "kept must be"),
    ):
        with pytest.raises(ValueError, match=text):
            settings(**changes)
    asked = drawn(read_table(world.paths.kv, "questions"), "unseen", ["template"], 1, 0)
    every = [asked[0] | {"answers": world.graph.labels}]
    with pytest.raises(UserError, match="leads to right answers alone"):
        poison(world.graph, every, "noise", 1.0, settings(), 0)
