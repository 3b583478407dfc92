import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import UserError
from pipeline.kg.build import build
from pipeline.kg.sources.questions.templama import TempLama
from pipeline.kg.splits import Splits

SET = TempLama(folder="edits")


def query(subject: int, year: int, club: int, **change: Any) -> dict[str, Any]:
    return {
        "query": f"Player {subject} plays for _X_.",
        "answer": [{"wikidata_id": f"Q{club}", "name": f"Club {club}"}],
        "date": str(year),
        "id": f"Q{subject}_P54_{year}",
        **change,
    }


def test_edits_are_two_snapshots(write, tmp_path: Path) -> None:
    edits = [
        [query(1, 2010, 50), query(1, 2012, 51), query(1, 2020, 52)],
        [query(2, 2010, 50), query(2, 2020, 50)],
    ]
    write("edits/time_editing.json", json.dumps(edits))
    extract = SET.extract()
    assert [
        (name, [(fact.head, fact.relation, fact.tail) for fact in facts]) for name, facts in extract.snapshots
    ] == [
        ("old", [("Q1", "P54", "Q50"), ("Q2", "P54", "Q50")]),
        ("new", [("Q1", "P54", "Q52"), ("Q2", "P54", "Q50")]),
    ]
    assert extract.questions[0].text == "Which team does Player 1 play for?"
    assert extract.questions[0].answers == ("Club 52",)
    assert extract.counts == {"rows": 2, "years_between_passed_over": 1, "slots_that_end_as_they_began": 1}
    counts = build(extract, Splits(valid=0, test=0, unseen_relations=0), 0, tmp_path / "tables")
    assert counts["questions"] == {"unseen": 1, "updated": 1}


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([[query(1, 2010, 50), query(2, 2020, 51)]], "item 1: ValueError.*2 queries about 2 subjects"),
        ([[query(1, 2010, 50)]], "item 1: ValueError.*1 queries about 1 subjects"),
        ([[query(1, 2010, 50, id="Q1_P9_2010")]], "item 1: ValueError.*is no id like"),
        ([[query(1, 2010, 50, query="x")]], "item 1: ValueError.*does not end in"),
        ([[query(1, 2010, 50, answer=[]), query(1, 2020, 51)]], "item 1: ValueError.*has no answer"),
        ([[{}]], "item 1: KeyError.*correct it, or fetch it again"),
        ([], "must be a list of lists of queries"),
    ],
)
def test_bad_files_are_named(write, edits: list[Any], expected: str) -> None:
    write("edits/time_editing.json", json.dumps(edits))
    with pytest.raises(UserError, match=expected):
        SET.extract()
