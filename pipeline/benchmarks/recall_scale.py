"""Measures what the codes find among many millions of entities: `python -m pipeline.benchmark recall_scale`.

Human questions of conf/grounding, as the heads of a trained adapter ask them, look for the entity that each
is about among those of the data, names recombined from theirs, which the encoder reads too, and mixtures of
all these (`pipeline.benchmarks.crowd`). An exact search by products of 16-bit vectors is compared with the
codes alone, as a GPU and as a processor searches them. How near an entity's nearest other one is, and how
near the questions come to others, is told of names and of mixtures, so that one can judge how these stand
for those. Shares go to recall_scale.json.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from pipeline.benchmarks.crowd import Best, Crowd, better, none, quantiles, streamed
from pipeline.benchmarks.recall import shares
from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.distractors import combined
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.grounding import AS_ASKED, Grounding, Probe, probes
from pipeline.evaluation.systems import needed, system_on
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.codes import Codes
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.resident import ResidentCodes
from pipeline.memory.scan import Table, coded
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.ours import OurSystem
from pipeline.model.reader import Reader
from pipeline.model.settings import Ours
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

Row = dict[str, Any]
RANKS = (1, 10, 200)
"""Of a question's products with others, those that are told."""


@dataclass(frozen=True, kw_only=True)
class RecallScale:
    """Among what is searched, and what is looked at."""

    method: str
    """A file of conf/method with queries of its own, perhaps with an adapter folder."""
    names: int
    """Entities of the data, those asked about among them; 0 for all."""
    encoded: int
    """Recombined names that the encoder reads."""
    entities: list[int]
    """Vectors that are searched, in turn; what the names lack is mixed. A billion facts have 5·10⁷."""
    depths: list[int]
    """Entities among which the right one is looked for; the last is how many are compared with exact ones."""
    share: float
    """Of the codes that a processor compares in full: those whose first bits differ least."""
    on_processor: int
    """Questions that are searched so; 0 for all."""
    probes: int
    """Vectors whose nearest other one is looked for, of each kind."""
    seed: int
    """Of the questions, the names and the mixtures."""

    def __post_init__(self) -> None:
        if not self.entities or not self.depths or sorted(self.depths) != self.depths:
            raise ValueError("recall_scale: entities and depths must not be empty, and depths must ascend")
        if min(*self.entities, *self.depths, self.probes, self.encoded) < 1:
            raise ValueError("recall_scale: entities, depths, probes and encoded must be at least 1")
        if min(self.names, self.on_processor) < 0 or not 0 < self.share <= 1:
            raise ValueError(
                "recall_scale: names and on_processor must be at least 0, share above 0 and at most 1"
            )


@stage
def recall_scale(
    recall_scale: RecallScale,
    grounding: Grounding,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Measure each size."""
    settings, device = recall_scale, trainer.device
    graph = Graph.read(paths.tables, relations=paths.kv)
    asked = probes(graph, read_table(paths.kv, "questions"), grounding, settings.seed)
    variant = Variant.read(settings.method, memory)
    if not isinstance(variant.method, Ours):
        raise UserError(f"recall_scale.method: {settings.method} has no queries of its own; choose ours")
    texts = TextEncoder(encoder, device)
    held = KnowledgeMemory(needed(variant.method, memory), texts)
    system = system_on(variant.method, Reader(lm, device), texts, held)
    assert isinstance(system, OurSystem)
    variant.load(system, paths, settings.seed)
    queries = asked_for(system.eval(), asked, grounding.batch_size)
    labels, gold = named(graph, asked, settings.names)
    names, own = vectors(texts, labels, settings)
    del system, held, texts
    figures = measured(queries, gold, names, own, settings, grounding.bootstrap_samples)
    told = provenance(overridden("python -m pipeline.benchmark recall_scale"), [settings.seed])
    told["settings"] = {"recall_scale": asdict(settings), "questions": len(asked)}
    content = json.dumps(told | {"figures": figures}, indent=1)
    (out / "recall_scale.json").write_text(content + "\n", encoding="utf-8")


@torch.no_grad()
def asked_for(system: OurSystem, asked: Sequence[Probe], batch: int) -> Float[Tensor, "Q P"]:
    """Return what questions ask of entities' vectors."""
    texts = [probe.texts[AS_ASKED] for probe in asked]
    with system.attached():
        parts = [system.query(texts[start : start + batch]).key for start in range(0, len(texts), batch)]
    return torch.cat(parts).float()


def named(graph: Graph, asked: Sequence[Probe], most: int) -> tuple[list[str], list[set[int]]]:
    """Return labels of entities, and the rows of those that each question is about.

    Args:
        graph: the data.
        asked: the questions.
        most: entities wanted, those asked about among them; 0 for all.
    """
    heads = [{int(graph.triples[fact][0]) for fact in probe.facts} for probe in asked]
    first = sorted(set.union(*heads))
    taken = set(first)
    others = [row for row in range(len(graph.labels)) if row not in taken]
    rows = [*first, *others][: max(len(first), most) if most else None]
    place = {row: at for at, row in enumerate(rows)}
    return [graph.labels[row] for row in rows], [{place[row] for row in right} for right in heads]


def vectors(
    texts: TextEncoder, labels: Sequence[str], settings: RecallScale
) -> tuple[Float[Tensor, "M P"], int]:
    """Return vectors of the labels and of recombined ones, in 16 bits, and how many are the labels' own."""
    random = np.random.default_rng([settings.seed, 4])
    pairs = random.integers(len(labels), size=(2, settings.encoded)).tolist()
    every = [*labels, *combined(labels, *pairs)]
    with tqdm(total=len(every), desc="names", unit="name", unit_scale=True) as bar:
        parts = []
        for start in range(0, len(every), 1 << 16):
            parts.append(texts.encode(every[start : start + (1 << 16)]).half())
            bar.update(len(parts[-1]))
    return torch.cat(parts), len(labels)


@torch.no_grad()
def measured(
    queries: Float[Tensor, "Q P"],
    gold: Sequence[set[int]],
    names: Float[Tensor, "M P"],
    own: int,
    settings: RecallScale,
    samples: int,
) -> Row:
    """Return the figures of all sizes.

    Args:
        queries: what the questions ask of entities.
        gold: rows of the entities that each is about, among the names.
        names: vectors of the data's names, then of recombined ones.
        own: how many are the data's.
        settings: what is looked at.
        samples: resamples behind each interval.
    """
    device, known = names.device, len(names)
    random = torch.Generator().manual_seed(settings.seed)

    def drawn(start: int, end: int) -> Int[Tensor, " k"]:
        return (start + torch.randperm(end - start, generator=random)[: settings.probes]).to(device)

    plain = Crowd(names, torch.ones(1, device=device), settings.seed)
    some, read = drawn(0, own), drawn(0, known)
    nearest = plain.nearest_other(read, 0, known)
    crowd = Crowd(names, nearest, settings.seed)
    mixed = drawn(known, 2 * known)
    others = known - own
    told: Row = {
        "names": own,
        "recombined": others,
        "product with the nearest other one": {
            f"of the data's {own} names": quantiles(plain.nearest_other(some, 0, own)),
            f"of these and recombined ones, {known}": quantiles(nearest),
            f"of mixtures, among these and {known} of them": quantiles(
                crowd.nearest_other(mixed, 0, 2 * known)
            ),
        },
        "products of questions with others": {
            f"with {others} recombined names": _near(queries, crowd, own, known),
            f"with {others} mixtures": _near(queries, crowd, known, known + others),
        },
    }
    sizes = sorted(settings.entities)
    table = Table(
        torch.empty(-(-names.shape[1] // 64), sizes[-1], dtype=torch.long, device=device),
        torch.empty(sizes[-1], dtype=torch.float16, device=device),
    )
    best, done, told["sizes"] = none(len(queries), device), 0, []
    with tqdm(total=sizes[-1], unit="vector", unit_scale=True) as bar:
        for size in sizes:
            for start, block in crowd.blocks(done, size):
                best = better(best, queries, start, block, settings.depths[-1])
                part = coded(block.float(), crowd.mean)
                table.words[:, start : start + len(block)] = part.words
                table.factors[start : start + len(block)] = part.factors
                bar.update(len(block))
            done = size
            part = Table(table.words[:, :size], table.factors[:size])
            told["sizes"].append(_size(queries, gold, best, part, crowd.mean, settings, samples))
    last = sizes[-1]
    if last > known:
        told["product with the nearest other one"] |= {
            f"of names, among all {last}": quantiles(crowd.nearest_other(read, 0, last)),
            f"of mixtures, among all {last}": quantiles(crowd.nearest_other(drawn(known, last), 0, last)),
        }
    return told


def _near(queries: Float[Tensor, "Q P"], crowd: Crowd, start: int, end: int) -> Row:
    """Return the medians of the questions' largest cosines with the vectors from row `start` to `end`."""
    unit = queries / queries.norm(dim=1, keepdim=True)
    found = streamed(unit, crowd.blocks(start, end), min(RANKS[-1], end - start)).products
    return {
        f"the {rank}. largest": round(float(found[:, rank - 1].median()), 4)
        for rank in RANKS
        if rank <= found.shape[1]
    }


def _size(
    queries: Float[Tensor, "Q P"],
    gold: Sequence[set[int]],
    exact: Best,
    table: Table,
    centre: Float[Tensor, " P"],
    settings: RecallScale,
    samples: int,
) -> Row:
    """Return the figures of one size."""
    words = [word.cpu().numpy().view(np.uint64) for word in table.words]
    codes = Codes(centre.cpu().numpy(), words, table.factors.cpu().numpy(), None, None)
    n, some = settings.depths[-1], settings.on_processor or len(queries)
    told: Row = {"entities": len(table.factors), "exact": _told(exact.rows, gold, settings, samples)}

    def compared(name: str, found: Int[Tensor, "q n"], seconds: float) -> None:
        right = exact.rows[: len(found)]
        both = (found[:, :, None] == right[:, None, :]).any(dim=2).float().sum(dim=1) / right.shape[1]
        row = _told(found, gold, settings, samples)
        own = _told(right, gold, settings, samples)["recall"]
        of_exact = {
            depth: round(value["mean"] / own[depth]["mean"], 4) if own[depth]["mean"] else 0.0
            for depth, value in row["recall"].items()
        }
        row |= {
            "of exact": of_exact,
            f"share of exact's first {n} among its own": round(float(both.mean()), 4),
        }
        told[name] = row | {"seconds": round(seconds, 2)}

    resident = ResidentCodes(codes, queries.device)
    start = time.perf_counter()
    found = [resident.search(part, n)[1] for part in torch.split(queries, 256)]
    compared("codes, all compared by their estimate", torch.cat(found), time.perf_counter() - start)
    del resident
    start = time.perf_counter()
    rows = codes.search(queries[:some].cpu(), n, share=settings.share)[1].to(queries.device)
    compared("codes, chosen by first bits", rows, time.perf_counter() - start)
    return told


def _told(found: Int[Tensor, "q n"], gold: Sequence[set[int]], settings: RecallScale, samples: int) -> Row:
    """Return the share of questions whose entity is among the first, with intervals."""
    places = [
        next((place for place, row in enumerate(rows, 1) if row in right), 0)
        for rows, right in zip(found.tolist(), gold, strict=False)
    ]
    return {"questions": len(places), "recall": shares(np.array(places), settings.depths, samples)}


if __name__ == "__main__":
    recall_scale()
