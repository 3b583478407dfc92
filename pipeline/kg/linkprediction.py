"""Link prediction: which facts are held out, and where the right answer ranks among the candidates.

Two evaluators, both ranking from both sides of each held-out fact. `filtered`: every trained entity is a
candidate but the other right answers, as published figures have it. `type_filtered`: of those, only
entities seen with that relation on that side in training; a right answer never seen there can't be
ranked and counts as a reciprocal rank of 0, so that the figure is a lower bound, not an oracle's.

Ties take the realistic rank, the mean of the best and the worst that an order of the ties could give.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipeline.kg.facts import Ids
from pipeline.kg.rotate import SIDES, distances, rotated

EVALUATORS = {
    "filtered": "rank-based, filtered by all known facts, realistic ranks, all trained entities, both sides",
    "type_filtered": "the same, candidates seen with that relation and side in training; others count 0",
}
HITS = (1, 3, 10)


def hold_out(facts: Ids, share: float, seed: int) -> NDArray[np.bool_]:
    """Return which facts to hold out: at random, never the last one of an entity or a relation.

    Args:
        facts: head, relation and tail, [M, 3].
        share: of the facts, in [0, 1); fewer are held out where the graph has no more to spare.
        seed: of the random order.
    """
    entities = np.bincount(facts[:, [0, 2]].ravel())
    relations = np.bincount(facts[:, 1])
    held = np.zeros(len(facts), dtype=np.bool_)
    wanted = int(share * len(facts))
    for fact in np.random.default_rng(seed).permutation(len(facts)):
        if wanted == 0:
            break
        head, relation, tail = facts[fact]
        spare = entities[head] > 1 and entities[tail] > 1 if head != tail else entities[head] > 2
        if spare and relations[relation] > 1:
            np.subtract.at(entities, [head, tail], 1)
            relations[relation] -= 1
            held[fact] = True
            wanted -= 1
    return held


@dataclass(frozen=True)
class Groups:
    """Values grouped by a key, looked up for many keys at once."""

    keys: Ids
    values: Ids

    @classmethod
    def of(cls, keys: Ids, values: Ids) -> "Groups":
        """Return `values` grouped by `keys`, each pair once."""
        pairs = np.unique(np.stack([keys, values], axis=1), axis=0)
        return cls(pairs[:, 0], pairs[:, 1])

    def cells(self, keys: Ids) -> tuple[Tensor, Tensor]:
        """Return the (row, value) pairs of all values of each key; a row is a position in `keys`."""
        start, stop = np.searchsorted(self.keys, keys, "left"), np.searchsorted(self.keys, keys, "right")
        count = stop - start
        rows = np.repeat(np.arange(len(keys)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return torch.from_numpy(rows), torch.from_numpy(self.values[np.repeat(start, count) + within])


def realistic_ranks(scores: Float[Tensor, "B E"], answers: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the rank of each answer, from 1; ties with others count half. Candidates at -inf are none."""
    own = scores.gather(1, answers[:, None])
    above = (scores > own).sum(dim=1)
    ties = (scores == own).sum(dim=1) - 1
    ranks: Tensor = 1 + above + ties / 2
    return ranks


def evaluate(
    entities: Complex[Tensor, "E d"],
    relations: Complex[Tensor, "R d"],
    facts: Ids,
    train: Ids,
    known: Ids,
    norm: str,
    inverse: bool,
    batch_size: int,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Return the figures of each evaluator in `EVALUATORS`; the arguments are those of `ranks`."""
    found = ranks(entities, relations, facts, train, known, norm, inverse, batch_size, progress)
    return {name: figures(of_sides) for name, of_sides in found.items()}


def ranks(
    entities: Complex[Tensor, "E d"],
    relations: Complex[Tensor, "R d"],
    facts: Ids,
    train: Ids,
    known: Ids,
    norm: str,
    inverse: bool,
    batch_size: int,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, Float[Tensor, " n"]]]:
    """Return the rank of each fact's answer by evaluator and side, on the CPU.

    Args:
        entities: all trained entities.
        relations: rotations; with `inverse`, first those for tails, then as many for heads.
        facts: those to rank, [n, 3].
        train: those trained on, [M, 3]: they say which entities a relation takes.
        known: all facts, held-out ones too, [K, 3]: their answers are no wrong candidates.
        norm: see `pipeline.kg.rotate.NORMS`.
        inverse: whether the head side has rotations of its own.
        batch_size: questions ranked at once.
        progress: called with the number of questions ranked.
    """
    size, half = len(entities), len(relations) // 2
    found: dict[str, list[Tensor]] = {f"{name}/{side}": [] for name in EVALUATORS for side in SIDES}
    for side in SIDES:
        given, answer = (0, 2) if side == "tail" else (2, 0)
        right = Groups.of(known[:, 1] * size + known[:, given], known[:, answer])
        seen = Groups.of(train[:, 1], train[:, answer])
        for start in range(0, len(facts), batch_size):
            batch = facts[start : start + batch_size]
            row = batch[:, 1] + (half if inverse and side == "head" else 0)
            turns = relations[torch.from_numpy(row).to(relations.device)]
            asked = entities[torch.from_numpy(batch[:, given]).to(entities.device)]
            queries = rotated(asked, turns, "tail" if inverse else side)
            scores = -chunked_distances(queries, entities, norm)
            gold = torch.from_numpy(batch[:, answer]).to(scores.device)
            own = scores.gather(1, gold[:, None])
            scores[
                tuple(cell.to(scores.device) for cell in right.cells(batch[:, 1] * size + batch[:, given]))
            ] = -torch.inf
            scores.scatter_(1, gold[:, None], own)
            found[f"filtered/{side}"].append(realistic_ranks(scores, gold).cpu())
            allowed = torch.zeros_like(scores, dtype=torch.bool)
            allowed[tuple(cell.to(scores.device) for cell in seen.cells(batch[:, 1]))] = True
            reachable = allowed.gather(1, gold[:, None])[:, 0]
            typed = realistic_ranks(
                scores.masked_fill_(~allowed, -torch.inf).scatter_(1, gold[:, None], own), gold
            )
            found[f"type_filtered/{side}"].append(typed.where(reachable, torch.inf).cpu())
            progress(len(batch))
    return {name: {side: torch.cat(found[f"{name}/{side}"]) for side in SIDES} for name in EVALUATORS}


def chunked_distances(
    queries: Complex[Tensor, "B d"], candidates: Complex[Tensor, "E d"], norm: str, budget: int = 1 << 25
) -> Float[Tensor, "B E"]:
    """Return `distances`, holding at most about `budget` moduli at once where the norm needs them all."""
    if norm != "l1":
        return distances(queries, candidates, norm)
    step = max(1, budget // max(1, queries.numel()))
    return torch.cat([distances(queries, part, norm) for part in torch.split(candidates, step)], dim=1)


def figures(ranks: dict[str, Float[Tensor, " n"]]) -> dict[str, float]:
    """Return MRR (over both sides, and each) and Hits@1/3/10 (the share of ranks that are not worse)."""
    both = torch.cat(list(ranks.values())).double()
    hits = {f"hits@{k}": float((both <= k).double().mean()) for k in HITS}
    sides = {f"mrr_{side}": float(of_side.double().reciprocal().mean()) for side, of_side in ranks.items()}
    return {"mrr": float(both.reciprocal().mean()), **sides, **hits, "ranks": float(len(both))}
