"""A slice of Wikidata with English labels, joined from public data sets, and questions about it.

Four tab-separated files without quoting: entities.tsv.gz (qid, label, label_source, description, aliases …),
relations.tsv (pid, label …), triples.tsv.gz (s, p, o, sources), temporal_triples.tsv.gz (s, p, o, start, end,
source; years).
"""

import hashlib
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Extract, SourceQuestion, Triple
from pipeline.kg.sources.files import located, tab_separated
from pipeline.kg.sources.questions import Known, QuestionSet
from pipeline.kg.sources.questions.entityquestions import EntityQuestions
from pipeline.kg.sources.questions.kamel import Kamel
from pipeline.kg.sources.questions.simplequestions import SimpleQuestions

Period = tuple[str, str]
Key = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class WikidataSlice:
    """Facts of the slice, dated where a dated fact of the same head, relation and tail is known."""

    folder: str
    """Folder below the data root that holds the four files."""
    exclude_sources: list[str]
    """Data sets whose own rows are left out: facts and dates that no other set holds, and facts about
    entities whose label comes from it. A licence may ask for it."""
    cap: dict[str, int]
    """Most facts of a relation that are kept, chosen by whole slots and by hash of the head; 0: all."""
    questions: list[str]
    """Question sets to ask of the slice."""
    inverse: bool
    """Whether questions about inverse properties are asked, each with an inverse slot of its own."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        unknown = sorted(set(self.questions) - question_sets(self.inverse).keys())
        if unknown:
            known = ", ".join(question_sets(self.inverse))
            raise ValueError(f"data.questions must name some of {known}, not {unknown[0]!r}")
        negative = [relation for relation, most in self.cap.items() if most < 0]
        if negative:
            raise ValueError(f"data.cap.{negative[0]} must be 0 (all) or more, not {self.cap[negative[0]]}")

    def extract(self) -> Extract:
        """Return the facts and the questions about them.

        Raises:
            UserError: a file is missing, damaged, empty or lacks a column, or names an unknown id.
        """
        folder = located(self.folder, "put the four files of the slice there")
        counts: Counter[str] = Counter()
        excluded = frozenset(name.lower() for name in self.exclude_sources)
        entities, foreign = _entities(folder / "entities.tsv.gz", excluded)
        relations = {
            pid: label for _, (pid, label) in tab_separated(folder / "relations.tsv", ("pid", "label"), True)
        }
        periods = _periods(folder / "temporal_triples.tsv.gz", excluded, counts)
        triples = _triples(folder / "triples.tsv.gz", entities, relations, excluded, foreign, counts)
        triples = [_dated(triple, periods) for triple in self._capped(triples, counts)]
        counts["facts_dated"] = sum(bool(triple.start or triple.end) for triple in triples)
        counts["self_loops"] = sum(triple.head == triple.tail for triple in triples)
        questions: list[SourceQuestion] = []
        known = Known.of(entities, relations, triples)
        for name in self.questions:
            asked = question_sets(self.inverse)[name].ask(known)
            questions += asked.questions
            triples += asked.triples
            relations |= asked.relations
            counts.update({f"{name}_{count}": number for count, number in asked.counts.items()})
        used = {key for triple in triples for key in (triple.head, triple.tail)}
        used_relations = {triple.relation for triple in triples}
        return Extract(
            entities={key: entity for key, entity in entities.items() if key in used},
            relations={key: label for key, label in relations.items() if key in used_relations},
            snapshots=[("base", triples)],
            questions=questions,
            counts=dict(counts),
        )

    def _capped(self, triples: list[Triple], counts: Counter[str]) -> list[Triple]:
        slots: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for triple in triples:
            if self.cap.get(triple.relation):
                slots[triple.relation][triple.head] += 1
        kept: set[tuple[str, str]] = set()
        for relation, heads in slots.items():
            room = self.cap[relation]
            for head in sorted(heads, key=_hash):
                if heads[head] > room:
                    break
                room -= heads[head]
                kept.add((head, relation))
        chosen = [t for t in triples if t.relation not in slots or (t.head, t.relation) in kept]
        counts["facts_over_cap"] = len(triples) - len(chosen)
        return chosen


def question_sets(inverse: bool) -> dict[str, QuestionSet]:
    """Return the question sets that can be asked of the slice, by name."""
    return {
        "simplequestions": SimpleQuestions("simplequestions_wikidata", inverse),
        "entityquestions": EntityQuestions(folder="entityquestions"),
        "kamel": Kamel(folder="kamel", labels=""),
    }


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def _entities(path: Path, excluded: frozenset[str]) -> tuple[dict[str, Entity], set[str]]:
    """Return the entities, and the keys of those whose label comes from an excluded data set."""
    entities: dict[str, Entity] = {}
    foreign: set[str] = set()
    for number, (qid, label, origin, description, aliases) in tab_separated(
        path, ("qid", "label", "label_source", "description", "aliases"), header=True
    ):
        if qid in entities or not label:
            what = "is listed twice" if qid in entities else "has no label"
            raise UserError(f"{path}, line {number}: {qid} {what}; correct the line, or fetch the file again")
        entities[qid] = Entity(label, description, tuple(alias for alias in aliases.split("|") if alias))
        if origin.lower() in excluded:
            foreign.add(qid)
    return entities, foreign


def _periods(path: Path, excluded: frozenset[str], counts: Counter[str]) -> dict[Key, Period]:
    """Return the latest period of each dated fact; a fact has one row here for each of its periods."""
    columns = ("s", "p", "o", "start", "end", "source")
    periods: dict[Key, tuple[int | None, int | None]] = {}
    for number, (head, relation, tail, start, end, origin) in tab_separated(path, columns, header=True):
        counts["dated_rows"] += 1
        if origin.lower() in excluded:
            counts["dated_rows_excluded"] += 1
            continue
        try:
            period = (int(start) if start else None, int(end) if end else None)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {start!r} to {end!r} are no years; correct the line"
            ) from error
        if period[0] is not None and period[1] is not None and period[0] > period[1]:
            counts["dated_rows_that_end_before_they_start"] += 1
            continue
        known = periods.setdefault((head, relation, tail), period)
        if known != period:
            counts["periods_superseded"] += 1
            periods[head, relation, tail] = max(known, period, key=_age)
    return {key: (_iso(start), _iso(end)) for key, (start, end) in periods.items()}


def _age(period: tuple[int | None, int | None]) -> tuple[float, float]:
    """Order periods by start, then by end, an unknown year before all others."""
    start, end = (-math.inf if year is None else year for year in period)
    return start, end


def _iso(year: int | None) -> str:
    """Return a year as ISO 8601 writes it, with four digits at least."""
    return "" if year is None else f"{year:0{5 if year < 0 else 4}d}"


def _triples(
    path: Path,
    entities: dict[str, Entity],
    relations: dict[str, str],
    excluded: frozenset[str],
    foreign: set[str],
    counts: Counter[str],
) -> list[Triple]:
    triples: dict[Key, Triple] = {}
    for number, (head, relation, tail, origins) in tab_separated(
        path, ("s", "p", "o", "sources"), header=True
    ):
        for key, names, file in (
            (head, entities, "entities.tsv.gz"),
            (relation, relations, "relations.tsv"),
            (tail, entities, "entities.tsv.gz"),
        ):
            if key not in names:
                raise UserError(
                    f"{path}, line {number}: {key} is not in {file}; add it there, or remove the line"
                )
        counts["rows"] += 1
        if not set(origins.lower().split(",")) - excluded or head in foreign or tail in foreign:
            counts["facts_excluded"] += 1
        elif (head, relation, tail) in triples:
            counts["facts_repeated"] += 1
        else:
            triples[head, relation, tail] = Triple(head, relation, tail, source=origins)
    return list(triples.values())


def _dated(triple: Triple, periods: dict[Key, Period]) -> Triple:
    period = periods.get((triple.head, triple.relation, triple.tail))
    return triple if period is None else replace(triple, start=period[0], end=period[1])
