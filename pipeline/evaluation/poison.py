"""False updates, and what may be done against them.

Before the questions are asked, a share of the slots that they ask for gets a false update. Its value is one
that the relation leads to elsewhere, or any entity. Four kinds of it:

- `noise`: the false value is added beside the right one.
- `conflict`: it supersedes the right one, in the name of a source that nobody knows.
- `dated`: the same, and it claims to hold from today on: a date counts for more than a source.
- `forged`: it supersedes the right one in the name of the trusted source itself.

Defences, alone or `all` together:

- `provenance`: what the trusted source says stands against unknown ones (`memory.sources`). All right facts
  of the slots in question are on record as its own.
- `plausibility`: an update passes only where RotatE finds it plausible (`pipeline.kg.plausibility`); the
  limit keeps a given share of true facts that RotatE was not trained on.
- `apart`: facts are read one by one, and what most of their probability says is answered
  (`pipeline.model.isolation`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from pipeline.config import UserError
from pipeline.evaluation.runs import Question
from pipeline.kg.facts import Graph, Ids
from pipeline.kg.plausibility import Accepts
from pipeline.memory.dates import today
from pipeline.memory.facts import Fact
from pipeline.memory.graph import facts_of_graph
from pipeline.memory.store import KnowledgeMemory

ATTACKS = ("noise", "conflict", "dated", "forged")
DEFENCES = ("none", "provenance", "plausibility", "apart", "all")
UNKNOWN = "unknown"
"""The source of false updates that don't lie about it."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What is attacked, how, and how it is defended."""

    entries: list[str]
    """Methods, as in conf/variants."""
    attacks: list[str]
    """Of `ATTACKS`."""
    shares: list[float]
    """Of the slots that are asked for, which get a false update."""
    defences: list[str]
    """Of `DEFENCES`; `apart` is for `ours` alone."""
    values: str
    """Where false values come from: `relation`, tails of the same relation, or `any` entity."""
    trusted: str
    """Name of the source that is trusted."""
    kept: float
    """Share of true facts that the sieve of plausibility lets pass."""
    split: str
    """Whose questions are asked; their slots are attacked."""
    changed: str
    """Split of slots that change: what a defence costs true updates is measured by it."""
    questions: int
    """Questions of each split at most; 0 for all."""
    seeds: list[int]
    """Of the draws; SEED in paths.adapters becomes each of them."""
    batch_size: int
    """Questions at a time."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        for name, known in (("attacks", ATTACKS), ("defences", DEFENCES)):
            given = getattr(self, name)
            if not given or not set(given) <= set(known):
                raise ValueError(f"robustness.{name} must be some of {', '.join(known)}, not {given}")
        if not self.entries or not self.seeds:
            raise ValueError("robustness.entries and robustness.seeds must not be empty")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"robustness.shares must be in (0, 1], not {self.shares}")
        if self.values not in ("relation", "any"):
            raise ValueError(f"robustness.values must be relation or any, not {self.values!r}")
        if not 0 < self.kept <= 1 or self.questions < 0 or min(self.batch_size, self.bootstrap_samples) < 1:
            raise ValueError(
                "robustness: kept must be in (0, 1], questions at least 0, batch_size and bootstrap_samples "
                "at least 1"
            )

    def conditions(self, apart: bool) -> Iterator[tuple[str, str, float]]:
        """Return every defence with every attack and share, and each defence without an attack first.

        Args:
            apart: whether the method can read facts apart.
        """
        for defence in self.defences:
            if defence != "apart" or apart:
                yield defence, "", 0.0
                yield from ((defence, *both) for both in product(self.attacks, self.shares))


@dataclass(frozen=True)
class Poison:
    """The false updates of an attack."""

    facts: list[Fact]
    rows: Ids
    """Head, relation and tail of each by their ids in the tables: [n, 3]."""
    supersedes: bool
    questions: list[int]
    """Places of the questions whose slots are attacked."""
    answers: list[str]
    """What each of them should be answered with, if the attack had its way."""


def poison(
    graph: Graph, asked: Sequence[Question], attack: str, share: float, settings: Robustness, seed: int
) -> Poison:
    """Return false updates for a share of the questions' slots; a larger share holds the smaller ones.

    Raises:
        UserError: a relation leads to nothing but right answers.
    """
    random = np.random.default_rng([seed, 13])
    order = random.permutation(len(asked))
    values = [_false(graph, asked[place], settings.values, random) for place in order.tolist()]
    count = max(1, round(share * len(asked)))
    places = order[:count].tolist()
    slots = [graph.triples[asked[place]["facts"][0], :2].tolist() for place in places]
    rows = np.array([[*slot, value] for slot, value in zip(slots, values, strict=False)], dtype=np.int64)
    keys, relations = graph.entities["key"].to_pylist(), graph.relations["key"].to_pylist()
    source = settings.trusted if attack == "forged" else UNKNOWN
    start = today() if attack == "dated" else ""
    facts = [
        replace(
            Fact(keys[h], relations[r], keys[t], graph.labels[h], graph.nouns[r], graph.labels[t]),
            source=source,
            start=start,
        )
        for h, r, t in rows.tolist()
    ]
    answers = [graph.labels[tail] for tail in rows[:, 2].tolist()]
    return Poison(facts, rows, attack != "noise", places, answers)


def _false(graph: Graph, question: Question, values: str, random: np.random.Generator) -> int:
    """Return an entity that doesn't answer the question."""
    relation = graph.triples[question["facts"][0], 1]
    live = graph.triples[graph.live(0)]
    pool = np.unique(live[live[:, 1] == relation, 2]) if values == "relation" else np.unique(live[:, 2])
    right = set(question["answers"])
    for tail in random.permutation(pool).tolist():
        if graph.labels[tail] not in right:
            return int(tail)
    raise UserError(
        f"the relation {graph.relation_labels[relation]!r} leads to right answers alone; "
        "set robustness.values=any"
    )


def vouch(memory: KnowledgeMemory, graph: Graph, facts: Sequence[int], trusted: str) -> None:
    """Put facts of the tables on record in the name of a source."""
    memory.upsert([replace(fact, source=trusted) for fact in facts_of_graph(graph, facts)])


def infect(memory: KnowledgeMemory, given: Poison, accepts: Accepts | None) -> int:
    """Write the false updates that pass the sieve, and return how many did."""
    passed = np.ones(len(given.facts), dtype=np.bool_) if accepts is None else accepts(given.rows)
    facts = [fact for fact, good in zip(given.facts, passed.tolist(), strict=True) if good]
    for fact in facts:
        memory.upsert([fact], replace=given.supersedes)
    return len(facts)
