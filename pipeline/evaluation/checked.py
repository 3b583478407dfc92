"""Human questions whose facts were checked by hand, one by one.

The questions are drawn by a seed from those that SimpleQuestions on Wikidata (Diefenbach et al., ISWC 2017;
CC BY 3.0) asks about heads of `wikidata_slice` that no method trained on. For each of them one reader looked
at the question, the published fact, the other facts of its head, and entities of the same name.
docs/checked.md holds the rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.config import Paths, UserError
from pipeline.kg.facts import SCHEMAS, Graph, read_table

FILE = Path(__file__).with_name("checked.tsv")
COLUMNS = ("text", "head", "relation", "verdict", "facts", "reason")
VERDICTS = ("clear", "several", "narrower", "wrong", "malformed")
"""`clear`: the published slot answers. `several`: so do other slots. `narrower`: only some facts of the slot
do. `wrong`: it doesn't, and nothing in the graph does. `malformed`: what is asked can't be told."""
SPLIT = "checked"
"""The split of these questions."""

LEARNED = ("train", "valid")
"""Folds of facts that methods are trained on, or chosen by."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Checked:
    """A question with the facts that answer it."""

    text: str
    head: str
    """Key of the head that is published as its subject."""
    relation: str
    verdict: str
    facts: tuple[Key, ...]
    """Keys (head, relation, tail) of all facts that answer; none where it is `wrong` or `malformed`."""
    reason: str


def read(file: Path = FILE) -> list[Checked]:
    """Return the lines of a file of checked questions.

    Raises:
        UserError: the file is missing or has no question, or a line isn't one; the text names it.
    """
    if not file.is_file():
        raise UserError(f"{file}: not found; restore it from the repository")
    found: list[Checked] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.split("\t")
        if number == 1 and tuple(cells) != COLUMNS:
            raise UserError(f"{file}, line 1: the columns must be {', '.join(COLUMNS)}, not {line!r}")
        if number > 1:
            found.append(_checked(cells, f"{file}, line {number}"))
    if not found:
        raise UserError(f"{file}: holds no question; restore it from the repository")
    return found


def _checked(cells: Sequence[str], where: str) -> Checked:
    if len(cells) != len(COLUMNS):
        raise UserError(f"{where}: {len(cells)} cells, not {len(COLUMNS)}; part them by tabs")
    text, head, relation, verdict, told, reason = cells
    facts = [tuple(fact.split()) for fact in told.split("; ") if fact]
    if verdict not in VERDICTS:
        raise UserError(f"{where}: the verdict must be one of {', '.join(VERDICTS)}, not {verdict!r}")
    if any(len(fact) != 3 for fact in facts):
        raise UserError(f"{where}: a fact is a head, a relation and a tail, not {told!r}; part facts by '; '")
    if bool(facts) != (verdict in VERDICTS[:3]):
        raise UserError(f"{where}: a {verdict} question has {'no ' if facts else 'at least one '}fact")
    if bool(reason) != (verdict != "clear"):
        raise UserError(f"{where}: every verdict but clear has a reason, and that has none")
    return Checked(text, head, relation, verdict, tuple((f[0], f[1], f[2]) for f in facts), reason)


def checked(graph: Graph, rows: Sequence[Checked]) -> pa.Table:
    """Return the questions that `graph` can answer, as rows of the table `questions` in the split `checked`.

    One that is `wrong` is unanswerable. Left out are those that are `malformed`, those of which the graph
    lacks a fact, and those whose published slot it lacks or was trained on; all of them, where the graph is
    of other data.
    """
    heads = {key: row for row, key in enumerate(graph.entities["key"].to_pylist())}
    relations = {key: row for row, key in enumerate(graph.relations["key"].to_pylist())}
    triples, folds = graph.triples, graph.facts["fold"].to_pylist()
    places = {tuple(triples[fact].tolist()): fact for fact in graph.live(0).nonzero()[0].tolist()}
    held = {slot[:2] for slot, fact in places.items() if folds[fact] not in LEARNED}
    found: dict[str, list[object]] = {name: [] for name in SCHEMAS["questions"].names}
    for row in rows:
        keys = [(heads.get(h), relations.get(r), heads.get(t)) for h, r, t in row.facts]
        facts = [places.get(key) for key in keys]
        published = heads.get(row.head), relations.get(row.relation)
        if row.verdict == "malformed" or published not in held or None in facts:
            continue
        answers = dict.fromkeys(graph.labels[triples[fact, 2]] for fact in facts)
        kind = "human" if facts else "unanswerable"
        values = (len(found["id"]), row.text, kind, facts, list(answers), SPLIT)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return pa.table(found, schema=SCHEMAS["questions"])


def asked(paths: Paths, graph: Graph, splits: Sequence[str]) -> pa.Table:
    """Return the questions of the tables, and those checked by hand where their split is among `splits`."""
    questions = read_table(paths.kv, "questions")
    return pa.concat_tables([questions, checked(graph, read())]) if SPLIT in splits else questions
