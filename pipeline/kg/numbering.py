"""Gives entities, relations and facts their ids, in the order of their stable keys.

Sorting before numbering makes the ids, and so the bytes of the tables, independent of the order in which
a source yields its facts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import UserError
from pipeline.kg.facts import Ids
from pipeline.kg.sources import Extract, Triple

Dates = tuple[str, str, str]


@dataclass(frozen=True)
class Numbered:
    """The facts of every snapshot by number; entities and relations without a fact have none."""

    entities: list[str]
    """Stable key of each entity, by id."""
    labels: list[str]
    """Label of each entity, by id: white space tidied, the key where the source has no label."""
    relations: list[str]
    """Stable key of each relation, by id."""
    triples: Ids
    """Head, relation and tail of each fact, in ascending order: [M, 3]."""
    dates: list[Dates]
    """Start, end and source of each fact, by id."""
    live: NDArray[np.bool_]
    """Which facts hold in which snapshot: [S, M]."""
    repairs: Counter[str]
    """How often something was left out or put right, by what it was."""


def number(extract: Extract) -> Numbered:
    """Return the facts of `extract` with ids; self-loops and repetitions are left out and counted.

    A fact is its head, relation and tail: where several rows differ in their dates or source alone, those
    of the first snapshot that holds it count, and within it the smallest.

    Raises:
        UserError: there is no fact, or a fact names an entity or a relation that the source does not list.
    """
    repairs: Counter[str] = Counter()
    named: set[str] = set()
    used: set[str] = set()
    for _, triples in extract.snapshots:
        named.update(triple.head for triple in triples)
        named.update(triple.tail for triple in triples)
        used.update(triple.relation for triple in triples)
    _check(extract, named, used)
    loops = {t for _, triples in extract.snapshots for t in triples if t.head == t.tail}
    repairs["self-loops left out"] = len(loops)
    if loops:  # an entity or a relation that only self-loops name gets no id
        kept = [t for _, triples in extract.snapshots for t in triples if t.head != t.tail]
        named = {t.head for t in kept} | {t.tail for t in kept}
        used = {t.relation for t in kept}
    if not named:
        raise UserError("the source holds no facts; check its folder and the relations left out in conf/data")
    entities, relations = sorted(named), sorted(used)
    repairs["entities without a fact left out"] = len(extract.entities.keys() - named)
    repairs["relations without a fact left out"] = len(extract.relations.keys() - used)
    labels = [" ".join(extract.entities[key].label.split()) for key in entities]
    repairs["empty labels, replaced by the key"] = labels.count("")

    codes, attributes = [], []
    entity_id = {key: i for i, key in enumerate(entities)}
    relation_id = {key: i for i, key in enumerate(relations)}
    distinct = {(t.start, t.end, t.source) for _, triples in extract.snapshots for t in triples}
    dates = sorted(distinct)
    date_id = {date: i for i, date in enumerate(dates)}
    for _, triples in extract.snapshots:
        snapshot = _encode(triples, entity_id, relation_id, date_id)
        pairs = np.unique(snapshot, axis=0) if len(snapshot) else snapshot
        first = np.ones(len(pairs), bool)
        first[1:] = pairs[1:, 0] != pairs[:-1, 0]
        repairs["repeated rows left out"] += len(snapshot) - int(first.sum())
        codes.append(pairs[first, 0])
        attributes.append(pairs[first, 1])
    facts = np.unique(np.concatenate(codes))
    live = np.zeros((len(codes), len(facts)), bool)
    date = np.zeros(len(facts), np.int64)
    for i in reversed(range(len(codes))):
        places = np.searchsorted(facts, codes[i])
        live[i, places] = True
        date[places] = attributes[i]
    heads, rest = np.divmod(facts, len(entities) * len(relations))
    triples_by_id = np.stack([heads, *np.divmod(rest, len(entities))], axis=1)
    return Numbered(
        entities,
        [label or key for label, key in zip(labels, entities, strict=True)],
        relations,
        triples_by_id,
        [dates[i] for i in date.tolist()],
        live,
        repairs,
    )


def changes(live: NDArray[np.bool_]) -> dict[str, list[int] | list[str]]:
    """Return the table `changes`: what moves the graph from each snapshot to the next, deletes first."""
    rows: list[tuple[int, str, int]] = []
    for snapshot in range(1, len(live)):
        before, after = live[snapshot - 1], live[snapshot]
        rows += [(snapshot, "delete", fact) for fact in np.flatnonzero(before & ~after).tolist()]
        rows += [(snapshot, "upsert", fact) for fact in np.flatnonzero(after & ~before).tolist()]
    return {
        "snapshot": [snapshot for snapshot, _, _ in rows],
        "op": [op for _, op, _ in rows],
        "fact": [fact for _, _, fact in rows],
    }


def _encode(
    triples: Sequence[Triple], entity: dict[str, int], relation: dict[str, int], date: dict[Dates, int]
) -> NDArray[np.int64]:
    """Return one number a fact, ordered as (head, relation, tail), and the number of its dates: [rows, 2]."""

    def numbers() -> Iterator[int]:
        for t in triples:
            if t.head != t.tail:
                slot = entity[t.head] * len(relation) + relation[t.relation]
                yield slot * len(entity) + entity[t.tail]
                yield date[t.start, t.end, t.source]

    return np.fromiter(numbers(), np.int64).reshape(-1, 2)


def _check(extract: Extract, named: set[str], used: set[str]) -> None:
    strangers = named - extract.entities.keys()
    if strangers:
        raise UserError(_strange(extract, "entity", min(strangers)))
    unknown = used - extract.relations.keys()
    if unknown:
        raise UserError(_strange(extract, "relation", min(unknown)))


def _strange(extract: Extract, kind: str, key: str) -> str:
    for name, triples in extract.snapshots:
        for t in triples:
            if key in (t.head, t.tail) if kind == "entity" else key == t.relation:
                fact = f"({t.head}, {t.relation}, {t.tail})"
                where = f"snapshot {name}" + (f", {t.source}" if t.source else "")
                return (
                    f"{where}: the fact {fact} names the {kind} {key!r}, which the source does not list; "
                    f"add it to the source's list of {kind} labels or take the fact out"
                )
    raise AssertionError(key)
