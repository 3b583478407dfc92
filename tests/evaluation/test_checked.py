import pytest

from pipeline.config import UserError
from pipeline.evaluation.checked import COLUMNS, VERDICTS, Checked, checked, read
from pipeline.kg.facts import SCHEMAS
from tests.evaluation.toys import graph

NICE = ("Q2", "P36", "Q3")


def question(verdict, *facts, head="Q2", relation="P36"):
    return Checked("Where?", head, relation, verdict, facts, "" if verdict == "clear" else "so")


def test_the_shipped_questions_are_read():
    rows = read()
    verdicts = [row.verdict for row in rows]
    assert len(rows) == len({row.text for row in rows}) == 260
    assert set(verdicts) == set(VERDICTS)
    for row in rows:
        published = {fact[:2] for fact in row.facts} == {(row.head, row.relation)}
        assert published or row.verdict not in ("clear", "narrower")


def test_a_question_gets_the_facts_that_were_checked():
    rows = [question("clear", NICE), question("several", NICE, ("Q2", "P37", "Q6"))]
    table = checked(graph(), rows)
    assert table.schema == SCHEMAS["questions"]
    assert table["facts"].to_pylist() == [[4], [4, 5]]
    assert table["answers"].to_pylist() == [["Paris"], ["Paris", "Dutch"]]
    assert set(table["kind"].to_pylist()) == {"human"}
    assert set(table["split"].to_pylist()) == {"checked"}


def test_nothing_answers_a_wrong_one_and_a_malformed_one_is_left_out():
    table = checked(graph(), [question("wrong"), question("malformed")])
    assert table["kind"].to_pylist() == ["unanswerable"]
    assert table["facts"].to_pylist() == table["answers"].to_pylist() == [[]]


@pytest.mark.parametrize(
    "row",
    [
        question("clear", ("Q2", "P36", "Q4")),  # a fact of the next snapshot
        question("clear", ("Q2", "P36", "Q99")),
        question("wrong", head="Q99"),
        question("wrong", relation="P99"),
        question("clear", ("Q0", "P36", "Q3"), head="Q0"),  # trained on
    ],
)
def test_left_out_is_what_the_graph_lacks_or_was_trained_on(row):
    assert checked(graph(), [row]).num_rows == 0


@pytest.mark.parametrize(
    "line",
    [
        "Where?\tQ2\tP36\tclear\tQ2 P36 Q3",
        "Where?\tQ2\tP36\tgood\tQ2 P36 Q3\t",
        "Where?\tQ2\tP36\tclear\tQ2 P36\t",
        "Where?\tQ2\tP36\tclear\t\t",
        "Where?\tQ2\tP36\twrong\tQ2 P36 Q3\tso",
        "Where?\tQ2\tP36\twrong\t\t",
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    file = tmp_path / "checked.tsv"
    file.write_text("\t".join(COLUMNS) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2"):
        read(file)


def test_a_file_of_nothing_is_named(tmp_path):
    file = tmp_path / "checked.tsv"
    with pytest.raises(UserError, match="not found"):
        read(file)
    file.write_text("\t".join(COLUMNS) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no question"):
        read(file)
    file.write_text("text\thead\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        read(file)
