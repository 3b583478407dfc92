"""Stage `train`: fits the adapter of one method on the frozen language model."""

import hashlib
import json
import logging
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.systems import NAMES, open_system
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.graph import Correspondence
from pipeline.memory.settings import Memory
from pipeline.model.adapter import save_adapter
from pipeline.model.dysk import Dysk, DyskDense
from pipeline.model.fitting import Pool, Train, fit
from pipeline.model.judging import choose_threshold, fit_asking, fit_letters, fit_null
from pipeline.model.narrow import narrow_rows
from pipeline.model.ours import OurSystem
from pipeline.model.rag import Rag
from pipeline.model.ragtuned import RagTuned, RagTunedSystem
from pipeline.model.retrieval import Ask, Retrieval, choose_weight, fit_correction, fit_heads
from pipeline.model.settings import AtlasKv, AtlasKvAux, Kblam, KblamSameRows, Ours, Vector
from pipeline.model.system import Example, System
from pipeline.model.tuning import choose_k, choose_refusal, choose_search, fit_query, fit_reranker
from pipeline.tracking import Curve, Logger, run
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

log = logging.getLogger(__name__)
QUESTIONS = 4000
"""Questions at most of either kind, with and without an answer, that texts are told from."""


@stage
def train(
    method: Ours | Rag | RagTuned | Dysk | DyskDense | Kblam | KblamSameRows | AtlasKv | AtlasKvAux,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    train: Train,
    trainer: Trainer,
    logger: Logger,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Fit the retrieval and the reader of `method`, and write its adapter, curves and figures."""
    name = NAMES[type(method)]
    if name not in train.steps:
        raise UserError(f"conf/train: train.steps names no {name!r}; it has {', '.join(train.steps)}")
    train = replace(train, learning_rate=train.learning_rates.get(name, train.learning_rate))
    _seed(seed)
    began = time.perf_counter()
    graph = Graph.read(paths.tables, relations=paths.kv)
    system = open_system(method, memory, lm, encoder, graph, paths, trainer.device)
    pool, valid = examples(system, graph, paths)
    if isinstance(method, Vector) and method.rows == "synthetic":
        told = read_table(paths.kv, "synthetic")
        system.memory, pool = narrow_rows(told, memory, system.encoder, seed, lambda b: _bar(b, "names"))
    answerable = [example for example in valid if example.gold]
    if not system.learns_refusal:
        pool = Pool(pool.template, pool.human, [])
    sections: dict[str, Any] = {
        "method": method,
        "memory": memory,
        "lm": lm,
        "encoder": encoder,
        "train": train,
    }
    with run(logger, out, {**sections, "seed": seed}) as tracked:
        figures: dict[str, Any] = {"method": name, "seed": seed}
        if isinstance(system, OurSystem):
            figures["correction"] = fit_retrieval(
                system, pool, answerable, train.retrieval, train.unanswerable, seed, out
            )
        if isinstance(system, RagTunedSystem):
            figures["search"] = fit_search(system, pool, valid, train, seed, out)
            pool = Pool(pool.template, pool.human, [])
        figures["retrieval_seconds"] = time.perf_counter() - began
        _seed(seed)
        steps = train.steps[name]
        key = _key({**sections, "seed": seed}, paths)
        started = time.perf_counter()
        skipped = fit(
            system,
            pool,
            train,
            trainer,
            steps,
            seed,
            out / "curve.csv",
            train.checkpoints / key,
            tracked.loggers,
            progress=True,
        )
        figures["seconds"] = time.perf_counter() - started
        if isinstance(system, OurSystem):
            figures["refusal"] = choose_threshold(system, answerable, system.method.refuse_answerable)
        if isinstance(system, RagTunedSystem):
            few = random.sample(answerable, min(len(answerable), train.retrieval.k_validation))
            with system.attached():
                figures["k"] = choose_k(system, few)
        figures |= {
            "steps": steps,
            "skipped_steps": skipped,
            "examples": steps * train.batch_size,
            "parameters": sum(p.numel() for p in system.parameters() if p.requires_grad),
            "facts_cut": system.facts.cut if isinstance(system, OurSystem) else 0,
        }
        tracked.summarize({f"train.{n}": v for n, v in figures.items()})
    save_adapter(system, out, {n: s for n, s in sections.items() if n != "train"})
    (out / "train.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    # The key doesn't know the code: what a finished run left must not be what the next one starts from.
    shutil.rmtree(train.checkpoints / key)


def examples(system: System, graph: Graph, paths: Paths) -> tuple[Pool, list[Example]]:
    """Return the training questions by kind, and the validation questions, with an answer and without.

    Raises:
        UserError: there is no training question, or none for validation.
    """
    same = Correspondence(graph, system.memory)
    table = read_table(paths.kv, "questions").to_pydict()
    kinds: dict[str, list[Example]] = {"template": [], "human": [], "unanswerable": [], "multihop": []}
    valid: list[Example] = []
    rows = zip(*(table[name] for name in ("text", "kind", "facts", "answers", "split")), strict=True)
    for text, kind, facts, answers, split in rows:
        if split not in ("train", "valid") or (kind == "multihop" and system.hops == 1):
            continue
        parts = graph.hops(facts) if kind == "multihop" else [facts]
        held = [tuple(row for fact in part if (row := same.row(fact)) is not None) for part in parts]
        if not all(held) and kind != "unanswerable":
            continue  # of a later snapshot
        example = Example(text, tuple(answers), held[-1], kind, held[0] if len(held) > 1 else ())
        if split == "train" and kind in kinds and bool(held[-1]) != (kind == "unanswerable"):
            kinds[kind].append(example)
        elif split == "valid" and bool(held[-1]) != (kind == "unanswerable"):
            valid.append(example)
    if not kinds["template"] and not kinds["human"]:
        raise UserError(f"{paths.kv}: no training question in it; check conf/splits and conf/synthesis")
    if not any(example.gold for example in valid):
        raise UserError(f"{paths.kv}: no validation question in it; raise splits.valid in conf/splits")
    return Pool(**kinds), valid


def fit_retrieval(
    system: OurSystem,
    pool: Pool,
    valid: Sequence[Example],
    settings: Retrieval,
    unanswerable: float,
    seed: int,
    out: Path,
) -> dict[str, float]:
    """Fit the heads, then the correction by early states and its weight, then the null fact."""
    draw = random.Random(seed)
    known = _balanced(pool, settings.examples, draw)
    judged = known
    if system.letters:
        draw.shuffle(known)
        cut = max(1, round(settings.held * len(known)))
        judged, known = known[:cut], known[cut:] or known
    ask = _asking(system, known)
    asked = [e.via[0] if e.via else e.gold[0] for e in known]
    triples = system.memory.triples[asked]
    first = triples[:, 0]
    if system.memory.settings.layout == "slot":
        first = system.memory.adjacency.slot[torch.tensor(asked)].cpu().numpy()
    later = np.array([system.memory.triples[e.gold[0], 1] if e.via else -1 for e in known])
    slots = torch.stack([torch.as_tensor(row) for row in (first, triples[:, 1], later)], dim=1)
    curve = fit_heads(system.heads, system.memory, ask, slots.to(system.reader.device), settings, _bar)
    curve_file = Curve(out / "retrieval.csv", ("step", "aux_loss", "retrieval_accuracy"))
    for row in curve:
        curve_file.append(**row)
    if system.letters:
        fit_letters(system, judged, settings, _bar)
    held = list(valid)
    if settings.validation and len(held) > settings.validation:
        held = draw.sample(held, settings.validation)
    weights: Sequence[float] = []
    if settings.correction_steps:
        fit_correction(system, known, ask, settings, _bar)
        weights = settings.correction_weights
    accuracy = choose_weight(system, held, weights)
    if pool.unanswerable:
        count = settings.null_examples
        answerable, without = (draw.sample(list(e), min(len(e), count)) for e in (judged, pool.unanswerable))
        fit_null(system, answerable, without, unanswerable, settings, _bar)
    if settings.texts:
        questions = draw.sample(known, min(len(known), QUESTIONS))
        questions += draw.sample(list(pool.unanswerable), min(len(pool.unanswerable), QUESTIONS))
        fit_asking(system, questions, settings.texts, draw, _bar)
    return accuracy


def fit_search(
    system: RagTunedSystem, pool: Pool, valid: Sequence[Example], train: Train, seed: int, out: Path
) -> dict[str, float]:
    """Fit the query and the reranker of RAG, and choose by validation questions how both are used."""
    draw, settings = random.Random(seed), train.retrieval
    known = _balanced(pool, settings.examples, draw)
    columns = ("step", "aux_loss", "retrieval_accuracy")
    if system.method.head_width:
        curve = Curve(out / "retrieval.csv", columns)
        for row in fit_query(system, known, settings, _bar):
            curve.append(**row)
    if system.reranker:
        curve = Curve(out / "reranker.csv", columns)
        for row in fit_reranker(system, known, pool.unanswerable, train.unanswerable, settings, _bar):
            curve.append(**row)
    held = list(valid)
    if settings.validation and len(held) > 2 * settings.validation:
        kinds = [[e for e in held if bool(e.gold) == answered] for answered in (True, False)]
        held = [e for kind in kinds for e in draw.sample(kind, min(len(kind), settings.validation))]
    chosen = choose_search(system, held, settings.rerank_weights)
    return chosen | choose_refusal(system, valid, system.method.refuse_answerable)


def _asking(system: OurSystem, known: Sequence[Example]) -> Ask:
    """Return what gives the queries of `known`; their texts are encoded once, early states made each time."""
    if system.method.question == "states":
        return lambda drawn: system.query([known[i].text for i in drawn.tolist()])
    vectors = system.encoder.encode([e.text for e in known], lambda b: _bar(b, "questions"))
    return lambda drawn: system.heads(vectors[drawn.to(vectors.device)])


def _balanced(pool: Pool, limit: int, draw: random.Random) -> list[Example]:
    """Return training questions, two templated ones for one that a person wrote, where there are such.

    One question over two facts comes with two templated ones, for a system that follows them.
    """
    human = list(pool.human)
    template = list(pool.template)
    if human and len(template) > 2 * len(human):
        template = draw.sample(template, 2 * len(human))
    both = list(pool.multihop)
    if len(both) > len(template) // 2:
        both = draw.sample(both, len(template) // 2)
    known = human + template + both
    return draw.sample(known, limit) if 0 < limit < len(known) else known


def _bar(items: Iterable[Any], title: str) -> Iterable[Any]:
    shown: Iterable[Any] = tqdm(items, desc=title, unit="step", mininterval=1.0)
    return shown


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def _key(sections: dict[str, Any], paths: Paths) -> str:
    """Return a name for checkpoints that only the same configuration and inputs share."""
    digest = hashlib.sha256(repr(sorted(sections.items())).encode())
    for folder in (paths.tables, paths.kv, paths.rotate, paths.index):
        for file in sorted(folder.glob("*")):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:24]


if __name__ == "__main__":
    train()
