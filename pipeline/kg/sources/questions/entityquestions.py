"""EntityQuestions: one template a relation, filled with entities of all popularities.

Sciavolino et al., "Simple Entity-Centric Questions Challenge Dense Retrievers" (EMNLP 2021). Files
`<split>/<property>.<split>.json` hold a list of {"question", "answers"}; the subject is what stands between
the words of the relation's template.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import UserError
from pipeline.kg.sources import Extract
from pipeline.kg.sources.files import AGAIN, located, members, parsed_json
from pipeline.kg.sources.questions import Asked, Known
from pipeline.kg.sources.questions.linking import Row, linked, own_facts

FILE = re.compile(r"(?:.*/)?(?P<property>P\d+)\.(?P<split>train|dev|test)\.json")
SPLITS = {"train": "train", "dev": "valid", "test": "test"}
TEMPLATES = {
    "P106": ("occupation", "What kind of work does {} do?"),
    "P112": ("founder", "Who founded {}?"),
    "P127": ("owner", "Who owns {}?"),
    "P131": ("administrative location", "Where is {} located?"),
    "P136": ("genre", "What type of music does {} play?"),
    "P159": ("headquarters location", "Where is the headquarter of {}?"),
    "P17": ("country", "Which country is {} located in?"),
    "P170": ("creator", "Who was {} created by?"),
    "P175": ("performer", "Who performed {}?"),
    "P176": ("manufacturer", "Which company is {} produced by?"),
    "P19": ("place of birth", "Where was {} born?"),
    "P20": ("place of death", "Where did {} die?"),
    "P26": ("spouse", "Who is {} married to?"),
    "P264": ("record label", "What music label is {} represented by?"),
    "P276": ("location", "Where is {} located?"),
    "P36": ("capital", "What is the capital of {}?"),
    "P40": ("child", "Who is {}'s child?"),
    "P407": ("language", "Which language was {} written in?"),
    "P413": ("position played", "What position does {} play?"),
    "P495": ("country of origin", "Which country was {} created in?"),
    "P50": ("author", "Who is the author of {}?"),
    "P69": ("school attended", "Where was {} educated?"),
    "P740": ("place of foundation", "Where was {} founded?"),
    "P800": ("notable work", "What is {} famous for?"),
}
"""Label and template of each relation of the set."""


@dataclass(frozen=True, kw_only=True)
class EntityQuestions:
    """Facts between labels, or questions about another source's facts."""

    folder: str
    """Folder or archive below the data root."""

    def extract(self) -> Extract:
        """Return the facts that the questions and their answers state.

        Raises:
            UserError: files are missing, damaged or empty, or a question does not follow its template.
        """
        labels = {key: label for key, (label, _) in TEMPLATES.items()}
        return own_facts(self.rows(), labels, "entityquestions")

    def ask(self, known: Known) -> Asked:
        """Return the questions whose slot `known` holds; raises as `extract`."""
        return linked(self.rows(), known)

    def rows(self) -> Iterator[Row]:
        """Yield all questions with their subject; raises as `extract`."""
        path = located(self.folder, "put EntityQuestions there")
        found = False
        for name, content in members(path, ".json"):
            match = FILE.fullmatch(name)
            if not match:
                continue
            found = True
            where = f"{path}/{name}"
            if match["property"] not in TEMPLATES:
                raise UserError(f"{where}: {match['property']} is no relation of the set; take the file away")
            before, after = TEMPLATES[match["property"]][1].split("{}")
            listed = parsed_json(content, where)
            for number, item in enumerate(listed if isinstance(listed, list) else [None], start=1):
                text, answers = _checked(item, f"{where}, item {number}")
                if not (text.startswith(before) and text.endswith(after) and len(text) > len(before + after)):
                    raise UserError(
                        f"{where}, item {number}: {text!r} is not like {before}…{after} as its relation's "
                        f"questions are; move it to its relation's file, or {AGAIN}"
                    )
                subject = text[len(before) : len(text) - len(after)]
                yield Row(text, subject, match["property"], answers, SPLITS[match["split"]])
        if not found:
            raise UserError(f"{path}: no file is named like test/P36.test.json; {AGAIN}")


def _checked(item: object, where: str) -> tuple[str, tuple[str, ...]]:
    if isinstance(item, dict):
        text, answers = item.get("question"), item.get("answers")
        if isinstance(text, str) and isinstance(answers, list) and answers:
            return text, tuple(str(answer) for answer in answers)
    raise UserError(f'{where}: must be {{"question": …, "answers": [one or more]}}; correct it, or {AGAIN}')
