"""Which fact a method finds first, over the number of facts that it is told apart from (AtlasKV, table 3).

The same questions are asked in several wordings of memories of growing size: each holds the fact that answers
each question of a group and random others. A memory smaller than the number of questions is asked by as many
groups as it takes; one larger than the graph holds generated facts too (`pipeline.evaluation.distractors`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import UserError
from pipeline.evaluation.distractors import VECTORS
from pipeline.kg.facts import Graph
from pipeline.memory.graph import Correspondence
from pipeline.model.system import System

DEPTH = 5
"""Places that are looked at."""
AS_ASKED = "as_asked"
"""The wording that a question has in the data."""


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """What is asked, of what."""

    methods: list[str]
    """Files of conf/method, each perhaps with other values and an adapter folder of its own, as in
    `atlaskv:roots=0@FOLDER`; `rag` stands for its frozen encoder and needs no adapter."""
    sizes: list[int]
    """Numbers of facts in the memory; what the data lacks is generated."""
    distractors: str
    """Vectors of the names that are generated: `mixed` from real ones or `encoded`, which wants a GPU."""
    seeds: list[int]
    """Of the questions and of the other facts; SEED in paths.adapters becomes each of them."""
    questions: int
    """Questions of each seed; fewer where the split has fewer."""
    split: str
    """Where they come from."""
    kinds: list[str]
    """Kinds of questions, all drawn alike; where there are any of the first kind, only those."""
    wordings: dict[str, list[str]]
    """Templates of {noun} and {name} by name; beside them a question is asked as it stands in the data."""
    batch_size: int
    """Questions at a time."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        for name in ("methods", "sizes", "seeds", "kinds"):
            if not getattr(self, name):
                raise ValueError(f"grounding.{name} must not be empty")
        if min(self.sizes) < 1 or min(self.questions, self.batch_size, self.bootstrap_samples) < 1:
            raise ValueError(
                "grounding: sizes, questions, batch_size and bootstrap_samples must be at least 1"
            )
        if self.distractors not in VECTORS:
            raise ValueError(
                f"grounding.distractors must be one of {', '.join(VECTORS)}, not {self.distractors!r}"
            )
        for name, templates in self.wordings.items():
            if not templates or not all("{noun}" in t and "{name}" in t for t in templates):
                raise ValueError(f"grounding.wordings.{name} must hold templates with {{noun}} and {{name}}")


@dataclass(frozen=True)
class Probe:
    """A question in all its wordings."""

    id: int
    texts: dict[str, str]
    facts: list[int]
    """Facts of the tables that answer it; a memory holds the first one at least."""


def probes(graph: Graph, questions: pa.Table, settings: Grounding, seed: int) -> list[Probe]:
    """Return the questions of a seed.

    Raises:
        UserError: the split has no question of these kinds.
    """
    live = set(np.flatnonzero(graph.live(0)).tolist())
    asked = questions.filter(pc.equal(questions["split"], settings.split)).sort_by("id").to_pylist()
    for kind in settings.kinds:
        rows = [row for row in asked if row["kind"] == kind and any(fact in live for fact in row["facts"])]
        if rows:
            break
    else:
        raise UserError(
            f"no question of kind {' or '.join(settings.kinds)} in the split {settings.split!r}; "
            "choose others in conf/grounding"
        )
    draw = np.random.default_rng([seed, *settings.split.encode()])
    chosen = draw.permutation(len(rows))[: settings.questions]
    found = []
    for row in (rows[place] for place in sorted(chosen.tolist())):
        facts = [fact for fact in row["facts"] if fact in live]
        head, relation, _ = graph.triples[facts[0]].tolist()
        texts = {
            name: _fill(templates[draw.integers(len(templates))], graph.nouns[relation], graph.labels[head])
            for name, templates in settings.wordings.items()
        }
        found.append(Probe(row["id"], texts | {AS_ASKED: row["text"]}, facts))
    return found


def _fill(template: str, noun: str, name: str) -> str:
    return template.replace("{noun}", noun).replace("{name}", name)


def memories(
    right: Sequence[int], every: Sequence[int], size: int, seed: int
) -> Iterator[tuple[range, list[int]]]:
    """Return, group by group, which questions are asked and the `size` facts that the memory holds then.

    Args:
        right: for each question the fact that answers it, as ids of the memory.
        every: all facts that others are drawn from.
        size: facts in the memory; where several questions share a fact, it holds others in its place.
        seed: of the other facts; a larger memory holds the others of a smaller one of the same group.
    """
    step = min(size, len(right))
    for start in range(0, len(right), step):
        group = range(start, min(start + step, len(right)))
        held = dict.fromkeys(right[place] for place in group)
        order = np.random.default_rng([seed, start]).permutation(len(every))
        for place in order.tolist() if size < len(every) else range(len(every)):
            if len(held) >= size:
                break
            held[every[place]] = None
        yield group, list(held)


def places(
    system: System, graph: Graph, asked: Sequence[Probe], size: int, seed: int, batch: int
) -> dict[str, list[int]]:
    """Return, by wording, the place from 1 of the first right fact of each question, 0 beyond `DEPTH`.

    Raises:
        UserError: a fact that answers a question is not in the memory.
    """
    same, memory = Correspondence(graph, system.memory), system.memory
    gold = [[row for fact in probe.facts if (row := same.row(fact)) is not None] for probe in asked]
    if not all(gold):
        raise UserError("the memory lacks facts of the tables; run `dvc repro index`")
    every = np.flatnonzero(memory.alive).tolist()
    found: dict[str, list[int]] = {name: [] for name in asked[0].texts}
    for group, held in memories([rows[0] for rows in gold], every, size, seed):
        with memory.only(held), system.attached():
            for name, seen in found.items():
                texts = [asked[place].texts[name] for place in group]
                seen += ranked(system, texts, [gold[place] for place in group], batch)
    return found


def ranked(system: System, texts: Sequence[str], gold: Sequence[Sequence[int]], batch: int) -> list[int]:
    """Return the place from 1 of the first right fact of each question, 0 beyond `DEPTH`.

    Args:
        system: attached.
        texts: the questions.
        gold: for each the facts that answer it, as ids of the memory.
        batch: questions at a time.
    """
    found: list[int] = []
    for start in range(0, len(texts), batch):
        best = system.ground(texts[start : start + batch], DEPTH).tolist()
        found += [_place(row, right) for row, right in zip(best, gold[start : start + batch], strict=True)]
    return found


def _place(best: Sequence[int], gold: Sequence[int]) -> int:
    return next((place for place, fact in enumerate(best, start=1) if fact in gold), 0)
