"""Facts grouped into slots: a slot is a (head, relation) pair, and its answer is the set of its tails."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.kg.facts import FOLDS, Graph, Ids

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Slots:
    """The slots of every snapshot, sorted by head and relation, with the facts of each."""

    graph: Graph
    nouns: list[str]
    """What a relation's tail is called, by relation id; the question's wording depends on it."""

    @cached_property
    def _grouped(self) -> tuple[Ids, Ids, Ids]:
        """Slot codes [S], fact ids in slot order [M], and where each slot's facts start [S + 1]."""
        codes = self.code(self.graph.triples[:, 0], self.graph.triples[:, 1])
        order = np.argsort(codes, kind="stable")
        unique, starts = np.unique(codes[order], return_index=True)
        return unique, order, np.append(starts, len(codes))

    def code(self, heads: Ids, relations: Ids) -> Ids:
        """Return one number a (head, relation) pair."""
        result: Ids = heads * len(self.nouns) + relations
        return result

    @property
    def codes(self) -> Ids:
        """The code of each slot, ascending: [S]."""
        return self._grouped[0]

    @cached_property
    def heads(self) -> Ids:
        """The head entity of each slot: [S]."""
        return self.codes // len(self.nouns)

    @cached_property
    def relations(self) -> Ids:
        """The relation of each slot: [S]."""
        return self.codes % len(self.nouns)

    @cached_property
    def fold(self) -> Ids:
        """The fold of each slot as an index into FOLDS; all facts of a slot share it: [S]."""
        folds = pc.index_in(self.graph.facts["fold"], pa.array(FOLDS)).to_numpy()
        _, order, bounds = self._grouped
        return np.asarray(folds, dtype=np.int64)[order[bounds[:-1]]]

    def facts(self, slot: int, live: Mask) -> list[int]:
        """Return the ids of the facts of `slot` that `live` [M] names, ascending."""
        _, order, bounds = self._grouped
        mine = order[bounds[slot] : bounds[slot + 1]]
        return [int(fact) for fact in mine[live[mine]]]

    def answers(self, facts: list[int]) -> list[str]:
        """Return the labels of the tails of `facts`, each once, in the order of the facts."""
        tails = self.graph.triples[facts, 2]
        return list(dict.fromkeys(self.graph.labels[tail] for tail in tails))

    def count(self, of: Mask) -> Ids:
        """Return how many facts of each slot are in the mask `of` [M]: [S]."""
        _, order, bounds = self._grouped
        return np.add.reduceat(of[order].astype(np.int64), bounds[:-1])

    @cached_property
    def names(self) -> Ids:
        """A number per entity that entities of the same label (case aside) share: [E]."""
        return _groups(self.graph.labels)

    @cached_property
    def _noun_groups(self) -> Ids:
        return _groups(self.nouns)

    def wording(self, heads: Ids, relations: Ids) -> Ids:
        """Return one number a (label, noun) pair: slots that share it are asked in the same words."""
        result: Ids = self.names[heads] * len(self.nouns) + self._noun_groups[relations]
        return result

    @cached_property
    def wordings(self) -> Ids:
        """The wording of each slot: [S]."""
        return self.wording(self.heads, self.relations)

    @cached_property
    def twins(self) -> Mask:
        """Which slots can't be told from another by label and noun: [S]."""
        _, inverse, counts = np.unique(self.wordings, return_inverse=True, return_counts=True)
        return np.asarray(counts[inverse] > 1)


def _groups(texts: list[str]) -> Ids:
    _, inverse = np.unique(np.array([text.casefold() for text in texts]), return_inverse=True)
    return inverse.astype(np.int64)


def sample(relations: Ids, size: int, share: float, order: Ids) -> Ids:
    """Return at most `size` positions of `relations`, taken in `order`, no relation above its share.

    A hub such as "sports team" is a sixth of Wikidata's facts: uncapped it would be most of what a split
    measures. The share is of the size asked for, and never below an even share of the relations present.

    Args:
        relations: the relation of each position.
        size: how many positions to take at most.
        share: the largest part of the sample that one relation may have, in (0, 1].
        order: every position once, the preferred ones first.
    """
    wanted = min(size, len(relations))
    if wanted == 0:
        return np.empty(0, dtype=np.int64)
    ordered = relations[order]
    quota = int(np.ceil(max(share, 1 / len(np.unique(relations))) * wanted))
    by_relation = np.argsort(ordered, kind="stable")
    grouped = ordered[by_relation]
    starts = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[by_relation] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    kept: Ids = order[rank < quota][:wanted]
    return kept
