"""Links questions that name their subject by label to slots of a graph."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.kg.sources import Entity, Extract, SourceQuestion, Triple
from pipeline.kg.sources.questions import Asked, Known


@dataclass(frozen=True)
class Row:
    """A question as a set gives it: a relation's key, a subject's label and the answers' labels."""

    text: str
    subject: str
    relation: str
    answers: tuple[str, ...]
    split: str
    alternatives: tuple[str, ...] = ()
    """Other right ways to say an answer."""


def linked(rows: Iterable[Row], known: Known) -> Asked:
    """Return the questions whose slot `known` holds, answered by the labels of all its tails.

    Many entities share a label. The subject is the one whose slot has a tail named as an answer; where
    none or several have, the question is left out and counted.
    """
    heads: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for head, relation in known.tails:
        heads[relation, known.entities[head].label].append(head)
    counts: Counter[str] = Counter()
    questions = []
    for row in rows:
        named = heads.get((row.relation, row.subject), [])
        right = {*row.answers, *row.alternatives}
        fitting = [head for head in named if not right.isdisjoint(_names(known, head, row.relation))]
        if len(fitting) != 1:
            reason = "subject_ambiguous" if fitting else "answer_absent" if named else "slot_absent"
            counts[f"{row.split}_{reason}"] += 1
            continue
        counts[f"{row.split}_asked"] += 1
        slot = (fitting[0], row.relation)
        questions.append(SourceQuestion(row.text, (slot,), known.answers(slot), row.split, "template"))
    return Asked(questions, dict(counts))


def own_facts(rows: Iterable[Row], relations: dict[str, str], source: str) -> Extract:
    """Return the rows as facts between labels, with their questions; `relations` are labels by key.

    An entity's key is its label: namesakes of a set become one entity. A question is answered by all that
    the set says of its slot.
    """
    counts: Counter[str] = Counter()
    asked = list(rows)
    answers: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    triples: dict[Triple, None] = {}
    for row in asked:
        answers[row.subject, row.relation] |= dict.fromkeys((*row.answers, *row.alternatives))
        for answer in row.answers:
            counts["self_loops"] += row.subject == answer
            triple = Triple(row.subject, row.relation, answer, source=source)
            counts["facts_repeated"] += triple in triples
            triples[triple] = None
    for row in asked:
        counts[f"rows_{row.split}"] += 1
    used = {triple.relation for triple in triples}
    labels = sorted({label for triple in triples for label in (triple.head, triple.tail)})
    return Extract(
        entities={label: Entity(label) for label in labels},
        relations={key: label for key, label in relations.items() if key in used},
        snapshots=[("base", sorted(triples))],
        questions=list(_questions(asked, answers)),
        counts=dict(counts),
    )


def _questions(
    rows: Iterable[Row], answers: dict[tuple[str, str], dict[str, None]]
) -> Iterator[SourceQuestion]:
    for row in rows:
        slot = (row.subject, row.relation)
        yield SourceQuestion(row.text, (slot,), tuple(answers[slot]), row.split, "template")


def _names(known: Known, head: str, relation: str) -> set[str]:
    tails = [known.entities[tail] for tail in known.tails[head, relation]]
    return {name for tail in tails for name in (tail.label, *tail.aliases)}
