"""KAMEL: 234 relations, many with several objects or with numbers and years, and a question template each.

Kalo and Fichtel, "KAMEL: Knowledge Analysis with Multitoken Entities in Language Models" (AKBC 2022). Files
`<property>/<split>.jsonl` hold {"sub_label", "obj_label": [...]} a line; in the test files an object is
{"chosen": label, "alternative": [...]}. `question-templates.csv` holds a property and its template a line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config import UserError
from pipeline.kg.sources import Extract
from pipeline.kg.sources.files import AGAIN, decoded, located, members, parsed_json, tab_separated
from pipeline.kg.sources.questions import Asked, Known
from pipeline.kg.sources.questions.linking import Row, linked, own_facts

FILE = re.compile(r"(?:.*/)?(?P<property>P\d+)/(?P<split>train|dev|test)\.jsonl")
SPLITS = {"train": "train", "dev": "valid", "test": "test"}
SUBJECT = "[S]"


@dataclass(frozen=True, kw_only=True)
class Kamel:
    """Facts between labels, or questions about another source's facts."""

    folder: str
    """Folder or archive below the data root."""
    labels: str
    """Folder of the slice of Wikidata whose relations.tsv names the relations; a relation that it lacks is
    named by its question. Empty: all are."""

    def extract(self) -> Extract:
        """Return the facts of all files, numbers and years among the entities.

        Raises:
            UserError: files are missing, damaged or empty, or a relation has no template.
        """
        labels = {
            key: " ".join(text.replace(SUBJECT, "").strip(" ?").split())
            for key, text in self.templates().items()
        }
        if self.labels:
            path = located(self.labels, "put the slice of Wikidata there, or leave data.labels empty")
            named = {
                pid: label
                for _, (pid, label) in tab_separated(path / "relations.tsv", ("pid", "label"), True)
            }
            labels |= {key: named[key] for key in labels.keys() & named.keys()}
        return own_facts(self.rows(), labels, "kamel")

    def ask(self, known: Known) -> Asked:
        """Return the questions whose slot `known` holds; raises as `extract`."""
        return linked(self.rows(), known)

    def templates(self) -> dict[str, str]:
        """Return the question template of each relation, with [S] for the subject; raises as `extract`."""
        path = located(self.folder, "put KAMEL there")
        found: dict[str, str] = {}
        for name, content in members(path, "question-templates.csv"):
            for number, line in enumerate(decoded(content, f"{path}/{name}").splitlines(), start=1):
                key, _, template = line.partition(",")
                if not re.fullmatch(r"P\d+", key) or SUBJECT not in template:
                    raise UserError(
                        f"{path}/{name}, line {number}: {line!r} is no property and, after a comma, a "
                        f"question that holds {SUBJECT}; correct the line, or {AGAIN}"
                    )
                found[key] = template.strip()
        return found

    def rows(self) -> Iterator[Row]:
        """Yield all questions; raises as `extract`."""
        templates = self.templates()
        path = located(self.folder, "put KAMEL there")
        for name, content in members(path, ".jsonl"):
            match = FILE.fullmatch(name)
            if not match:
                continue
            template = templates.get(match["property"])
            if template is None:
                raise UserError(
                    f"{path}/{name}: question-templates.csv has no {match['property']}; add its line"
                )
            for number, line in enumerate(decoded(content, f"{path}/{name}").split("\n"), start=1):
                if line:
                    yield _row(
                        line,
                        f"{path}/{name}, line {number}",
                        match["property"],
                        template,
                        SPLITS[match["split"]],
                    )


def _row(line: str, where: str, relation: str, template: str, split: str) -> Row:
    item: Any = parsed_json(line, where)
    try:
        objects = [
            object_ if isinstance(object_, dict) else {"chosen": object_} for object_ in item["obj_label"]
        ]
        answers = tuple(str(object_["chosen"]) for object_ in objects)
        others = tuple(str(name) for object_ in objects for name in object_.get("alternative", ()))
        subject = str(item["sub_label"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: lacks sub_label, obj_label or an object's chosen; {AGAIN}") from error
    if not subject or not answers or not all(answers):
        raise UserError(f"{where}: the subject or an object is empty; correct the line, or {AGAIN}")
    return Row(template.replace(SUBJECT, subject), subject, relation, answers, split, others)
