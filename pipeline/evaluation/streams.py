"""A stream of edits: what is told and asked after one changed slot, ten, a hundred.

Between its first and its last snapshot a graph changes many slots at once. Here they change in steps, in an
order that a seed draws, and after each step the same things are asked of every method, whether it reads a
memory or has its weights edited: the terms are those of model editing (efficacy, generality, portability,
locality; Yao et al., arXiv 2305.13172).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.config import UserError
from pipeline.kg.facts import SCHEMAS, Graph, Ids
from pipeline.kg.slots import Mask, Slots

EDITED = ("told", "other", "portable")
"""Kinds of questions about slots that change: in the wording that editors get, in another one, and about what
the new value leads to."""
UNTOUCHED = ("beside", "far")
"""Kinds of questions about slots that don't: of an entity that changes, and of one that doesn't."""


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Who is edited, how often, and what is asked."""

    entries: list[str]
    """Methods, as in conf/variants."""
    lengths: list[int]
    """Slots that have changed after each step; longer ones than the graph has are left out."""
    seeds: list[int]
    """Of the order in which slots change; SEED in paths.adapters becomes each of them."""
    unchanged: int
    """Questions of either kind about untouched slots."""
    told: list[str]
    """Templates of {noun} and {name}: the wording of edits."""
    other: list[str]
    """Templates of other wordings."""
    batch_size: int
    """Questions at a time."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        for name in ("entries", "lengths", "seeds", "told", "other"):
            if not getattr(self, name):
                raise ValueError(f"streams.{name} must not be empty")
        if self.lengths != sorted(set(self.lengths)) or self.lengths[0] < 1:
            raise ValueError(f"streams.lengths must rise from 1 or more, not {self.lengths}")
        if min(self.unchanged, self.batch_size, self.bootstrap_samples) < 1:
            raise ValueError("streams: unchanged, batch_size and bootstrap_samples must be at least 1")
        for template in (*self.told, *self.other):
            if not all(template.count(part) == 1 for part in ("{noun}", "{name}")):
                raise ValueError(f"streams: a template holds {{noun}} and {{name}} once, not {template!r}")


@dataclass(frozen=True)
class Asked:
    """A question of a stream."""

    kind: str
    step: int
    """The step from which on its answers are right; 0 for untouched slots."""
    text: str
    answers: tuple[str, ...]
    former: tuple[str, ...]
    """Answers that were right before that step and no longer are."""


@dataclass(frozen=True)
class Stream:
    """Edits in steps, and what is asked about them."""

    graph: Graph
    """Its snapshots are the steps."""
    lengths: list[int]
    asked: list[Asked]


def stream(graph: Graph, settings: Streams, seed: int) -> Stream:
    """Return a stream of the slots of `graph` that get a value between its first and last snapshot.

    Slots that share label and noun with another one are left alone, for no question tells them apart, and so
    are changes that no answer in words would show.

    Raises:
        UserError: no slot gets a value.
    """
    made = _Making(graph, settings, np.random.default_rng([seed, 11]))
    edits = made.edits()[: settings.lengths[-1]]
    if not len(edits):
        raise UserError(
            "the graph has no slot that gets another value; choose data with several snapshots (world, pat, "
            "templama, temporalwiki)"
        )
    lengths = [length for length in settings.lengths if length < len(edits)]
    lengths += [len(edits)] if len(lengths) < len(settings.lengths) else []
    steps = np.searchsorted(lengths, np.arange(len(edits)), side="right") + 1
    asked = [
        question for slot, step in zip(edits, steps, strict=True) for question in made.edited(slot, step)
    ]
    return Stream(made.staged(edits, steps), lengths, asked + made.untouched(edits))


class _Making:
    """Makes a stream of a graph."""

    def __init__(self, graph: Graph, settings: Streams, random: np.random.Generator) -> None:
        self.graph, self.settings, self.random = graph, settings, random
        self.slots = Slots(graph, graph.nouns)
        self.before, self.after = graph.live(0), graph.live(graph.last_snapshot)
        self.same: Mask = (self.slots.count(self.before ^ self.after) == 0) & (
            self.slots.count(self.after) > 0
        )

    def edits(self) -> Ids:
        """Return the slots that change, in their order."""
        fresh = self.slots.count(self.after & ~self.before) > 0
        shuffled = self.random.permutation(np.flatnonzero(fresh & ~self.slots.twins))
        shown = [slot for slot in shuffled.tolist() if not set(self.told(slot)) <= set(self.former(slot))]
        return np.array(shown, dtype=np.int64)

    def told(self, slot: int) -> list[str]:
        """Return the answers to a slot in the end."""
        return self.slots.answers(self.slots.facts(slot, self.after))

    def former(self, slot: int) -> list[str]:
        """Return the answers to a slot in the beginning."""
        facts = self.slots.facts(slot, self.before)
        return self.slots.answers(facts) if facts else []

    def staged(self, edits: Ids, steps: Ids) -> Graph:
        """Return the graph with the edits of each step as its changes; what is not edited stays."""
        gone, come = self.before & ~self.after, self.after & ~self.before
        rows: list[tuple[int, str, int]] = []
        for step in range(1, int(steps.max()) + 1):
            mine = edits[steps == step].tolist()
            rows += [(step, "delete", fact) for slot in mine for fact in self.slots.facts(slot, gone)]
            rows += [(step, "upsert", fact) for slot in mine for fact in self.slots.facts(slot, come)]
        columns = [list(column) for column in zip(*rows, strict=True)]
        return replace(self.graph, changes=pa.table(columns, schema=SCHEMAS["changes"]))

    def edited(self, slot: int, step: int) -> list[Asked]:
        """Return what is asked about a slot from `step` on."""
        name, right = self.graph.labels[self.slots.heads[slot]], self.told(slot)
        lost = [answer for answer in self.former(slot) if answer not in right]
        found = [self._asked(kind, step, slot, name, right, lost) for kind in ("told", "other")]
        later = self._led_to(slot)
        if later is not None:
            noun = self.graph.nouns[self.slots.relations[slot]]
            found.append(self._asked("portable", step, later, f"the {noun} of {name}", self.told(later), ()))
        return found

    def _led_to(self, slot: int) -> int | None:
        """Return an untouched slot of the new value, where it is the only one and has any."""
        facts = self.slots.facts(slot, self.after)
        if len(facts) != 1:
            return None
        tail = self.graph.triples[facts[0], 2]
        first, last = np.searchsorted(self.slots.heads, [tail, tail + 1])
        mine = np.arange(first, last)
        mine = mine[self.same[mine] & ~self.slots.twins[mine]]
        name = self.graph.labels[self.slots.heads[slot]]
        mine = np.array([one for one in mine.tolist() if name not in self.told(one)], dtype=np.int64)
        return int(self.random.choice(mine)) if len(mine) else None

    def untouched(self, edits: Ids) -> list[Asked]:
        """Return what is asked about slots that don't change."""
        found: list[Asked] = []
        changing = np.isin(self.slots.heads, self.slots.heads[edits])
        askable = self.same & ~self.slots.twins
        for kind, pool in (("beside", askable & changing), ("far", askable & ~changing)):
            drawn = self.random.permutation(np.flatnonzero(pool))[: self.settings.unchanged]
            for slot in drawn.tolist():
                name = self.graph.labels[self.slots.heads[slot]]
                found.append(self._asked(kind, 0, slot, name, self.told(slot), ()))
        return found

    def _asked(
        self, kind: str, step: int, slot: int, name: str, right: Sequence[str], lost: Sequence[str]
    ) -> Asked:
        templates = self.settings.told if kind == "told" else self.settings.other
        template = templates[self.random.integers(len(templates))]
        noun = self.graph.nouns[self.slots.relations[slot]]
        text = template.replace("{noun}", noun).replace("{name}", name)
        return Asked(kind, int(step), text, tuple(right), tuple(lost))
