r"""Relations that training never asks for: rehearsed by heads that some relations are kept from.

What is fitted to the few relations that training asks for knows these, and takes any other for one of them:
it unlearns what the frozen encoder knows of all. So the relations are dealt into folds, and for each fold
the relation heads are fitted anew to the questions of all other relations. They meet the relations of their
fold as the system will meet new ones (stacked generalization with groups; Wolpert 1992,
doi:10.1016/S0893-6080(05)80023-1), and tell two things that no question of a known relation could:

- how far to go from the encoder's own similarity, λ = 0, to the fitted relation head, λ = 1, by interpolating
  their weights (Wortsman et al. 2022, arXiv 2109.01903): `choose_trust`;
- what letters and doubts look like where a relation is new: `pipeline.model.judging` learns from their finds.
"""

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.memory.facts import Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.heads import RetrievalHeads
from pipeline.model.judging import first_right
from pipeline.model.ours import OurSystem
from pipeline.model.retrieval import Retrieval, Steps, fit_heads
from pipeline.model.system import Example
from pipeline.model.views import Views, batches

LOST = 0.005
"""Share of validation questions about known relations that may be lost for the sake of new ones."""


class Rehearsed(NamedTuple):
    """Heads, and the relations that they were not fitted to."""

    heads: RetrievalHeads
    relations: frozenset[int]


def rehearse(
    fresh: RetrievalHeads,
    fitted: RetrievalHeads,
    memory: KnowledgeMemory,
    ask: Callable[[RetrievalHeads, Int[Tensor, " B"]], Query],
    slots: Int[Tensor, "B 3"],
    settings: Retrieval,
    draw: random.Random,
    steps: Steps,
) -> list[Rehearsed]:
    """Return heads for each fold of the relations, fitted to the questions that ask for none of the fold.

    Args:
        fresh: the heads as they were before they were fitted; copied.
        fitted: the heads that were fitted to all questions; theirs is the entity head of all folds.
        memory: gives the vectors of relations.
        ask: gives the query by given heads of the questions whose numbers it is given.
        slots: what these questions ask for, as in `pipeline.model.retrieval.fit_heads`.
        settings: number of folds, steps, learning rate.
        draw: deals the relations out.
        steps: wraps the iteration, for a progress bar.
    """
    asked = sorted(set(slots[:, 1].tolist()))
    folds = min(settings.relation_folds, len(asked))
    if folds < 2:
        return []
    draw.shuffle(asked)
    found = []
    for fold in (frozenset(asked[start::folds]) for start in range(folds)):
        inside = torch.isin(slots[:, 1:], torch.tensor(sorted(fold), device=slots.device)).any(dim=1)
        others = (~inside).nonzero()[:, 0]
        heads = deepcopy(fresh)
        heads.entity.load_state_dict(fitted.entity.state_dict())
        heads.entity_log_scale.data.copy_(fitted.entity_log_scale)
        if len(others):
            fit_heads(heads, memory, _of(ask, heads, others), slots[others], settings, steps, entities=False)
        found.append(Rehearsed(heads, fold))
    return found


def _of(
    ask: Callable[[RetrievalHeads, Int[Tensor, " B"]], Query], heads: RetrievalHeads, rows: Int[Tensor, " n"]
) -> Callable[[Int[Tensor, " B"]], Query]:
    return lambda drawn: ask(heads, rows[drawn])


def unfamiliar(system: OurSystem, rehearsed: Sequence[Rehearsed], examples: Sequence[Example]) -> Views:
    """Return each fold's heads with those of the examples that ask for a relation which they don't know."""
    gold = [example.via[0] if example.via else example.gold[0] for example in examples if example.gold]
    relations = iter(system.memory.triples[gold][:, 1].tolist())
    asked = [(example, next(relations)) for example in examples if example.gold]
    return [(heads, [e for e, relation in asked if relation in fold]) for heads, fold in rehearsed]


@torch.no_grad()
def choose_trust(
    system: OurSystem, rehearsed: Sequence[Rehearsed], valid: Sequence[Example], trusts: Sequence[float]
) -> dict[str, float]:
    """Move the relation heads of the system, and of the folds, a share λ of the way from the encoder's own.

    Chosen is the λ by which most validation questions are answered by the first fact that heads find which
    don't know the relation, among those that lose at most `LOST` of all validation questions, asked by the
    system's own heads, against λ = 1; on a tie the largest.

    Args:
        system: its relation head is moved.
        rehearsed: theirs are too.
        valid: validation questions with gold facts.
        trusts: λ that are tried; 1 is always among them.

    Returns:
        By λ the accuracy on relations that the heads know and, with the suffix ` new`, on those that they
        don't; under `chosen` the λ.
    """
    views = [view for view in unfamiliar(system, rehearsed, valid) if view[1]]
    if not views:
        return {"chosen": 1.0}
    known, new = {}, {}
    for trust in sorted({1.0, *trusts}):
        known[trust] = _accuracy(system, [(system.heads, valid)], trust)
        new[trust] = _accuracy(system, views, trust)
    least = known[1.0] - LOST
    chosen = max((t for t in known if known[t] >= least), key=lambda t: (new[t], t))
    for heads in (system.heads, *(fold.heads for fold in rehearsed)):
        heads.trust(chosen)
    figures = {f"{trust:g}": value for trust, value in known.items()}
    return figures | {f"{trust:g} new": value for trust, value in new.items()} | {"chosen": chosen}


def _accuracy(system: OurSystem, views: Views, trust: float) -> float:
    """Return the share of questions that the first fact answers, found by heads that are trusted so far."""
    moved = [(deepcopy(heads), examples) for heads, examples in views]
    for heads, _ in moved:
        heads.trust(trust)
    right = 0
    for batch in batches(system, moved):
        found = system.memory.search(system.query([example.text for example in batch]))
        right += int(first_right(found, batch).sum())
    return right / sum(len(examples) for _, examples in views)
