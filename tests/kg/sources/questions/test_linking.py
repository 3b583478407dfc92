from hypothesis import given
from hypothesis import strategies as st

from pipeline.kg.sources import Entity, Triple
from pipeline.kg.sources.questions import Known
from pipeline.kg.sources.questions.linking import Row, linked, own_facts

ENTITIES = {
    "Q1": Entity("Paris"),
    "Q2": Entity("Paris"),
    "Q3": Entity("France"),
    "Q4": Entity("Texas", "", ("Lone Star State",)),
    "Q5": Entity("United States"),
}
TRIPLES = [Triple("Q1", "P17", "Q3"), Triple("Q2", "P17", "Q4"), Triple("Q2", "P17", "Q5")]
KNOWN = Known.of(ENTITIES, {"P17": "country"}, TRIPLES)


def test_namesakes_are_told_apart_by_their_answers() -> None:
    rows = [
        Row("Where is Paris?", "Paris", "P17", ("Lone Star State",), "train"),
        Row("Which country is Paris in?", "Paris", "P17", ("nowhere",), "test", ("France",)),
        Row("Both?", "Paris", "P17", ("France", "Texas"), "test"),
        Row("Neither?", "Paris", "P17", ("Spain",), "test"),
        Row("Unknown?", "Lyon", "P17", ("France",), "valid"),
        Row("Other relation?", "Paris", "P19", ("France",), "valid"),
    ]
    asked = linked(rows, KNOWN)
    assert [(question.text, question.slots, question.answers) for question in asked.questions] == [
        ("Where is Paris?", (("Q2", "P17"),), ("Texas", "United States")),
        ("Which country is Paris in?", (("Q1", "P17"),), ("France",)),
    ]
    assert asked.counts == {
        "train_asked": 1,
        "test_asked": 1,
        "test_subject_ambiguous": 1,
        "test_answer_absent": 1,
        "valid_slot_absent": 2,
    }


@given(
    st.lists(
        st.builds(
            Row,
            st.just("text"),
            st.sampled_from("abc"),
            st.sampled_from(["P1", "P2"]),
            st.lists(st.sampled_from("abcdef"), min_size=1).map(tuple),
            st.sampled_from(["train", "valid", "test"]),
        ),
        min_size=1,
    )
)
def test_the_facts_of_rows_answer_their_questions(rows: list[Row]) -> None:
    extract = own_facts(rows, {"P1": "one", "P2": "two", "P3": "unused"}, "set")
    ((_, facts),) = extract.snapshots
    said = {(row.subject, row.relation, answer) for row in rows for answer in row.answers}
    assert {(fact.head, fact.relation, fact.tail) for fact in facts} == said
    assert len(facts) == len(said)
    assert len(extract.questions) == len(rows)
    for question in extract.questions:
        (slot,) = question.slots
        assert set(question.answers) == {tail for head, relation, tail in said if (head, relation) == slot}
    assert extract.relations.keys() == {fact.relation for fact in facts}
    assert extract.counts["facts_repeated"] == sum(len(row.answers) for row in rows) - len(said)
