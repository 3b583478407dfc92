"""The benchmark of robustness on the small world: what is attacked, and what defences keep."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.robustness import robustness
from pipeline.config import UserError
from pipeline.evaluation.poison import Robustness, infect, poison, vouch
from pipeline.evaluation.runs import drawn
from pipeline.kg.facts import read_table
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.model.tiny_systems import CPU, opened, ours, shaken
from tests.rotations import laptop
from tests.tiny import SEED, SmallWorld, memory_settings


def settings(**changes: Any) -> Robustness:
    values: dict[str, Any] = {"entries": ["ours"], "attacks": ["noise", "conflict", "forged"]}
    values |= {"shares": [0.5], "defences": ["none", "provenance", "plausibility", "apart", "all"]}
    values |= {"values": "relation", "trusted": "graph", "kept": 0.5, "split": "unseen", "changed": "updated"}
    values |= {"questions": 8, "seeds": [0], "batch_size": 4, "bootstrap_samples": 50}
    return Robustness(**(values | changes))


@pytest.mark.parametrize("attack", ["noise", "conflict", "forged"])
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
    asked = settings(entries=[entry], attacks=["conflict"])
    rotate = laptop(dimension=8, epochs=2, batch_size=64, negatives=8, evaluate_every=2, device="cpu")
    robustness.run(  # type: ignore[attr-defined]
        asked, memory_settings(), rotate, lm, encoder, CPU, paths, SEED, tmp_path
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
