"""SimpleQuestions on Wikidata: questions that people wrote about one fact each.

Diefenbach et al., "Question Answering Benchmarks for Wikidata" (ISWC 2017). A line is subject, property,
object and question, separated by tabs, without a header. A property `R19` is the inverse of `P19`: its
subject is the tail of the fact, and its slot holds everything that points to it.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import UserError
from pipeline.kg.sources import SourceQuestion, Triple
from pipeline.kg.sources.files import data_root, tab_separated
from pipeline.kg.sources.questions import Asked, Known, Slot

COLUMNS = ("subject", "property", "object", "question")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class SimpleQuestions:
    """Questions about another source's facts."""

    folder: str
    """Folder below the data root."""
    inverse: bool
    """Whether the slots of inverse properties that are asked for become facts of their own."""

    def file(self, split: str) -> Path:
        """Return the path of the questions of `split` that Wikidata answers."""
        return data_root() / self.folder / f"annotated_wd_data_{split}_answerable.txt"

    def ask(self, known: Known) -> Asked:
        """Return the questions whose slot `known` holds, with the inverse facts that they need.

        Raises:
            UserError: a file is missing, damaged or empty, or a line has another form.
        """
        counts: Counter[str] = Counter()
        rows: list[tuple[str, Slot, str, str]] = []
        for split in SPLITS:
            path = self.file(split)
            for number, (subject, relation, tail, text) in tab_separated(path, COLUMNS, header=False):
                if relation[:1] not in ("P", "R") or not text.strip():
                    raise UserError(
                        f"{path}, line {number}: {relation!r} is no property like P19 or R19 with a question "
                        "after its object; correct the line, or fetch the file again from its publisher"
                    )
                if relation[0] == "R" and not self.inverse:
                    counts[f"{split}_inverse_left_out"] += 1
                    continue
                rows.append((split, (subject, relation), tail, text.strip()))
        triples = self._inverse(known, {slot for _, slot, _, _ in rows if slot[1][0] == "R"})
        own = Known.of(known.entities, known.relations, triples)
        questions = []
        for split, slot, tail, text in rows:
            holder = own if slot[1][0] == "R" else known
            if slot not in holder.tails:
                counts[f"{split}_slot_absent"] += 1
                continue
            counts[f"{split}_asked"] += 1
            counts["object_not_among_tails"] += tail not in holder.tails[slot]
            questions.append(SourceQuestion(text, (slot,), holder.answers(slot), split))
        relations = {
            triple.relation: f"{known.relations['P' + triple.relation[1:]]} of" for triple in triples
        }
        return Asked(questions, dict(counts), triples, relations)

    def _inverse(self, known: Known, slots: set[Slot]) -> list[Triple]:
        pointing: defaultdict[Slot, list[str]] = defaultdict(list)
        for (head, relation), tails in known.tails.items():
            for tail in tails:
                pointing[tail, f"R{relation[1:]}"].append(head)
        return [
            Triple(head, relation, tail, source="inverse")
            for head, relation in sorted(slots & pointing.keys())
            for tail in sorted(pointing[head, relation])
        ]
