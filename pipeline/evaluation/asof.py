"""Questions about a time: slots of dated facts, of which some held on a day and others did not.

A slot is asked about where every fact of it has a start, at least one held on the day that is drawn, and at
least one did not, so that who ignores the day is often wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import UserError
from pipeline.kg.facts import Graph
from pipeline.kg.slots import Slots, sample
from pipeline.memory.dates import close, day
from pipeline.memory.facts import Fact
from pipeline.memory.graph import facts_of_graph

SHARE = 0.2
"""Of the questions that are about one relation, at most: teams are most of what Wikidata has dates of."""
FOLD = "test"


@dataclass(frozen=True, kw_only=True)
class AsOf:
    """Who is asked about the past, and what."""

    entries: list[str]
    """Methods with a memory, as in conf/variants."""
    questions: int
    """At most."""
    seeds: list[int]
    """Of the draw; SEED in paths.adapters becomes each of them."""
    wordings: list[str]
    """Templates of {noun} and {name}; none names the day."""
    batch_size: int
    """Questions at a time."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        if not self.entries or not self.seeds or not self.wordings:
            raise ValueError("asof.entries, seeds and wordings must not be empty")
        if min(self.questions, self.batch_size, self.bootstrap_samples) < 1:
            raise ValueError("asof: questions, batch_size and bootstrap_samples must be at least 1")
        for template in self.wordings:
            if not all(template.count(part) == 1 for part in ("{noun}", "{name}")):
                raise ValueError(f"asof.wordings hold {{noun}} and {{name}} once each, not {template!r}")


@dataclass(frozen=True)
class Dated:
    """A question with a day."""

    text: str
    year: str
    answers: tuple[str, ...]
    """Of the facts that held then."""
    others: tuple[str, ...]
    """Of the slot's facts that did not; none of them is right."""
    facts: tuple[int, ...]
    """All facts of the slot."""


def dated(graph: Graph, settings: AsOf, seed: int) -> list[Dated]:
    """Return questions about slots of held-out heads, each with a year.

    Raises:
        UserError: the graph has no such slot.
    """
    random = np.random.default_rng([seed, 19])
    slots, live = Slots(graph, graph.nouns), graph.live(0)
    starts, ends = (graph.facts[name].to_pylist() for name in ("start", "end"))
    folds = graph.facts["fold"].to_pylist()
    found: list[Dated] = []
    relations: list[int] = []
    for slot in np.flatnonzero((slots.count(live) > 1) & ~slots.twins).tolist():
        facts = slots.facts(slot, live)
        if folds[facts[0]] != FOLD or not all(starts[fact] for fact in facts):
            continue
        told: list[tuple[str, list[str], list[str]]] = []
        for year in sorted({starts[fact] for fact in facts}, key=day):
            held = [fact for fact in facts if _held(starts[fact], ends[fact], year)]
            right = slots.answers(held) if held else []
            wrong = [answer for answer in slots.answers(facts) if answer not in right]
            if right and wrong:
                told.append((year, right, wrong))
        if told:
            year, right, wrong = told[random.integers(len(told))]
            text = settings.wordings[random.integers(len(settings.wordings))]
            text = text.replace("{noun}", graph.nouns[slots.relations[slot]])
            text = text.replace("{name}", graph.labels[slots.heads[slot]])
            found.append(Dated(text, year, tuple(right), tuple(wrong), tuple(facts)))
            relations.append(int(slots.relations[slot]))
    if not found:
        raise UserError(
            "the graph has no held-out slot of several dated facts; choose data with dates, such as "
            "data=wikidata_slice"
        )
    order = random.permutation(len(found))
    chosen = sample(np.array(relations, dtype=np.int64), settings.questions, SHARE, order)
    return [found[place] for place in sorted(chosen.tolist())]


def _held(start: str, end: str, year: str) -> bool:
    """Return whether a fact held throughout the first day of `year`; its own last year is one it held in."""
    return day(start) <= day(year) and (not end or day(year) < day(close(end)))


def periods(graph: Graph, facts: Sequence[int]) -> list[Fact]:
    """Return facts with their dates; an end in the tables, the last year they held in, goes to its close."""
    starts, ends = graph.facts["start"], graph.facts["end"]
    told = []
    for row, fact in zip(facts, facts_of_graph(graph, facts), strict=True):
        start, end = starts[row].as_py(), ends[row].as_py()
        told.append(replace(fact, start=start, end=close(end) if end else ""))
    return told
