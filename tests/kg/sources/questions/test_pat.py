import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import UserError
from pipeline.kg.build import build
from pipeline.kg.facts import read_table
from pipeline.kg.sources.questions.pat import Pat
from pipeline.kg.splits import Splits

SET = Pat(folder="pat")
Item = dict[str, Any]


def entity(number: int) -> dict[str, str]:
    return {"ID": f"Q{number}", "Label": f"label {number}"}


def item(
    template: str, subject: int, relations: list[str], answers: list[int], middle: list[int] | None = None
) -> Item:
    found: Item = {
        "question": template.format(subject=f"label {subject}"),
        "subject": {"subject": f"Q{subject}", "subLabel": f"label {subject}"},
        "answer annotations": [entity(number) for number in answers],
        "relations": relations,
        "template": template,
    }
    return (
        found if middle is None else found | {"intermediate entities": [entity(number) for number in middle]}
    )


HEAD = "Who is the head of the government of {subject} currently?"
BEFORE = "Who was the previous head of the government of {subject}?"
BORN = "Where was the current head of the government of {subject} born?"


def files(now: int, before: int, place: int, **others: list[Item]) -> dict[str, str]:
    single = [item(HEAD, 1, ["P6"], [now]), item(BEFORE, 1, ["P6"], [before]), *others.get("single", [])]
    multi = [item(BORN, 1, ["P6", "P19"], [place], [now]), *others.get("multi", [])]
    return {
        "PAT-singlehop.json": json.dumps({found["question"]: found for found in single}),
        "PAT-multihop.json": json.dumps({found["question"]: found for found in multi}),
    }


@pytest.fixture
def dates(pack) -> dict[str, str]:
    unclear = item(BORN, 3, ["P6", "P19"], [70, 71], [80, 81])
    unknown = item(HEAD, 4, ["P6"], [9]) | {"answer annotations": [{"ID": "genid", "Label": "x"}]}
    told = {
        "Dec2021": files(10, 11, 12, single=[unknown, item(HEAD, 2, ["P6"], [20])], multi=[unclear]),
        "Dec2023": files(10, 11, 12),
        "March2024": files(13, 10, 14),
    }
    return {f"pat/{date}/{name}": text for date, found in told.items() for name, text in found.items()}


def test_dates_are_snapshots_of_slots(dates, pack, tmp_path: Path) -> None:
    pack("pat.tar.gz", dates | {"pat/notes/other.json": "{}"})
    extract = SET.extract()
    assert [name for name, _ in extract.snapshots] == ["2021-12", "2023-12", "2024-03"]
    first, middle, last = ({(t.head, t.relation, t.tail) for t in facts} for _, facts in extract.snapshots)
    assert first == middle
    kept = {("Q2", "P6", "Q20"), ("Q10", "P19", "Q12")}  # later dates do not speak of these slots
    assert first == kept | {("Q1", "P6", "Q10"), ("Q1", "P6:previous", "Q11")}
    assert last == kept | {("Q1", "P6", "Q13"), ("Q1", "P6:previous", "Q10"), ("Q13", "P19", "Q14")}
    assert extract.relations["P6:previous"] == "previous head of government"
    assert extract.counts == {
        "rows": 12,
        "rows_without_a_known_answer": 1,
        "rows_with_several_intermediate_entities": 1,
    }
    asked = {question.text: question for question in extract.questions}
    assert len(asked) == 4
    born = asked["Where was the current head of the government of label 1 born?"]
    assert born.slots == (("Q1", "P6"), ("Q13", "P19"))
    assert (born.answers, born.kind) == (("label 14",), "multihop")
    build(extract, Splits(valid=0, test=0, unseen_relations=0), 0, tmp_path / "tables")
    table = read_table(tmp_path / "tables", "questions")
    splits = dict(zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert splits[HEAD.format(subject="label 1")] == "updated"
    assert splits[HEAD.format(subject="label 2")] == "unseen"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"relations": ["P999"]}, "question 1: ValueError.*not those of a template question.*correct it"),
        ({"subject": {"subject": "Q1"}}, "question 1: KeyError.*subLabel"),
        ({"answer annotations": None}, "question 1: TypeError"),
    ],
)
def test_bad_items_are_named(dates, pack, change: Item, expected: str) -> None:
    bad = {"x": item(HEAD, 1, ["P6"], [10]) | change}
    pack("pat.zip", dates | {"pat/Dec2023/PAT-singlehop.json": json.dumps(bad)})
    with pytest.raises(UserError, match=expected):
        SET.extract()


def test_missing_dates_and_empty_files_are_named(dates, pack) -> None:
    pack("pat.zip", {name: text for name, text in dates.items() if "March" not in name})
    with pytest.raises(UserError, match="no questions of March2024"):
        SET.extract()
    pack("pat.zip", dates | {"pat/Dec2021/PAT-singlehop.json": "{}"})
    with pytest.raises(UserError, match="must hold questions by their text"):
        SET.extract()
