import pytest

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Triple
from pipeline.kg.sources.questions import Known
from pipeline.kg.sources.questions.kamel import Kamel

SET = Kamel(folder="kamel", labels="slice")
TEMPLATES = "P54, What teams was [S] a member of?\nP575, What year was [S] invented in?\n"


@pytest.fixture(autouse=True)
def files(write) -> None:
    write("kamel/question-templates.csv", TEMPLATES)
    write("kamel/P54/train.jsonl", '{"index": [1], "sub_label": "Ada", "obj_label": ["Lions", "Bears"]}\n')
    bears = '{"chosen": "Bears", "rdf": null, "alternative": ["The Bears"]}'
    test = f'{{"sub_label": "Ada", "obj_label": [{bears}]}}\n'
    write("kamel/P54/test.jsonl", test)
    write("kamel/P575/dev.jsonl", '{"sub_label": "Loom", "obj_label": ["1891"]}\n')
    write("kamel/other/notes.jsonl", "not a file of the set")
    write("slice/relations.tsv", "pid\tlabel\nP54\tmember of sports team\n")


def test_rows_become_facts_and_questions() -> None:
    extract = SET.extract()
    ((_, facts),) = extract.snapshots
    assert {(fact.head, fact.relation, fact.tail) for fact in facts} == {
        ("Ada", "P54", "Lions"),
        ("Ada", "P54", "Bears"),
        ("Loom", "P575", "1891"),
    }
    assert extract.relations == {"P54": "member of sports team", "P575": "What year was invented in"}
    asked = {question.split: question for question in extract.questions}
    assert asked["test"].text == "What teams was Ada a member of?"
    assert set(asked["test"].answers) == {"Lions", "Bears", "The Bears"}
    assert asked["valid"].answers == ("1891",)
    assert extract.counts["facts_repeated"] == 1


def test_questions_are_linked_through_alternative_answers() -> None:
    entities = {"Q1": Entity("Ada"), "Q2": Entity("Chicago Bears", "", ("The Bears",))}
    asked = SET.ask(Known.of(entities, {"P54": "team"}, [Triple("Q1", "P54", "Q2")]))
    assert [(question.split, question.answers) for question in asked.questions] == [
        ("test", ("Chicago Bears",))
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "question-templates.csv",
            "P54, What teams?\n",
            "line 1: .* is no property and, after a comma, a question",
        ),
        (
            "question-templates.csv",
            "P54, What teams was [S] in?\n",
            "question-templates.csv has no P575; add its",
        ),
        (
            "P54/dev.jsonl",
            '{"sub_label": "A", "obj_label": ["B"]}\n{"sub_label": "A"}\n',
            "line 2: lacks sub_label",
        ),
        (
            "P54/dev.jsonl",
            '{"sub_label": "", "obj_label": ["B"]}\n',
            "line 1: the subject or an object is empty",
        ),
        ("P54/dev.jsonl", '{"sub_label": "A", "obj_label": [{"rdf": "B"}]}\n', "line 1: lacks sub_label"),
        ("P54/dev.jsonl", "{\n", "line 1, line 1, column 2: no JSON"),
    ],
)
def test_bad_files_are_named(write, name: str, content: str, expected: str) -> None:
    write(f"kamel/{name}", content)
    with pytest.raises(UserError, match=expected):
        SET.extract()
