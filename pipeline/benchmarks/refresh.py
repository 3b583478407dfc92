"""Sweeps how often RotatE is trained again while facts arrive: `python -m pipeline.benchmark refresh`.

DySK-Attn (arXiv 2508.07185) leaves open when to refresh its embeddings. Facts arrive in chunks: the snapshots
of the tables, or, where there is only one, entities in random order with their facts to those before. A
share of what arrives is kept apart and asked for. Every policy trains from scratch on all that has arrived,
at its own chunks; in between, new entities are folded in. `0` never trains again; `drift` does when
`pipeline.kg.drift` asks for it.

After each chunk the questions of it and all so far are ranked, filtered, with all entities that have a
vector as candidates; one about an entity without a vector counts 0. `mrr` is over both sides. `mrr_old` is
over those whose answer was there from the start, which is the fairer of the two: training meets answers that
it is not told among its wrong ones, fold-in doesn't (`pipeline.benchmarks.foldin`). The plot shows it.

Link prediction alone: the answers of DySK-Attn would need its adapter trained at each refresh, and are not
measured. Figures go to refresh.json, the plot to refresh.png.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Complex
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.kg.chunks import Chunk, arriving, present
from pipeline.kg.drift import Change, Drift, asks_refresh
from pipeline.kg.facts import Graph, Ids
from pipeline.kg.linkprediction import EVALUATORS, hold_out, ranks
from pipeline.kg.placing import Placing, place
from pipeline.kg.rotate import SIDES, Rotate
from pipeline.kg.rotate_training import Facts, train
from pipeline.reporting.figures import Panel, Point, panels, save_png

BY_DRIFT = "drift"
"""The policy that trains again when the drift asks for it."""

FIGURES = ("mrr_new", "mrr_old_new", "mrr_so_far", "mrr_old_so_far")
"""After each chunk, over its own questions and over all so far."""


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """How facts arrive, and the policies."""

    start: float
    """Share of the entities that are there from the start; not read where the tables have snapshots."""
    chunks: int
    """Chunks in which the others come; snapshots, at most, where the tables have them."""
    asked: float
    """Share of each chunk's new facts that is kept apart and asked for."""
    intervals: list[int]
    """Chunks from one training to the next; 0 for never."""
    threshold: float
    """Drift beyond which an entity counts as moved, in lengths of its vector (`pipeline.kg.drift`)."""
    share: float
    """Share of moved entities beyond which `drift` trains again."""
    placing: Placing
    """How new entities get their vectors in between."""

    def __post_init__(self) -> None:
        if not 0 < self.start < 1 or not 0 < self.asked < 1 or not 0 <= self.share < 1:
            raise ValueError("refresh.start and refresh.asked must be in (0, 1), refresh.share in [0, 1)")
        if self.chunks < 1 or self.threshold < 0:
            raise ValueError("refresh.chunks must be at least 1 and refresh.threshold at least 0")
        if not self.intervals or min(self.intervals) < 0 or len(set(self.intervals)) < len(self.intervals):
            raise ValueError(f"refresh.intervals must list different numbers from 0, not {self.intervals}")

    @property
    def policies(self) -> list[str]:
        """Names of the policies."""
        return [*map(str, self.intervals), BY_DRIFT]


@dataclass(frozen=True)
class State:
    """RotatE as trained at one time, over all entities and relations of the tables."""

    entities: Complex[Tensor, "E d"]
    relations: Complex[Tensor, "R d"]
    known: NDArray[np.bool_]
    facts: Ids
    """Trained on."""
    seconds: float
    """Of training."""


@stage
def refresh(refresh: Refresh, rotate: Rotate, paths: Paths, seed: int, out: Path) -> None:
    """Let the facts arrive once for each policy; trainings at the same time on the same facts are shared."""
    graph = Graph.read(paths.tables)
    shape = graph.entities.num_rows, graph.relations.num_rows
    try:
        first, chunks = arriving(graph, refresh.start, refresh.chunks, refresh.asked, seed)
    except ValueError as error:
        raise UserError(f"refresh.chunks: {error}; lower it, or raise refresh.asked") from error
    trained: dict[int, State] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    with tqdm(total=len(refresh.policies) * len(chunks), desc="chunks", disable=None) as bar:
        for policy in refresh.policies:
            rows[policy] = list(_run(policy, first, chunks, shape, trained, refresh, rotate, seed, bar))
    told = provenance(overridden("python -m pipeline.benchmark refresh"), [seed])
    told |= {"settings": asdict(refresh), "rotate": asdict(rotate), "evaluator": EVALUATORS["filtered"]}
    told |= {"facts": {"start": len(first), "added": [len(chunk.added) for chunk in chunks]}}
    told |= {"removed": [len(chunk.removed) for chunk in chunks], "answers": "not measured"}
    told["figures"] = {policy: {"steps": steps} | summed(steps) for policy, steps in rows.items()}
    (out / "refresh.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    save_png(panels(drawn(told["figures"])), out / "refresh.png")


def _run(
    policy: str,
    first: Ids,
    chunks: list[Chunk],
    shape: tuple[int, int],
    trained: dict[int, State],
    refresh: Refresh,
    rotate: Rotate,
    seed: int,
    bar: "tqdm[Any]",
) -> Iterator[dict[str, Any]]:
    """Yield a row of figures a chunk; `trained` holds the trainings by the number of chunks that they saw."""

    def training(at: int, facts: Ids) -> State:
        if at not in trained:
            trained[at] = state(facts, shape, rotate, seed)
        return trained[at]

    now, facts = training(0, first), first
    drift = _drift(now, shape)
    asked: list[Ids] = []
    old = np.isin(np.arange(shape[0]), first[:, [0, 2]])
    for at, chunk in enumerate(chunks, start=1):
        gone = present(facts, chunk.removed)
        asked = [part[~present(part, chunk.removed)] for part in asked] + [chunk.asked]
        drift.apply([*_changes(facts[gone], "removed"), *_changes(chunk.added, "added")])
        facts = np.concatenate([facts[~gone], chunk.added])
        moved = drift()
        wanted = asks_refresh(moved, refresh.threshold, refresh.share)
        again = wanted if policy == BY_DRIFT else int(policy) > 0 and at % int(policy) == 0
        if again:
            now = training(at, facts)
            drift = _drift(now, shape)
        started = perf_counter()
        vectors, there = place(
            now.entities, now.relations, torch.from_numpy(now.known), torch.from_numpy(facts), refresh.placing
        )
        folded = perf_counter() - started
        every = np.concatenate([facts, *asked])
        ranking = partial(reciprocal, vectors, there, now.relations, facts, every, old, rotate)
        new, so_far = ranking(chunk.asked), ranking(np.concatenate(asked))
        bar.update()
        yield {
            "chunk": at,
            "refreshed": again,
            "mrr_new": new[0],
            "mrr_old_new": new[1],
            "mrr_so_far": so_far[0],
            "mrr_old_so_far": so_far[1],
            "training_seconds": now.seconds if again else 0.0,
            "fold_in_seconds": folded,
            "new_entities": int((there.numpy() & ~now.known).sum()),
            "without_vector": len(np.unique(facts[:, [0, 2]])) - int(there.sum()),
            "drift_mean": float(moved.mean()),
            "drift_moved": float((moved > refresh.threshold).float().mean()),
        }


def state(facts: Ids, shape: tuple[int, int], rotate: Rotate, seed: int) -> State:
    """Train RotatE on `facts`, some of them held out to choose the epoch."""
    entities, ends = np.unique(facts[:, [0, 2]], return_inverse=True)
    relations, kinds = np.unique(facts[:, 1], return_inverse=True)
    ends = ends.reshape(-1, 2)
    dense = np.stack([ends[:, 0], kinds.ravel(), ends[:, 1]], axis=1)
    apart = hold_out(dense, rotate.validation, seed)
    split = Facts(dense[~apart], dense[apart], dense[:0], len(entities), len(relations))
    found = train(rotate, split, seed)
    vectors = torch.zeros(shape[0], rotate.dimension, dtype=torch.cfloat)
    vectors[torch.from_numpy(entities)] = found.entities
    half = len(relations)
    rotations = torch.zeros(len(found.relations) // half * shape[1], rotate.dimension, dtype=torch.cfloat)
    for block in range(len(found.relations) // half):
        rotations[torch.from_numpy(relations) + block * shape[1]] = found.relations[block * half :][:half]
    known = np.zeros(shape[0], dtype=np.bool_)
    known[entities] = True
    return State(vectors, rotations, known, facts, found.progress.seconds)


def _drift(state: State, shape: tuple[int, int]) -> Drift:
    """Return the drift from a training; keys are the ids of the tables."""
    names = np.flatnonzero(state.known)
    row = np.full(shape[0], -1)
    row[names] = np.arange(len(names))
    facts = np.stack([row[state.facts[:, 0]], state.facts[:, 1], row[state.facts[:, 2]]], axis=1)
    return Drift(
        [str(name) for name in names],
        [str(name) for name in range(shape[1])],
        state.entities[torch.from_numpy(state.known)],
        state.relations[: shape[1]],
        torch.from_numpy(facts),
    )


def _changes(facts: Ids, op: str) -> list[Change]:
    return [(str(head), str(relation), str(tail), op) for head, relation, tail in facts.tolist()]


def reciprocal(
    vectors: Complex[Tensor, "E d"],
    there: Bool[Tensor, " E"],
    relations: Complex[Tensor, "R d"],
    facts: Ids,
    known: Ids,
    old: NDArray[np.bool_],
    rotate: Rotate,
    asked: Ids,
) -> tuple[float, float]:
    """Return the MRR of `asked` over both sides, and over questions alone whose answer is `old`.

    Raises:
        UserError: there is none of those.
    """
    row = np.full(len(vectors), -1)
    row[there.numpy()] = np.arange(int(there.sum()))

    def numbered(part: Ids) -> Ids:
        moved = np.stack([row[part[:, 0]], part[:, 1], row[part[:, 2]]], axis=1)
        return moved[(moved[:, [0, 2]] >= 0).all(axis=1)]

    found = ranks(
        vectors[there],
        relations,
        numbered(asked),
        numbered(facts),
        numbered(known),
        rotate.norm,
        rotate.inverse_relations,
        rotate.evaluation_batch_size,
    )["filtered"]
    able = there.numpy()[asked[:, [0, 2]]].all(axis=1)
    values = {side: np.zeros(len(asked)) for side in SIDES}
    for side in SIDES:
        values[side][able] = found[side].double().reciprocal().numpy()
    ours = [values[side][old[asked[:, 2 if side == "tail" else 0]]] for side in SIDES]
    both, of_old = np.concatenate(list(values.values())), np.concatenate(ours)
    if not len(of_old):
        raise UserError("refresh.asked: no question has an answer that was there from the start; raise it")
    return float(both.mean()), float(of_old.mean())


def summed(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean MRRs over time and the seconds spent."""
    told = {f"mean_{key}": float(np.mean([row[key] for row in steps])) for key in FIGURES}
    seconds = {
        key: float(np.sum([row[key] for row in steps])) for key in ("training_seconds", "fold_in_seconds")
    }
    return told | seconds | {"refreshes": int(np.sum([row["refreshed"] for row in steps]))}


def drawn(figures: dict[str, Any]) -> list[Panel]:
    """Return the plot: MRR over time, and its mean against the seconds of each policy."""
    names = {policy: _name(policy) for policy in figures}
    over = {
        names[policy]: [Point(row["chunk"], *[row["mrr_old_so_far"]] * 3) for row in told["steps"]]
        for policy, told in figures.items()
    }
    spent = {
        names[policy]: [
            Point(told["training_seconds"] + told["fold_in_seconds"], *[told["mean_mrr_old_so_far"]] * 3)
        ]
        for policy, told in figures.items()
    }
    return [
        Panel("Questions about all that is new", over, "chunks arrived", "MRR"),
        Panel("What it costs", spent, "seconds of training and folding in", "mean MRR"),
    ]


def _name(policy: str) -> str:
    return "by drift" if policy == BY_DRIFT else "never" if policy == "0" else f"every {policy}"


if __name__ == "__main__":
    refresh()
