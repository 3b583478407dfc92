"""Fits the adapter of a method: what the stage `train` and the jobs of a sweep do."""

import hashlib
import io
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Paths, UserError
from pipeline.evaluation.learned import examples
from pipeline.evaluation.searching import bar, fit_retrieval, fit_search
from pipeline.evaluation.systems import NAMES, open_system
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.disk import write_whole
from pipeline.memory.settings import Memory
from pipeline.model.adapter import save_adapter
from pipeline.model.batches import Pool, Train
from pipeline.model.dysk import Dysk, DyskDense
from pipeline.model.fitting import fit
from pipeline.model.judging import choose_threshold
from pipeline.model.labels import Labels, labelled
from pipeline.model.narrow import narrow_rows
from pipeline.model.ours import OurSystem
from pipeline.model.rag import Rag
from pipeline.model.ragtuned import RagTuned, RagTunedSystem
from pipeline.model.retrieval import keep_better
from pipeline.model.settings import AtlasKv, AtlasKvAux, Kblam, KblamSameRows, Ours, Vector
from pipeline.model.stopping import choose_stop
from pipeline.model.system import Example, System
from pipeline.model.tuning import choose_k
from pipeline.place import first
from pipeline.processes import agree, wait
from pipeline.tracking import Run
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

Trained = Ours | Rag | RagTuned | Dysk | DyskDense | Kblam | KblamSameRows | AtlasKv | AtlasKvAux
"""Methods with an adapter of their own."""


def settings_of(method: Trained, train: Train) -> Train:
    """Return `train` with the learning rate of `method`.

    Raises:
        UserError: it says not for how many steps to train this method.
    """
    name = NAMES[type(method)]
    if name not in train.steps:
        raise UserError(f"conf/train: train.steps names no {name!r}; it has {', '.join(train.steps)}")
    return replace(train, learning_rate=train.learning_rates.get(name, train.learning_rate))


def fitted(
    method: Trained,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    train: Train,
    trainer: Trainer,
    paths: Paths,
    seed: int,
    out: Path,
    tracked: Run,
) -> System:
    """Return the system of `method` after its training, whose adapter, curves and figures are in `out`.

    `train` is what `settings_of` returns. Several processes fit the reader together; what comes before and
    after it is the same in all of them, but for rounding, and the first one's result counts.
    """
    name = NAMES[type(method)]
    _seed(seed)
    began = time.perf_counter()
    graph = Graph.read(paths.tables, relations=paths.kv)
    system = open_system(method, memory, lm, encoder, graph, paths, trainer.device, trainer.shares)
    pool, valid = examples(system, graph, paths)
    pool, labels = relabelled(pool, train.labels, system, seed)
    if isinstance(method, Vector) and method.rows == "synthetic":
        told = read_table(paths.kv, "synthetic")
        system.memory, pool = narrow_rows(told, memory, system.encoder, seed, lambda b: bar(b, "names"))
    answerable = [example for example in valid if example.gold]
    if not system.learns_refusal:
        pool = pool.plain()
    sections: dict[str, Any] = {
        "method": method,
        "memory": memory,
        "lm": lm,
        "encoder": encoder,
        "train": train,
    }
    figures: dict[str, Any] = {"method": name, "seed": seed, "labels": labels}
    key = _key({**sections, "seed": seed}, paths)
    before = train.checkpoints / key / "before.pt"
    if before.is_file():
        figures |= _resumed(system, before, out)
    else:
        figures |= _searching(system, pool, valid, train, seed, out)
        agree(system.state_dict())
        _kept(system, figures, before, out)
    if isinstance(system, RagTunedSystem):
        pool = pool.plain()
    found_by = {n: v.clone() for n, v in system.state_dict().items() if n.startswith(system.fitted_before)}
    figures["retrieval_seconds"] = time.perf_counter() - began
    _seed(seed)
    steps = train.steps[name]
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
        few = random.sample(answerable, min(len(answerable), train.retrieval.validation))
        if few:
            figures["joint"] = keep_better(system, found_by, few)
        if system.hops > 1:
            figures["hops"] = choose_stop(system, few, train.retrieval.stop_biases)
        figures["refusal"] = choose_threshold(system, valid, system.method.refuse_answerable)
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
    agree(system.state_dict())
    if first():
        tracked.summarize({f"train.{n}": v for n, v in figures.items()})
        save_adapter(system, out, {n: s for n, s in sections.items() if n != "train"})
        (out / "train.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        # The key doesn't know the code: what a finished run left must not be what the next one starts from.
        shutil.rmtree(train.checkpoints / key)
    wait()
    return system


def _searching(
    system: System, pool: Pool, valid: Sequence[Example], train: Train, seed: int, out: Path
) -> dict[str, Any]:
    """Fit what finds facts, and return the figures of it."""
    if isinstance(system, OurSystem):
        answerable = [example for example in valid if example.gold]
        parts = train.retrieval, train.unanswerable, seed, out
        correction, trust = fit_retrieval(system, pool, answerable, *parts)
        return {"correction": correction, "trust": trust}
    if isinstance(system, RagTunedSystem):
        return {"search": fit_search(system, pool, valid, train, seed, out)}
    return {}


def _kept(system: System, figures: dict[str, Any], file: Path, out: Path) -> None:
    """Write down what stands before the reader is fitted, so that a run that is lost doesn't begin there."""
    if first():
        curves = {curve.name: curve.read_text(encoding="utf-8") for curve in out.glob("*.csv")}
        told = {"state": system.state_dict(), "figures": json.dumps(figures), "curves": curves}
        file.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(told, content)
        write_whole(file, content.getvalue())


def _resumed(system: System, file: Path, out: Path) -> dict[str, Any]:
    """Set `system` to what `_kept` wrote down; return the figures, and write the curves to `out`."""
    told = torch.load(file, map_location=system.reader.device, weights_only=True)
    system.load_state_dict(told["state"])
    if first():
        for name, text in told["curves"].items():
            (out / name).write_text(text, encoding="utf-8")
    figures: dict[str, Any] = json.loads(told["figures"])
    return figures


def relabelled(pool: Pool, labels: Labels, system: System, seed: int) -> tuple[Pool, dict[str, int]]:
    """Return the pool with what training is told of its gold facts, and how many questions are told what."""
    kinds: dict[str, list[Example]] = {}
    counts: Counter[str] = Counter()
    for kind, known in vars(pool).items():
        kinds[kind], more = labelled(known, labels, system.memory, system.encoder, seed)
        counts.update(more)
    return Pool(**kinds), dict(counts)


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
