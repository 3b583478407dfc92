"""What is asked of a method at each snapshot of a graph, and what is right there.

What a snapshot did to a question puts it into a group:

| group | before the snapshot | after it |
|---|---|---|
| changed | other names | none of them any more |
| inserted | no fact | one or more |
| earlier | changed or inserted by an earlier snapshot | the same names |
| unchanged | the same in every snapshot | the same names |

`coming` are the questions of `changed` one snapshot before. A question is asked in a snapshot only if its
facts are there. Those that lose their facts, keep some names and lose others, or lead over two entities at
once have no sure answer and are counted, not asked.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pipeline.config import UserError
from pipeline.evaluation.metrics import normalise
from pipeline.evaluation.ways import HOPS, SHARE, Snapshots, Templates, Told, Way, drawn, own_ways
from pipeline.kg.facts import FOLDS, Graph, Ids


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Who walks through the snapshots, how far, and how much is asked."""

    entries: list[str]
    """Methods, as in conf/variants; the first is compared with each other one."""
    snapshots: int
    """Changes of snapshot that are followed at most; 0 follows all."""
    slots: int
    """Slots that change at most, over all snapshots, those that are asked about first; 0 changes all."""
    questions: int
    """Questions over one fact of each group, at most, in each snapshot; 0 asks all."""
    multi_hop: int
    """The same of questions over two facts; 0 asks all, -1 none."""
    folds: list[str]
    """Folds of the entities that templated questions are about; a data set's own are asked as they are."""
    seeds: list[int]
    """Of the draws; SEED in paths.adapters becomes each of them."""
    wordings: list[str]
    """Templates of {noun} and {name}, where the data set has no questions of its own."""
    batch_size: int
    """Questions at a time."""
    bootstrap_samples: int
    """Resamples behind each interval."""
    folder: str
    """Where tables and base memory of a data set that the command names (`data=pat`) are made, once."""

    def __post_init__(self) -> None:
        for name in ("entries", "folds", "seeds", "wordings"):
            if not getattr(self, name):
                raise ValueError(f"timeline.{name} must not be empty")
        if min(self.snapshots, self.slots, self.questions, self.multi_hop + 1) < 0:
            raise ValueError(
                "timeline.snapshots, slots and questions must be 0 or more, and multi_hop -1 or more"
            )
        if min(self.batch_size, self.bootstrap_samples) < 1:
            raise ValueError("timeline.batch_size and bootstrap_samples must be at least 1")
        if odd := set(self.folds) - set(FOLDS):
            known = ", ".join(FOLDS)
            raise ValueError(f"timeline.folds must be some of {known}, not {', '.join(sorted(odd))}")
        for template in self.wordings:
            if not all(template.count(part) == 1 for part in ("{noun}", "{name}")):
                raise ValueError(f"timeline.wordings hold {{noun}} and {{name}} once each, not {template!r}")


@dataclass(frozen=True)
class Due:
    """A question of one snapshot."""

    way: int
    """Its place among the ways."""
    group: str
    answers: tuple[str, ...]
    other: tuple[str, ...] = ()
    """What was right before, of one that changed; what will be, of one that is to change."""


@dataclass(frozen=True)
class Plan:
    """A graph's snapshots, and what is due in each."""

    graph: Graph
    """Its changes are those that are followed."""
    ways: list[Way]
    due: list[list[Due]]
    """By snapshot, the base first."""
    changed: list[int]
    """Slots that each snapshot changes."""
    counted: list[dict[str, dict[str, int]]]
    """How many questions there are, by snapshot, hops and effect."""


def planned(graph: Graph, questions: pa.Table, settings: Timeline, seed: int) -> Plan:
    """Return what is asked in each snapshot of `graph`.

    The data set's own `questions` are asked where the snapshots change any of them, else templates.

    Raises:
        UserError: there is only one snapshot, or no question that a snapshot changes.
    """
    if not graph.last_snapshot:
        raise UserError(
            "the data has one snapshot only, so nothing changes; choose data with several, such as "
            "data=world, data=pat, data=templama or data=temporalwiki-monthly"
        )
    random = np.random.default_rng([seed, 23])
    given = Snapshots(graph, settings.snapshots)
    ways, share = own_ways(graph, questions), 1.0
    if not _any_moves(given.told(ways)):
        made = Templates(settings.wordings, settings.folds, settings.questions, settings.multi_hop)
        ways, share = made.ways(given, random), SHARE
    given = limited(given, ways, settings.slots, random)
    told = given.told(ways)
    if not _any_moves(told):
        raise UserError(
            "no question is about what the snapshots change; raise timeline.snapshots or timeline.slots, or "
            "choose data of which entities of timeline.folds change"
        )
    sizes = dict(zip(HOPS, (settings.questions, settings.multi_hop), strict=True))
    due, counted = _Draw(ways, told, share, random).due({hops: n for hops, n in sizes.items() if n >= 0})
    return Plan(given.graph, ways, due, [int(mask.sum()) for mask in given.moved], counted)


def limited(given: Snapshots, ways: Sequence[Way], most: int, random: np.random.Generator) -> Snapshots:
    """Return the snapshots with `most` changing slots (0 for all): those that questions begin with first."""
    ever = np.flatnonzero(np.any(given.moved, axis=0))
    if not most or most >= len(ever):
        return given
    slots, graph = given.slots, given.graph
    heads, relations = (
        np.array(column, dtype=np.int64)
        for column in ([way.head for way in ways], [way.relations[0] for way in ways])
    )
    order = random.permutation(ever)
    order = order[np.argsort(~np.isin(slots.codes[order], slots.code(heads, relations)), kind="stable")]
    triples = graph.triples[graph.changes["fact"].to_numpy()]
    stays = np.isin(slots.code(triples[:, 0], triples[:, 1]), slots.codes[order[:most]])
    fewer = replace(graph, changes=graph.changes.filter(pa.array(stays)))
    return Snapshots(fewer, len(given.live) - 1)


def effect(before: Told, after: Told) -> str:
    """Return what a snapshot did to a question that had these answers before and has those after it."""
    if before is None or after is None:
        return "forked"
    old, new = ({normalise(name) for name in names} for names in (before, after))
    if old == new:
        return "same" if old else "absent"
    if not old or not new:
        return "inserted" if new else "lost"
    return "partly" if old & new else "changed"


def _effects(told: Sequence[Sequence[Told]]) -> list[list[str]]:
    """Return what each snapshot but the first did to each question."""
    return [[effect(*pair) for pair in pairwise(row)] for row in told]


def _any_moves(told: Sequence[Sequence[Told]]) -> bool:
    return any(set(effects) & {"changed", "inserted"} for effects in _effects(told))


class _Draw:
    """Draws what is asked when."""

    def __init__(
        self, ways: Sequence[Way], told: Sequence[Sequence[Told]], share: float, random: np.random.Generator
    ) -> None:
        self.ways, self.told, self.share, self.random = ways, told, share, random
        self.snapshots = len(told[0]) if told else 1
        self.effects = _effects(told)
        self.relations: Ids = np.array([way.relations[-1] for way in ways], dtype=np.int64)

    def due(self, sizes: dict[str, int]) -> tuple[list[list[Due]], list[dict[str, dict[str, int]]]]:
        """Return what is asked in each snapshot, and how many questions it does what to.

        Args:
            sizes: questions of a group at most, by hops; 0 for all.
        """
        due: list[list[Due]] = [[] for _ in range(self.snapshots)]
        counted: list[dict[str, dict[str, int]]] = [{} for _ in due]
        for hops, most in sizes.items():
            mine = [place for place, way in enumerate(self.ways) if way.hops == hops]
            steady = [place for place in mine if set(self.effects[place]) == {"same"}]
            for place in self._some(steady, most):
                for number, asked in enumerate(due):
                    asked.append(Due(place, "unchanged", self._right(place, number)))
            earlier: list[int] = []
            for number in range(1, self.snapshots):
                effects = {place: self.effects[place][number - 1] for place in mine}
                counted[number][hops] = dict(sorted(Counter(effects.values()).items()))
                earlier = [place for place in earlier if effects[place] == "same"]
                kept = sorted(self.random.permutation(earlier)[: most or None].tolist())
                due[number] += [Due(place, "earlier", self._right(place, number)) for place in kept]
                for group in ("changed", "inserted"):
                    chosen = self._some([place for place in mine if effects[place] == group], most)
                    for place in chosen:
                        old, new = self._right(place, number - 1), self._right(place, number)
                        if old:
                            due[number - 1].append(Due(place, "coming", old, new))
                        due[number].append(Due(place, group, new, old))
                    earlier += chosen
        return due, counted

    def _right(self, place: int, snapshot: int) -> tuple[str, ...]:
        return self.told[place][snapshot] or ()

    def _some(self, places: Sequence[int], most: int) -> list[int]:
        chosen = drawn(self.relations[list(places)], most, self.share, self.random)
        return sorted(places[place] for place in chosen.tolist())
