"""Questions whose answers a graph tells snapshot by snapshot: of the data set itself, or by template.

A question is a text and the way to its answer: an entity, one relation, and maybe another one after it. What
is right in a snapshot are the names that the way leads to there, so that one question has an answer for each.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.kg.chains import chains
from pipeline.kg.facts import FOLDS, Graph, Ids
from pipeline.kg.slots import Mask, Slots, sample

SHARE = 0.2
"""Of templated questions that are about one relation, at most."""
KEPT_OUT = ("train", "valid", "unanswerable")
"""Splits of a data set's own questions that are not asked."""
KINDS = ("template", "human", "multihop")
"""Their kinds that are."""
HOPS = ("single", "multi")

Told = tuple[str, ...] | None
"""Right answers in a snapshot; None where the way forks on it."""


@dataclass(frozen=True)
class Way:
    """A question, and the way to its answer."""

    text: str
    head: int
    relations: tuple[int, ...]

    @property
    def hops(self) -> str:
        """Whether it leads over one fact or over several."""
        return HOPS[len(self.relations) > 1]


class Snapshots:
    """The first snapshots of a graph.

    Args:
        graph: the graph.
        most: how many changes of snapshot are followed at most; 0 for all.
    """

    def __init__(self, graph: Graph, most: int = 0) -> None:
        self.graph = graph
        self.slots = Slots(graph, graph.nouns)
        last = min(graph.last_snapshot, most or graph.last_snapshot)
        self.live = [graph.live(number) for number in range(last + 1)]
        pairs = zip([self.live[0], *self.live], self.live, strict=False)
        self.moved: list[Mask] = [self.slots.count(before ^ after) > 0 for before, after in pairs]
        """Which slots each snapshot changes, none by the base: [S] each."""

    def answers(self, way: Way, snapshot: int) -> Told:
        """Return what is right in a snapshot: nothing where a fact lacks, None where two lead on."""
        head = way.head
        for relation in way.relations[:-1]:
            facts = self._facts(head, relation, snapshot)
            if len(facts) != 1:
                return None if facts else ()
            head = int(self.graph.triples[facts[0], 2])
        facts = self._facts(head, way.relations[-1], snapshot)
        return tuple(self.slots.answers(facts)) if facts else ()

    def told(self, ways: Sequence[Way]) -> list[list[Told]]:
        """Return what is right in each snapshot, of each way."""
        return [[self.answers(way, number) for number in range(len(self.live))] for way in ways]

    def _facts(self, head: int, relation: int, snapshot: int) -> list[int]:
        code = head * len(self.slots.nouns) + relation
        slot = int(np.searchsorted(self.slots.codes, code))
        there = slot < len(self.slots.codes) and self.slots.codes[slot] == code
        return self.slots.facts(slot, self.live[snapshot]) if there else []


def own_ways(graph: Graph, questions: pa.Table) -> list[Way]:
    """Return the questions that came with the data; texts that ask for two things are left out."""
    found: dict[str, set[tuple[int, tuple[int, ...]]]] = {}
    for row in questions.to_pylist():
        if row["split"] in KEPT_OUT or row["kind"] not in KINDS or not row["facts"]:
            continue
        hops = [graph.triples[facts[0], :2].tolist() for facts in graph.hops(row["facts"])]
        if (len(hops) > 1) == (row["kind"] == "multihop"):
            relations = tuple(relation for _, relation in hops)
            found.setdefault(row["text"], set()).add((hops[0][0], relations))
    return [Way(text, *next(iter(ways))) for text, ways in sorted(found.items()) if len(ways) == 1]


@dataclass(frozen=True)
class Templates:
    """How questions are made where the data set has none."""

    wordings: Sequence[str]
    """Templates of {noun} and {name}."""
    folds: Sequence[str]
    """Folds of the slots that are asked about, or about whose answer."""
    singles: int
    """Questions over one fact about what never changes, at most; 0 for all."""
    chains: int
    """Questions over two facts for each snapshot and place of the change, at most; 0 for all, -1 for none."""

    def ways(self, given: Snapshots, random: np.random.Generator) -> list[Way]:
        """Return questions about every slot that changes, some others, and chains with such slots.

        Slots that share label and noun with another one are left out.
        """
        slots, labels, nouns = given.slots, given.graph.labels, given.graph.nouns
        known = ~slots.twins
        askable = known & np.isin(slots.fold, [FOLDS.index(fold) for fold in self.folds])
        ever = np.any(given.moved, axis=0)
        steady = ~ever & (slots.count(given.live[0]) > 0)
        still = np.flatnonzero(askable & steady)
        still = still[drawn(slots.relations[still], self.singles, SHARE, random)]
        single = np.concatenate([np.flatnonzero(askable & ever), still])
        found: list[tuple[int, tuple[int, ...]]] = [
            (int(slots.heads[s]), (int(slots.relations[s]),)) for s in single
        ]
        most = 2 * self.chains or len(askable)  # some of them have no sure answer before or after
        for number, moved in enumerate(given.moved if self.chains >= 0 else []):
            pairs = [(askable & moved, known), (askable, known & moved)]
            for first, second in pairs if number else [(askable & steady, known & steady)]:
                one, two = chains(slots, first, second, given.live[number], most, SHARE, random)
                relations = zip(slots.relations[one].tolist(), slots.relations[two].tolist(), strict=True)
                found += zip(slots.heads[one].tolist(), relations, strict=True)
        texts: dict[tuple[int, tuple[int, ...]], str] = {}
        for head, path in dict.fromkeys(found):
            name = labels[head]
            for relation in path[:-1]:
                name = f"the {nouns[relation]} of {name}"
            template = self.wordings[int(random.integers(len(self.wordings)))]
            texts[head, path] = template.replace("{noun}", nouns[path[-1]]).replace("{name}", name)
        once = Counter(texts.values())
        return [Way(text, *way) for way, text in texts.items() if once[text] == 1]


def drawn(relations: Ids, most: int, share: float, random: np.random.Generator) -> Ids:
    """Return places of `relations` in a random order, `most` of them (0 for all), none above its share."""
    order = random.permutation(len(relations))
    return sample(relations, most, share, order) if 0 < most < len(relations) else order
