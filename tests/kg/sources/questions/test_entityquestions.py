import json

import pytest

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Triple
from pipeline.kg.sources.questions import Known
from pipeline.kg.sources.questions.entityquestions import TEMPLATES, EntityQuestions

SET = EntityQuestions(folder="entityquestions")
CAPITALS = [
    {"question": "What is the capital of Marin County?", "answers": ["San Rafael", "St Rafael"]},
    {"question": "What is the capital of Samos?", "answers": ["Vathy"]},
]


def test_the_subject_is_what_the_template_leaves(pack) -> None:
    files = {
        "entityquestions/test/P36.test.json": json.dumps(CAPITALS),
        "entityquestions/dev/P40.dev.json": '[{"question": "Who is Ada\'s child?", "answers": ["Byron"]}]',
        "entityquestions/readme.json": "no question file",
    }
    pack("entityquestions.tar.gz", files)
    extract = SET.extract()
    ((_, facts),) = extract.snapshots
    assert {(fact.head, fact.relation, fact.tail) for fact in facts} == {
        ("Marin County", "P36", "San Rafael"),
        ("Marin County", "P36", "St Rafael"),
        ("Samos", "P36", "Vathy"),
        ("Ada", "P40", "Byron"),
    }
    assert extract.relations == {"P36": "capital", "P40": "child"}
    assert {question.split for question in extract.questions} == {"test", "valid"}
    known = Known.of(
        {"Q1": Entity("Samos"), "Q2": Entity("Vathy")}, {"P36": "capital"}, [Triple("Q1", "P36", "Q2")]
    )
    asked = SET.ask(known)
    assert [question.text for question in asked.questions] == ["What is the capital of Samos?"]
    assert asked.counts == {"test_asked": 1, "test_slot_absent": 1, "valid_slot_absent": 1}


def test_every_template_has_one_gap() -> None:
    assert all(template.count("{}") == 1 for _, template in TEMPLATES.values())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "P36.test.json",
            '[{"question": "Who is Ada?", "answers": ["x"]}]',
            "item 1: .* is not like What is the",
        ),
        ("P36.test.json", '[{"question": "What is the capital of ?"}]', r"item 1: must be \{.*correct it"),
        ("P36.test.json", '{"question": "x"}', "item 1: must be"),
        ("P36.test.json", '[{"question": "What is the capital of A?", "answers": []}]', "item 1: must be"),
        ("P36.test.json", "[", "line 1, column 2: no JSON"),
        ("P9.test.json", "[]", "P9 is no relation of the set; take the file away"),
        ("P36.final.json", "[]", "no file is named like test/P36.test.json"),
    ],
)
def test_bad_files_are_named(write, name: str, content: str, expected: str) -> None:
    write(f"entityquestions/test/{name}", content)
    with pytest.raises(UserError, match=expected):
        SET.extract()
