"""Folds unseen entities in, against training with their facts: `python -m pipeline.benchmark foldin`.

Two groups of entities are held out of the tables' base facts with all that they bring. RotatE is trained
without them; they get vectors from some of their facts (`support`) and are asked for the others (`queries`).
Beside it RotatE is trained again, in the same way, with the support facts. How to fold in is chosen on the
one group and reported on the other, per estimate and beside the estimate as it is (`mean:plain` is
InvRotatE's).

Two questions are ranked for each query, filtered, with all entities as candidates: `asked`, the new entity
is given and the other one sought (what Wikidata5M-SI ranks, and what settings are chosen by), and `answer`,
the new entity is sought. Retraining meets the right answer of the second among its wrong ones, fold-in never
does, and other right answers are filtered: `answer` is the easier one for fold-in. What newcomers do as wrong
answers to questions about the other entities is told by `others`: the MRR of the facts that choose the
epoch, without newcomers, with folded and with trained ones. Figures go to foldin.json.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import LEVEL, resampled_means
from pipeline.kg.facts import Graph, Ids
from pipeline.kg.linkprediction import EVALUATORS, HITS, hold_out, ranks
from pipeline.kg.newcomers import Arrivals, arrivals
from pipeline.kg.placing import CHOICES, Placing, place
from pipeline.kg.rotate import SIDES, Rotate
from pipeline.kg.rotate_training import Facts, Trained, train

KINDS = ("asked", "answer", "both")
"""Kinds of questions about a query."""

TUNING, REPORTED = 0, 1
"""Groups of newcomers."""


@dataclass(frozen=True, kw_only=True)
class FoldIn:
    """Who is held out, and which ways of folding in are tried."""

    newcomers: int
    """Entities that figures are reported on."""
    tuning: int
    """Other entities, that settings are chosen on."""
    least: int
    """Facts with entities that stay, of a newcomer at least."""
    questions: int
    """Queries of a newcomer at most; never more than half of those facts."""
    estimates: list[str]
    """Estimates of `pipeline.kg.placing.Placing`."""
    weights: list[str]
    """Weights of facts to choose from."""
    ridges: list[float]
    """Ridges to choose from, for the estimate `discriminant`."""
    rounds: int
    """See `pipeline.kg.placing.Placing`."""
    support: list[int]
    """Figures by the number of support facts: where each group of newcomers begins."""
    bootstrap_samples: int
    """Resamples of the newcomers behind each interval."""

    def __post_init__(self) -> None:
        for key in ("newcomers", "tuning", "questions", "rounds", "bootstrap_samples"):
            if getattr(self, key) < 1:
                raise ValueError(f"foldin.{key} must be at least 1, not {getattr(self, key)}")
        if self.least < 2:
            raise ValueError(
                f"foldin.least must be at least 2 (a fact to give, one to ask), not {self.least}"
            )
        for key, known in (("estimates", CHOICES["estimate"]), ("weights", CHOICES["weights"])):
            if not getattr(self, key) or set(getattr(self, key)) - set(known):
                raise ValueError(
                    f"foldin.{key} must list some of {', '.join(known)}, not {getattr(self, key)}"
                )
        if not self.ridges or min(self.ridges) <= 0:
            raise ValueError(f"foldin.ridges must list values above 0, not {self.ridges}")
        if self.support != sorted(set(self.support)) or self.support[:1] != [1]:
            raise ValueError(f"foldin.support must rise from 1, not {self.support}")

    def plain(self, estimate: str) -> Placing:
        """Return an estimate with nothing done to it."""
        return Placing(
            estimate=estimate,
            weights="equal",
            centred=False,
            length="own",
            ridge=1.0,
            rounds=self.rounds,
            again=False,
        )

    def ways(self, estimate: str) -> Iterator[Placing]:
        """Yield what is tried for an estimate, the plain one first."""
        start = self.plain(estimate)
        discriminant = estimate == "discriminant"
        for weights in self.weights:
            for length in ("own", "known"):
                for centred in (True,) if discriminant else (False, True):
                    for ridge in self.ridges if discriminant else (1.0,):
                        yield replace(start, weights=weights, length=length, centred=centred, ridge=ridge)


@stage
def foldin(foldin: FoldIn, rotate: Rotate, paths: Paths, seed: int, out: Path) -> None:
    """Train twice, choose on one group of newcomers, report on the other."""
    started = perf_counter()
    graph = Graph.read(paths.tables)
    split = held_out(dense(graph.triples[graph.live(0)]), foldin, seed)
    apart = hold_out(split.known, rotate.validation, seed)
    valid, given = split.known[apart], np.concatenate([split.known[~apart], split.support])
    runs = {
        "without": Facts(split.known[~apart], valid, valid[:0], int(split.bounds[0]), split.relations),
        "with": Facts(given, valid, valid[:0], int(split.bounds[-1]), split.relations),
    }
    trained = {name: train(rotate, facts, seed) for name, facts in runs.items()}
    without = trained["without"]
    ranking = Ranking(split, rotate, torch.from_numpy(given))
    again = ranking(trained["with"].entities, trained["with"].relations, REPORTED)
    others = partial(ranking.others, valid)
    figures: dict[str, Any] = {}
    for estimate in foldin.estimates:
        ways = {way: ranking.folded(without, way) for way in foldin.ways(estimate)}
        tuned = {
            way: _mrr(ranking(vectors, without.relations, TUNING)["asked"])
            for way, (vectors, _) in ways.items()
        }
        shown = {"chosen": max(ways, key=lambda way: tuned[way])}
        plain = next(iter(ways))
        for name, way in shown.items() if estimate == "discriminant" else [("plain", plain), *shown.items()]:
            vectors, seconds = ways[way]
            found = ranking(vectors, without.relations, REPORTED)
            told = {"placing": asdict(way), "seconds": seconds, "tuning_mrr": tuned[way]}
            told["others"] = others(vectors, without.relations)
            figures[f"{estimate}:{name}"] = told | compared(found, again, ranking.given(), foldin)
    summary = provenance(overridden("python -m pipeline.benchmark foldin"), [seed])
    summary |= {"settings": asdict(foldin), "rotate": asdict(rotate), "evaluator": EVALUATORS["filtered"]}
    summary["facts"] = {name: len(getattr(split, name)) for name in ("known", "support", "queries")}
    summary["entities"] = int(split.bounds[-1])
    summary["training"] = {
        name: {
            "seconds": run.progress.seconds,
            "epoch": run.progress.best_epoch,
            "mrr": run.progress.best_mrr,
        }
        for name, run in trained.items()
    }
    summary["others"] = {name: others(run.entities, run.relations) for name, run in trained.items()}
    summary |= {"figures": figures, "seconds": perf_counter() - started}
    (out / "foldin.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def dense(facts: Ids) -> Ids:
    """Return the facts, each once, over entities and relations that all occur, numbered in order."""
    _, ends = np.unique(facts[:, [0, 2]], return_inverse=True)
    _, kinds = np.unique(facts[:, 1], return_inverse=True)
    ends = ends.reshape(-1, 2)
    return np.unique(np.stack([ends[:, 0], kinds.ravel(), ends[:, 1]], axis=1), axis=0)


def held_out(facts: Ids, foldin: FoldIn, seed: int) -> Arrivals:
    """Return the graph without its newcomers.

    Raises:
        UserError: the graph is too small for so many.
    """
    try:
        return arrivals(facts, (foldin.tuning, foldin.newcomers), foldin.least, foldin.questions, seed)
    except ValueError as error:
        raise UserError(f"foldin.newcomers + foldin.tuning: {error}; lower them or foldin.least") from error


class Ranking:
    """Where the answers of the newcomers' questions rank, given vectors of all entities.

    Args:
        split: known entities and newcomers.
        rotate: the distance, and whether the head side has rotations of its own.
        facts: all that may be folded in from, [M, 3].
    """

    def __init__(self, split: Arrivals, rotate: Rotate, facts: Tensor) -> None:
        self.split, self.rotate, self.facts = split, rotate, facts

    def folded(self, trained: Trained, way: Placing) -> tuple[Complex[Tensor, "E d"], float]:
        """Return vectors of all entities from those of the known ones, and the seconds that it took."""
        started = perf_counter()
        missing = int(self.split.bounds[-1]) - len(trained.entities)
        entities = torch.cat(
            [trained.entities, trained.entities.new_zeros(missing, trained.entities.shape[1])]
        )
        known = torch.arange(len(entities)) < len(trained.entities)
        vectors, _ = place(entities, trained.relations, known, self.facts, way)
        return vectors, perf_counter() - started

    def others(
        self, facts: Ids, entities: Complex[Tensor, "n d"], relations: Complex[Tensor, "R d"]
    ) -> float:
        """Return the MRR of both sides of facts between known entities, among all that have a vector."""
        known = self.split.facts if len(entities) == int(self.split.bounds[-1]) else self.split.known
        found = self._ranks(entities, relations, facts, known)
        return float(torch.cat(list(found.values())).double().reciprocal().mean())

    def _ranks(
        self, entities: Complex[Tensor, "n d"], relations: Complex[Tensor, "R d"], facts: Ids, known: Ids
    ) -> dict[str, Tensor]:
        rotate = self.rotate
        shared = (rotate.norm, rotate.inverse_relations, rotate.evaluation_batch_size)
        return ranks(entities, relations, facts, self.split.known, known, *shared)["filtered"]

    def given(self) -> NDArray[np.int64]:
        """Return the number of support facts of each newcomer of the reported group, in order."""
        ends = self.split.support[:, [0, 2]].ravel()
        counts = np.bincount(ends, minlength=int(self.split.bounds[-1]))
        return counts[np.unique(self.split.owner[self._of(REPORTED)])]

    def _of(self, group: int) -> NDArray[np.bool_]:
        low, high = self.split.bounds[group : group + 2]
        owner = self.split.owner
        return np.asarray((owner >= low) & (owner < high))

    def __call__(
        self, entities: Complex[Tensor, "E d"], relations: Complex[Tensor, "R d"], group: int
    ) -> dict[str, NDArray[np.float64]]:
        """Return the number of questions and the sums of 1/rank and of hits of each newcomer, by kind.

        Rows are newcomers of the group in order: [newcomers, 2 + hits].
        """
        which = self._of(group)
        queries, owner = self.split.queries[which], self.split.owner[which]
        found = self._ranks(entities, relations, queries, self.split.facts)
        _, row = np.unique(owner, return_inverse=True)
        told = {kind: np.zeros((int(row.max()) + 1, 2 + len(HITS))) for kind in KINDS}
        for side in SIDES:
            rank = found[side].double().numpy()
            values = np.stack([np.ones_like(rank), 1 / rank, *(rank <= k for k in HITS)], axis=1)
            given = queries[:, 0 if side == "tail" else 2] == owner
            for kind, mine in (("asked", given), ("answer", ~given), ("both", np.ones_like(given))):
                np.add.at(told[kind], row[mine], values[mine])
        return told


def compared(
    found: dict[str, NDArray[np.float64]],
    again: dict[str, NDArray[np.float64]],
    given: NDArray[np.int64],
    foldin: FoldIn,
) -> dict[str, Any]:
    """Return figures by kind of question: MRR and hits, those of retraining, and the ratio of the MRRs.

    A mean is over questions; whole newcomers are resampled, with both systems' questions.
    """
    edges = [*foldin.support, np.iinfo(np.int64).max]
    told: dict[str, Any] = {}
    for kind in KINDS:
        told[kind] = _ratio(found[kind], again[kind], foldin.bootstrap_samples)
        told[kind]["by_support"] = [
            {"from": low} | _ratio(found[kind][rows], again[kind][rows], foldin.bootstrap_samples)
            for low, high in itertools.pairwise(edges)
            if (rows := (given >= low) & (given < high)).any()
        ]
    return told


def _ratio(found: NDArray[np.float64], again: NDArray[np.float64], samples: int) -> dict[str, Any]:
    """Return the figures of these newcomers; an interval needs at least two of them."""
    means = resampled_means(np.concatenate([found[:, :2], again[:, 1:2]], axis=1), samples, 0)
    edge = (1 - LEVEL) / 2
    told: dict[str, Any] = {"newcomers": len(found), "questions": int(found[:, 0].sum())}
    for name, column, value in (("mrr", 1, _mrr(found)), ("retrained_mrr", 2, _mrr(again))):
        low, high = np.quantile(means[:, column] / means[:, 0], [edge, 1 - edge]).tolist()
        told[name] = {"mean": value, "low": low, "high": high}
    low, high = np.quantile(means[:, 1] / means[:, 2], [edge, 1 - edge]).tolist()
    told["ratio"] = {"mean": _mrr(found) / _mrr(again), "low": low, "high": high}
    for place_, k in enumerate(HITS, start=2):
        told[f"hits@{k}"] = float(found[:, place_].sum() / found[:, 0].sum())
        told[f"retrained_hits@{k}"] = float(again[:, place_].sum() / again[:, 0].sum())
    return told


def _mrr(sums: NDArray[np.float64]) -> float:
    return float(sums[:, 1].sum() / sums[:, 0].sum())


if __name__ == "__main__":
    foldin()
