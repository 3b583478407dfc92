"""Edits of TempLAMA: who played for, worked for or held which, at a first and at a last year.

Dhingra et al., "Time-Aware Language Models as Temporal Knowledge Bases" (TACL 2022), as pairs of an old and a
new answer. The file is a list of lists: the same cloze query, by year, with its answers and an id such as
`Q313381_P54_2019`.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Extract, SourceQuestion
from pipeline.kg.sources.files import AGAIN, located, members, parsed_json
from pipeline.kg.sources.questions import Slot
from pipeline.kg.sources.questions.dated import snapshots

IDENTITY = re.compile(r"(?P<subject>Q\d+)_(?P<relation>P\d+)_(?P<year>\d+)")
CLOZES = {
    "P54": ("member of sports team", " plays for _X_.", "Which team does {} play for?"),
    "P108": ("employer", " works for _X_.", "Who does {} work for?"),
    "P39": ("position held", " holds the position of _X_.", "Which position does {} hold?"),
}
"""Label, the words after the subject, and our question, by relation."""


@dataclass(frozen=True, kw_only=True)
class TempLama:
    """Two snapshots, before and after the edits; all questions are test questions."""

    folder: str
    """Folder or archive below the data root."""

    def extract(self) -> Extract:
        """Return the first and the last answer of each query as facts.

        Raises:
            UserError: the file is missing, damaged or empty, or an item lacks a field.
        """
        path = located(self.folder, "put the edits of TempLAMA there")
        entities: dict[str, Entity] = {}
        old: dict[Slot, frozenset[str]] = {}
        new: dict[Slot, frozenset[str]] = {}
        questions = []
        counts: Counter[str] = Counter()
        for name, content in members(path, ".json"):
            listed = parsed_json(content, f"{path}/{name}")
            if not isinstance(listed, list) or not listed:
                raise UserError(f"{path}/{name}: must be a list of lists of queries; {AGAIN}")
            for number, item in enumerate(listed, start=1):
                try:
                    slot, label = _subject(item)
                    before, after = (_answers(item[place], entities) for place in (0, -1))
                except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
                    raise UserError(
                        f"{path}/{name}, item {number}: {error!r}; correct it, or {AGAIN}"
                    ) from error
                counts["rows"] += 1
                counts["years_between_passed_over"] += len(item) - 2
                counts["slots_that_end_as_they_began"] += before == after
                entities[slot[0]] = Entity(label)
                old[slot], new[slot] = before, after
                text = CLOZES[slot[1]][2].format(label)
                answers = tuple(sorted(entities[key].label for key in after))
                questions.append(SourceQuestion(text, (slot,), answers, "test", "template"))
        return Extract(
            entities=entities,
            relations={key: label for key, (label, _, _) in CLOZES.items()},
            snapshots=snapshots([("old", old), ("new", new)], "templama"),
            questions=questions,
            counts=dict(counts),
        )


def _subject(item: Any) -> tuple[Slot, str]:
    """Return the slot and the label of its subject; raises ValueError where the queries are about several."""
    slots = set()
    for query in item:
        match = IDENTITY.fullmatch(query["id"])
        if not match or match["relation"] not in CLOZES:
            raise ValueError(f"{query['id']!r} is no id like Q313381_P54_2019 of {', '.join(CLOZES)}")
        ending = CLOZES[match["relation"]][1]
        if not query["query"].endswith(ending):
            raise ValueError(f"{query['query']!r} does not end in {ending!r}")
        slots.add(((match["subject"], match["relation"]), query["query"].removesuffix(ending)))
    if len(slots) != 1 or len(item) < 2:
        raise ValueError(f"{len(item)} queries about {len(slots)} subjects instead of two or more about one")
    return slots.pop()


def _answers(query: Any, entities: dict[str, Entity]) -> frozenset[str]:
    for answer in query["answer"]:
        entities[answer["wikidata_id"]] = Entity(answer["name"])
    keys = frozenset(answer["wikidata_id"] for answer in query["answer"])
    if not keys:
        raise ValueError(f"{query['id']} has no answer")
    return keys
