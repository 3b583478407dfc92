"""The stages after one another on the small world: every method is asked, and follows an update."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import Paths, UserError
from pipeline.evaluate import evaluate
from pipeline.evaluation.learned import examples
from pipeline.evaluation.majority import Majority
from pipeline.evaluation.methods import build
from pipeline.evaluation.runs import KINDS, Evaluate
from pipeline.evaluation.splits import AFTER, BEFORE
from pipeline.kg.facts import read_table
from pipeline.model.adapter import save_adapter
from pipeline.model.reader import Reader
from pipeline.model.settings import AtlasKv
from pipeline.train import train
from pipeline.weights import Encoder, LanguageModel
from tests.model.editing.small_edits import finetune
from tests.model.tiny_systems import (
    CPU,
    LIGHTNING,
    SILENT,
    bm25,
    closed_book,
    dysk,
    dysk_dense,
    icl,
    linking,
    opened,
    ours,
    rag,
    rag_tuned,
    training,
    vector,
)
from tests.refusals import assert_few_are_refused
from tests.tiny import SmallWorld, memory_settings

pytestmark = LIGHTNING
EVALUATE = Evaluate(
    questions_per_split=4,
    splits=[*BEFORE, *AFTER],
    kinds=list(KINDS),
    batch_size=3,
    recall_at=[1, 5],
    bootstrap_samples=20,
)

TRAINED = ("ours", "rag", "rag_tuned", "dysk", "dysk_dense", "kblam", "atlaskv")
VECTORS = ("ours", "dysk", "dysk_dense", "kblam", "atlaskv")
"""Methods that read facts as vectors or cached states: their prompts hold the question alone."""
TEXTS = ("rag", "rag_tuned", "icl")
"""Methods with facts in their prompts."""

Ask = Callable[[Any, Paths], Path]


@pytest.fixture
def ask(lm: LanguageModel, encoder: Encoder, tmp_path: Path) -> Ask:
    def run(method: Any, paths: Paths) -> Path:
        memory = memory_settings(entities=60, N=100)
        evaluate.run(method, memory, lm, encoder, EVALUATE, paths, 0, tmp_path / "answers")  # type: ignore[attr-defined]
        return tmp_path / "answers"

    return run


@pytest.mark.parametrize("method", [bm25(), linking()], ids=["bm25", "linking"])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_what_is_not_trained_chooses_its_refusals_by_validation_questions(
    method: Any, share: float, world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    adapters = replace(world.paths, adapters=tmp_path)
    save_adapter(opened(rag(), world, lm, encoder), tmp_path / "rag", {})
    sections: dict[str, Any] = {
        "memory": memory_settings(entities=60, N=100),
        "lm": lm,
        "encoder": encoder,
        "graph": world.graph,
        "paths": adapters,
    }
    answerer: Any = build(replace(method, refuse_answerable=share), **sections)
    _, valid = examples(answerer.system, world.graph, adapters)
    highest = answerer.system.limit + 1e-4  # a question read in another batch is doubted a rounding more
    assert_few_are_refused(answerer.system, valid, highest, share)
    assert (answerer.system.limit == float("inf")) == (share == 0)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("ours", ours(mass=1.0)),
        ("rag", rag()),
        ("rag_tuned", rag_tuned(ks=[3], refuse_answerable=0.0)),
        ("dysk", dysk()),
        ("dysk_dense", dysk_dense()),
        ("kblam", vector(rows="synthetic")),
        ("atlaskv", vector(AtlasKv, roots=99, inner=99, leaves=200)),
        ("icl", icl(tuned=False)),
        ("closed_book", closed_book()),
        ("majority", Majority()),
        ("finetune", finetune()),
    ],
)
def test_a_method_is_trained_asked_and_updated(
    name: str,
    method: Any,
    ask: Ask,
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    paths = world.paths
    if name in TRAINED:
        paths = replace(paths, adapters=tmp_path / "adapters")
        out = paths.adapters / name
        out.mkdir(parents=True)
        memory, settings = memory_settings(entities=60), training(tmp_path / "checkpoints")
        train.run(method, memory, lm, encoder, settings, CPU, SILENT, paths, 0, out)  # type: ignore[attr-defined]
    out = ask(method, paths)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    rows = pq.read_table(out / "answers.parquet").to_pylist()
    asked = set(read_table(paths.kv, "questions")["split"].to_pylist())
    wanted = {split for split in EVALUATE.splits if split.removesuffix("_after") in asked}
    assert {"seen", "unseen", "unanswerable", "updated", "added", "unchanged_after"} <= wanted
    assert metrics["splits"].keys() == wanted
    assert metrics["method"] == name
    live = [world.graph.live(0), world.graph.live(1)]
    for row in rows:
        assert all(live[row["split"] in AFTER][fact] for fact in row["facts"]), row
        assert len(row["facts"]) == (3 if name in TRAINED else 0)
    updated = metrics["splits"]["updated"]
    if name in TRAINED:
        # Every fact is a candidate, so what the update wrote is found, whatever the vectors are worth.
        assert [row["candidate_place"] for row in rows if row["split"] == "updated"].count(0) == 0
        assert updated["recall@5"] is not None
    else:
        assert updated["recall@5"] is updated["acc@1"] is None
    if name == "majority":
        assert updated["prompt_tokens"] is None, "it has no language model"
    else:
        told = [row["text"] for row in rows if row["split"] == "updated" and row["prompts"]]
        shortest = bare_tokens(lm, told)
        longer = updated["prompt_tokens"] - shortest
        assert longer == pytest.approx(0) if name in VECTORS else longer > 0 or name not in TEXTS
    assert updated["ms"] > 0


def bare_tokens(lm: LanguageModel, questions: list[str]) -> float:
    """Return how long the prompts of `questions` are that hold nothing but the question."""
    prompts = Reader(lm, "cpu").encode([lm.prompt.format(question=text, facts="") for text in questions])
    return sum(map(len, prompts)) / len(prompts)


def test_a_method_that_was_not_trained_is_an_error(ask: Ask, world: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rag/adapter\.safetensors: not found; train it first"):
        ask(rag(), replace(world.paths, adapters=tmp_path))
