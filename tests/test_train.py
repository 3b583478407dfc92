"""The stage `train` on the small world, for each method, and what it refuses."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import Paths, UserError
from pipeline.evaluation.learned import examples
from pipeline.evaluation.searching import _apart, fit_retrieval
from pipeline.evaluation.systems import NAMES
from pipeline.evaluation.training import _key, relabelled
from pipeline.kg.facts import read_table, write_table
from pipeline.memory.graph import Correspondence
from pipeline.model.adapter import load_adapter
from pipeline.model.batches import Pool, Train
from pipeline.model.ours import OurSystem
from pipeline.model.ragtuned import RagTuned
from pipeline.model.settings import Ours
from pipeline.model.system import Example
from pipeline.train import train
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import (
    CPU,
    LIGHTNING,
    SILENT,
    dysk,
    dysk_dense,
    labels,
    opened,
    ours,
    rag,
    rag_tuned,
    retrieval,
    some_examples,
    training,
)
from tests.refusals import assert_few_are_refused
from tests.tiny import SmallWorld, memory_settings

pytestmark = LIGHTNING

Stage = Callable[..., Path]


@pytest.fixture
def stage(world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path) -> Stage:
    """Return a function that runs the stage into a folder of its own, with changes of its arguments."""

    def run(method: Any, name: str, **changes: Any) -> Path:
        given: dict[str, Any] = {
            "method": method,
            "memory": memory_settings(entities=60),
            "lm": lm,
            "encoder": encoder,
            "train": training(tmp_path / "checkpoints"),
            "trainer": CPU,
            "logger": SILENT,
            "paths": world.paths,
            "seed": 0,
            "out": tmp_path / name,
        }
        given["out"].mkdir(parents=True)
        train.run(**(given | changes))  # type: ignore[attr-defined]
        return tmp_path / name

    return run


@pytest.mark.parametrize(
    "method",
    [ours(), ours(letters=True, hops=2), rag(), rag_tuned(), rag_tuned(rerank=False), dysk(), dysk_dense()],
    ids=["ours", "ours with all", "rag", "rag_tuned", "without reranker", "dysk", "dysk_dense"],
)
def test_the_stage_writes_an_adapter_its_curve_and_figures(
    method: Any, stage: Stage, world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    out = stage(method, "first")
    figures = json.loads((out / "train.json").read_text(encoding="utf-8"))
    state = load_file(out / "adapter.safetensors")
    fresh = opened(method, world, lm, encoder).state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in fresh.items()
    }
    assert any(not torch.equal(value, fresh[name]) for name, value in state.items())
    assert figures["method"] == NAMES[type(method)]
    assert (figures["steps"], figures["examples"], figures["seed"]) == (3, 9, 0)
    assert figures["skipped_steps"] == 0
    assert ("refusal" in figures) == isinstance(method, Ours)
    if isinstance(method, Ours):
        assert figures["refusal"]["threshold"] == state["null.threshold"].item()
        assert figures["refusal"].keys() == {"threshold", "template", "human", "unanswerable"}
        assert ("hops" in figures) == (method.hops == 2)
    chosen = {"correction.beta", "null.threshold", "asking.weight", "asking.bias", "asking.limit"}
    chosen |= {"query.tuned", "beta", "k", "judge", "threshold"}
    count = sum(value.numel() for name, value in state.items() if name not in chosen)
    assert figures["parameters"] == count
    assert ("correction" in figures) == isinstance(method, Ours)
    assert (out / "retrieval.csv").is_file() == isinstance(method, Ours | RagTuned)
    assert ("search" in figures) == ("k" in figures) == isinstance(method, RagTuned)
    if isinstance(method, RagTuned):
        assert (out / "reranker.csv").is_file() == method.rerank
        assert figures["k"]["k"] == state["k"].item() in method.ks
        assert figures["search"]["threshold"] == state["threshold"].item()
        assert {"template", "human"} < figures["search"].keys()
        system = opened(method, world, lm, encoder)
        load_adapter(system, out)
        _, valid = examples(system, world.graph, world.paths)
        highest = (
            figures["search"]["threshold"] + 1e-4
        )  # a question read in another batch is doubted a rounding more
        assert_few_are_refused(system, valid, highest, method.refuse_answerable)
    with (out / "curve.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    kept = json.loads((out / "adapter.json").read_text(encoding="utf-8"))
    assert kept.keys() == {"method", "memory", "lm", "encoder"}
    assert list((tmp_path / "checkpoints").iterdir()) == [], "a finished run leaves no checkpoint"
    again = stage(method, "second")
    for name in ("adapter.safetensors", "adapter.json", "curve.csv"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
    other = stage(method, "third", seed=1)
    assert (out / "adapter.safetensors").read_bytes() != (other / "adapter.safetensors").read_bytes()


def test_a_killed_stage_goes_on_from_its_checkpoint(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's loss fails once at the third step, after the checkpoint of the second."""
    whole = stage(ours(), "whole")
    calls = []

    class StoppedError(Exception):
        pass

    real = OurSystem.losses

    def losses(self: OurSystem, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise StoppedError
        return real(self, batch)

    monkeypatch.setattr(OurSystem, "losses", losses)
    with pytest.raises(StoppedError):
        stage(ours(), "killed")
    assert len(list((tmp_path / "checkpoints").glob("*/last.ckpt"))) == 1
    resumed = stage(ours(), "resumed")
    assert len(calls) == 4, "one step was left"
    for name in ("adapter.safetensors", "curve.csv", "retrieval.csv"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_a_method_without_steps_is_an_error(stage: Stage, tmp_path: Path) -> None:
    settings = training(tmp_path, steps={"ours": 1, "rag": 1})
    with pytest.raises(UserError, match=r"train\.steps names no 'dysk'; it has ours, rag"):
        stage(dysk(), "out", train=settings)


def kept(world: SmallWorld, folder: Path, splits: set[str]) -> Paths:
    """Return the world's paths with only the questions of `splits`."""
    table = read_table(world.paths.kv, "questions").to_pylist()
    rows = [row for row in table if row["split"] in splits]
    write_table(folder, "questions", {name: [row[name] for row in rows] for name in table[0]})
    write_table(folder, "relations", read_table(world.paths.kv, "relations").to_pydict())
    return replace(world.paths, kv=folder)


def test_examples_are_the_training_questions_whose_facts_the_memory_holds(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(rag(), world, lm, encoder)
    pool, valid = examples(system, world.graph, world.paths)
    live = world.graph.live(0)
    table = read_table(world.paths.kv, "questions").to_pylist()
    table = [row for row in table if row["kind"] == "unanswerable" or live[row["facts"]].any()]
    for kind, found in (("template", pool.template), ("human", pool.human)):
        wanted = [row for row in table if row["split"] == "train" and row["kind"] == kind]
        assert len(found) == len(wanted) > 0
        for example, row in zip(found, wanted, strict=True):
            assert (example.text, example.answers) == (row["text"], tuple(row["answers"]))
            tails = {system.memory.fact(fact).tail_label for fact in example.gold}
            assert tails <= set(row["answers"])
            assert len(example.gold) == len(row["facts"])
    assert all(example.gold == () for example in pool.unanswerable)
    assert valid
    assert all(bool(example.gold) == (example.kind != "unanswerable") for example in valid)
    assert {example.kind for example in valid} == {"template", "human", "unanswerable"}
    same = Correspondence(world.graph, system.memory)
    heads = {system.memory.fact(f).head for e in valid for f in e.gold}
    folds = world.graph.facts["fold"].to_pylist()
    assert {folds[same.fact(f)] for e in valid for f in e.gold} == {"valid"}
    assert heads.isdisjoint(system.memory.fact(f).head for e in pool.template for f in e.gold)


def test_no_question_to_train_or_validate_with_is_an_error(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(rag(), world, lm, encoder)
    with pytest.raises(UserError, match="no training question in it; check conf/splits and conf/synthesis"):
        examples(system, world.graph, kept(world, tmp_path / "a", {"valid"}))
    with pytest.raises(UserError, match=r"no validation question in it; raise splits\.valid in conf/splits"):
        examples(system, world.graph, kept(world, tmp_path / "b", {"train"}))


@pytest.mark.parametrize("layout", ["factored", "slot"])
@pytest.mark.parametrize(
    ("human", "changes"),
    [(2, {}), (0, {}), (2, {"examples": 0, "correction_steps": 0}), (0, {"examples": 100, "validation": 0})],
)
def test_the_retrieval_is_fitted_to_a_sample_of_either_kind(
    layout: str,
    human: int,
    changes: dict[str, int],
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    system = opened(ours(), world, lm, encoder, layout=layout)
    known = some_examples(system, 20)
    start = {name: p.detach().clone() for name, p in system.heads.named_parameters()}
    pool = Pool(known[human:], known[:human], [])
    figures, trust = fit_retrieval(system, pool, known[:8], retrieval(**changes), 0.2, 0, tmp_path)
    tried = {"0", "1"} if changes.get("correction_steps", 2) else {"0"}
    assert figures.keys() == tried | {"chosen"}
    # Without relations to tell apart there is nothing to rehearse.
    assert set(trust) == ({"0.5", "1", "0.5 new", "1 new", "chosen"} if layout == "factored" else set())
    moved = {name for name, p in system.heads.named_parameters() if not torch.equal(p, start[name])}
    idle = {name for name in start if name.startswith(("relation", "map"))}
    assert moved == start.keys() - (idle if layout == "slot" else set())
    with (tmp_path / "retrieval.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_questions_that_judge_are_about_entities_of_their_own(
    share: float, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(), world, lm, encoder)
    once = some_examples(system, 20)
    known = [*once, *(replace(e, text=f"Well, {e.text}") for e in once), Example("Why?", ("x",), ())]
    apart, others = _apart(system, known, share, random.Random(0))
    assert len(apart) >= max(1, round(share * len(known)))
    if share < 0.9:
        assert sorted(e.text for e in apart + others) == sorted(e.text for e in known)
        heads = [
            {int(system.memory.triples[e.gold[0], 0]) for e in part if e.gold} for part in (apart, others)
        ]
        assert not heads[0] & heads[1]
    else:
        assert len(others) in (len(known) - len(apart), len(known)), "all, where none would be left"
        assert others


@pytest.mark.parametrize("unanswerable", [0, 4])
def test_the_null_fact_is_fitted_where_there_are_questions_without_an_answer(
    unanswerable: int, world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(ours(), world, lm, encoder)
    known = some_examples(system, 8)
    start = {name: p.detach().clone() for name, p in system.null.named_parameters()}
    pool = Pool(known, [], [Example(f"Why {n}?", (), (), "unanswerable") for n in range(unanswerable)])
    fit_retrieval(system, pool, known, retrieval(), 0.2, 0, tmp_path)
    moved = {name for name, p in system.null.named_parameters() if not torch.equal(p, start[name])}
    assert moved == (start.keys() if unanswerable else set())


def test_without_gold_the_heads_stay_and_the_null_fact_learns_all_the_same(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(ours(letters=True), world, lm, encoder)
    start = {name: p.detach().clone() for name, p in system.named_parameters()}
    known = some_examples(system, 8)
    without = [Example(f"Why {n}?", (), (), "unanswerable") for n in range(4)]
    pool, told = relabelled(Pool(known, [], without), labels(gold=0.0), system, 0)
    assert {name: count for name, count in told.items() if count} == {"none": 8}
    fit_retrieval(system, pool, known, retrieval(), 0.2, 0, tmp_path)
    moved = {name for name, p in system.named_parameters() if not torch.equal(p, start[name])}
    assert moved
    assert all(name.startswith("null.") for name in moved)


@pytest.mark.parametrize("method", [ours(letters=True, hops=2), rag_tuned(), rag_tuned(rerank=False), dysk()])
@pytest.mark.parametrize(
    "shares",
    [{"gold": 0.0}, {"gold": 0.0, "otherwise": "distant"}, {"gold": 0.5}, {"noise": 1.0}],
    ids=str,
)
def test_the_stage_trains_whatever_is_told(
    method: Any, shares: dict[str, Any], stage: Stage, tmp_path: Path
) -> None:
    whole = stage(method, "whole", train=training(tmp_path / "checkpoints"))
    settings = training(tmp_path / "checkpoints", labels=labels(**shares))
    out = stage(method, "out", train=settings)
    [counts, every] = [
        json.loads((folder / "train.json").read_text(encoding="utf-8"))["labels"] for folder in (out, whole)
    ]
    assert sum(counts.get(name, 0) for name in ("gold", "noise", "distant", "none")) == every["gold"] > 0
    assert counts.get("gold", 0) < every["gold"]
    state, other = (load_file(folder / "adapter.safetensors") for folder in (out, whole))
    assert all(value.isfinite().all() for name, value in state.items() if "limit" not in name)
    assert any(not torch.equal(value, other[name]) for name, value in state.items())


def test_checkpoints_are_shared_by_the_same_configuration_and_inputs_only(
    world: SmallWorld, tmp_path: Path
) -> None:
    def key(settings: Train, paths: Paths, **sections: Any) -> str:
        return _key({"train": settings, "method": ours(), "seed": 0} | sections, paths)

    settings = training(tmp_path)
    keys = [
        key(settings, world.paths),
        key(settings, world.paths, seed=1),
        key(settings, world.paths, method=ours(rank=3)),
        key(replace(settings, learning_rate=0.5), world.paths),
        key(settings, kept(world, tmp_path / "a", {"train"})),
    ]
    assert len(set(keys)) == len(keys)
    assert key(training(tmp_path), world.paths) == keys[0]
