"""PAT-Questions: the same questions, answered by Wikidata at three dates, over one hop and over two.

Meem et al., "PAT-Questions: A Self-Updating Benchmark for Present-Anchored Temporal Question-Answering"
(Findings of ACL 2024). A folder a date holds PAT-singlehop.json and PAT-multihop.json: questions
with subject, relations, intermediate entities and answers, by QID and label. A question about who held the
first relation before the present holder is about a relation of its own, `P6:previous`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Extract, SourceQuestion
from pipeline.kg.sources.files import AGAIN, located, members, parsed_json
from pipeline.kg.sources.questions import Slot
from pipeline.kg.sources.questions.dated import snapshots

DATES = {"Dec2021": "2021-12", "Dec2023": "2023-12", "March2024": "2024-03"}
FILES = {"PAT-singlehop.json": "template", "PAT-multihop.json": "multihop"}
EARLIER = re.compile(r"\b(previous|previously|before)\b")
QID = re.compile(r"Q\d+")
RELATIONS = {
    "P6": "head of government",
    "P17": "country",
    "P19": "place of birth",
    "P26": "spouse",
    "P27": "country of citizenship",
    "P35": "head of state",
    "P39": "position held",
    "P54": "member of sports team",
    "P69": "educated at",
    "P102": "member of political party",
    "P108": "employer",
    "P112": "founded by",
    "P115": "home venue",
    "P127": "owned by",
    "P159": "headquarters location",
    "P169": "chief executive officer",
    "P286": "head coach",
    "P488": "chairperson",
    "P1037": "director or manager",
    "P1365": "replaces",
}
"""Labels of the relations of the set, which the files leave out."""


@dataclass
class _Date:
    """What one date tells."""

    tails: defaultdict[Slot, set[str]] = field(default_factory=lambda: defaultdict(set))
    questions: dict[tuple[Slot, tuple[str, ...]], tuple[str, tuple[Slot, ...], str, list[str]]] = field(
        default_factory=dict
    )
    """Text, slots, kind and answers, by the first slot and the relations after it."""


@dataclass(frozen=True, kw_only=True)
class Pat:
    """Facts at three dates, and the questions of the last date that asks them; all are test questions."""

    folder: str
    """Folder or archive below the data root."""

    def extract(self) -> Extract:
        """Return three snapshots; a question is answered as of the last date that asks it.

        Raises:
            UserError: files are missing, damaged or empty, or an item lacks a field.
        """
        path = located(self.folder, "put PAT-Questions there")
        counts: Counter[str] = Counter()
        entities: dict[str, Entity] = {}
        dates = {name: _Date() for name in DATES}
        for name, content in members(path, ".json"):
            *_, date, file = ("", *Path(name).parts)
            if date not in DATES or file not in FILES:
                continue
            for number, item in enumerate(_items(content, f"{path}/{name}"), start=1):
                try:
                    _read(item, FILES[file], dates[date], entities, counts)
                except (KeyError, TypeError, IndexError, ValueError) as error:
                    raise UserError(
                        f"{path}/{name}, question {number}: {error!r}; correct it, or {AGAIN}"
                    ) from error
        empty = [name for name, date in dates.items() if not date.tails]
        if empty:
            raise UserError(f"{path}: no questions of {empty[0]}; {AGAIN}")
        told = [
            (DATES[name], {slot: frozenset(tails) for slot, tails in date.tails.items()})
            for name, date in dates.items()
        ]
        used = {relation for _, slots in told for _, relation in slots}
        asked: dict[object, SourceQuestion] = {}
        for date_told in dates.values():
            for asks, (text, hops, kind, answers) in date_told.questions.items():
                labels = tuple(dict.fromkeys(entities[key].label for key in answers))
                asked[asks] = SourceQuestion(text, hops, labels, "test", kind)
        return Extract(
            entities=entities,
            relations={key: _label(key) for key in sorted(used)},
            snapshots=snapshots(told, "pat"),
            questions=list(asked.values()),
            counts=dict(counts),
        )


def _items(content: bytes, where: str) -> Iterator[Any]:
    listed = parsed_json(content, where)
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{where}: must hold questions by their text; {AGAIN}")
    yield from listed.values()


def _read(item: Any, kind: str, date: _Date, entities: dict[str, Entity], counts: Counter[str]) -> None:
    """Add a question and its facts to `date`, unless it has no certain answer."""
    counts["rows"] += 1
    subject, relations = item["subject"], tuple(item["relations"])
    middle = item["intermediate entities"] if kind == "multihop" else []
    if len(relations) != (2 if kind == "multihop" else 1) or not set(relations) <= RELATIONS.keys():
        raise ValueError(f"the relations {relations} are not those of a {kind} question")
    for entity in (*item["answer annotations"], *middle):
        if not QID.fullmatch(entity.get("ID") or "") or not entity.get("Label"):
            counts["rows_without_a_known_answer"] += 1
            return
    if len(middle) > 1:
        # The file does not tell which of the answers belongs to which intermediate entity.
        counts["rows_with_several_intermediate_entities"] += 1
        return
    for entity in (*item["answer annotations"], *middle):
        entities[entity["ID"]] = Entity(entity["Label"])
    entities[subject["subject"]] = Entity(subject["subLabel"])
    answers = [entity["ID"] for entity in item["answer annotations"]]
    first = (subject["subject"], relations[0] + (":previous" if EARLIER.search(item["template"]) else ""))
    date.tails[first] |= {entity["ID"] for entity in middle} or set(answers)
    for entity in middle:
        date.tails[entity["ID"], relations[1]] |= set(answers)
    hops = (first, *((entity["ID"], relations[1]) for entity in middle))
    date.questions[first, relations[1:]] = (item["question"], hops, kind, answers)


def _label(key: str) -> str:
    pid, _, earlier = key.partition(":")
    return f"previous {RELATIONS[pid]}" if earlier else RELATIONS[pid]
