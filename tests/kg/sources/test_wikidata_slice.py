from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.kg.build import build
from pipeline.kg.facts import read_table
from pipeline.kg.sources import Triple
from pipeline.kg.sources.wikidata_slice import WikidataSlice
from pipeline.kg.splits import Splits

SLICE = WikidataSlice(
    folder="slice", exclude_sources=[], cap={}, questions=["simplequestions"], inverse=False
)
ENTITIES = """qid\tlabel\tlabel_source\tdegree\tdescription\taliases
Q1\tAda "the first"\ttrex\t3\tmathematician\tA. L.|Lady L.
Q2\tLondon\ttrex\t2\t\t
Q3\tParis\tforeign\t1\t\t
Q4\tClub\ttrex\t4\t\t
Q5\tOther club\ttrex\t1\t\t
Q6\tLondon\ttrex\t1\tin Ontario\t
"""
RELATIONS = """pid\tlabel\ttriples\tdescription
P19\tplace of birth\t2\t
P54\tmember of team\t3\t
P9\tunused\t0\t
"""
TRIPLES = """s\tp\to\tsources
Q1\tP19\tQ2\ttrex
Q1\tP19\tQ6\ttrex,foreign
Q1\tP19\tQ2\ttrex
Q1\tP54\tQ4\tforeign
Q2\tP54\tQ4\ttrex
Q4\tP54\tQ5\ttrex
Q6\tP19\tQ3\ttrex
Q5\tP54\tQ5\ttrex
"""
DATED = """s\tp\to\tstart\tend\tsource
Q2\tP54\tQ4\t\t330\ttrex
Q2\tP54\tQ4\t1998\t\ttrex
Q2\tP54\tQ4\t1998\t2001\tforeign
Q1\tP54\tQ4\t-335\t-323\tforeign
Q4\tP54\tQ5\t2005\t2001\ttrex
"""
QUESTIONS = {
    "train": "Q1\tP19\tQ2\twhere was ada born\nQ2\tR19\tQ1\twho was born in london\n",
    "valid": "Q4\tP54\tQ5\twhat team is club in \nQ5\tR54\tQ4\twho is in the other club\n",
    "test": "Q1\tP54\tQ5\tada's team?\nQ9\tP19\tQ2\twhere was it?\nQ9\tR19\tQ1\twho was it?\n",
}


@pytest.fixture
def files(write) -> dict[str, str]:
    texts = {
        "slice/entities.tsv.gz": ENTITIES,
        "slice/relations.tsv": RELATIONS,
        "slice/triples.tsv.gz": TRIPLES,
        "slice/temporal_triples.tsv.gz": DATED,
    }
    for split, text in QUESTIONS.items():
        texts[f"simplequestions_wikidata/annotated_wd_data_{split}_answerable.txt"] = text
    for name, text in texts.items():
        write(name, text)
    return texts


def facts_of(source: WikidataSlice) -> dict[tuple[str, str, str], Triple]:
    (_, facts), *others = source.extract().snapshots
    assert not others
    return {(fact.head, fact.relation, fact.tail): fact for fact in facts}


def test_all_facts_come_with_labels_and_their_latest_period(files) -> None:
    extract = SLICE.extract()
    facts = facts_of(SLICE)
    assert len(facts) == 7
    assert extract.entities["Q1"].label == 'Ada "the first"'
    assert extract.entities["Q1"].aliases == ("A. L.", "Lady L.")
    assert extract.relations == {"P19": "place of birth", "P54": "member of team"}
    dates = {key: (fact.start, fact.end) for key, fact in facts.items() if fact.start or fact.end}
    assert dates == {("Q2", "P54", "Q4"): ("1998", "2001"), ("Q1", "P54", "Q4"): ("-0335", "-0323")}
    assert facts["Q1", "P19", "Q6"].source == "trex,foreign"
    expected = {
        "rows": 8,
        "facts_repeated": 1,
        "self_loops": 1,
        "facts_dated": 2,
        "dated_rows": 5,
        "periods_superseded": 2,
        "dated_rows_that_end_before_they_start": 1,
    }
    assert expected.items() <= extract.counts.items()


def test_an_excluded_source_leaves_neither_facts_nor_dates_nor_labels(files) -> None:
    facts = facts_of(replace(SLICE, exclude_sources=["FOREIGN"]))
    assert facts.keys() == {
        ("Q1", "P19", "Q2"),
        ("Q1", "P19", "Q6"),
        ("Q2", "P54", "Q4"),
        ("Q4", "P54", "Q5"),
        ("Q5", "P54", "Q5"),
    }
    assert facts["Q2", "P54", "Q4"].end == ""
    assert "Q3" not in replace(SLICE, exclude_sources=["foreign"]).extract().entities


def test_questions_are_answered_by_all_labels_of_their_slot(files) -> None:
    extract = SLICE.extract()
    asked = {question.text: question for question in extract.questions}
    assert asked["where was ada born"].answers == ("London",)  # two places of one name
    assert asked["where was ada born"].slots == (("Q1", "P19"),)
    assert asked["what team is club in"].split == "valid"
    assert asked["ada's team?"].kind == "human"
    assert len(asked) == 3
    expected = {
        "simplequestions_test_slot_absent": 1,
        "simplequestions_object_not_among_tails": 1,
        "simplequestions_train_inverse_left_out": 1,
        "simplequestions_valid_inverse_left_out": 1,
        "simplequestions_test_inverse_left_out": 1,
    }
    assert expected.items() <= extract.counts.items()


def test_inverse_questions_bring_the_inverse_facts_of_their_slots(files, tmp_path: Path) -> None:
    source = replace(SLICE, inverse=True)
    extract = source.extract()
    inverse = {key for key in facts_of(source) if key[1].startswith("R")}
    assert inverse == {("Q2", "R19", "Q1"), ("Q5", "R54", "Q4"), ("Q5", "R54", "Q5")}
    assert extract.relations["R19"] == "place of birth of"
    answers = {question.text: question.answers for question in extract.questions}
    assert answers["who was born in london"] == ('Ada "the first"',)
    assert set(answers["who is in the other club"]) == {"Club", "Other club"}
    assert extract.counts["simplequestions_test_slot_absent"] == 2
    build(extract, Splits(valid=0.1, test=0.1, unseen_relations=0), 0, tmp_path / "tables")
    assert "who was born in london" in read_table(tmp_path / "tables", "questions")["text"].to_pylist()


def test_a_cap_keeps_whole_slots_whatever_their_order(files, write) -> None:
    most = facts_of(replace(SLICE, cap={"P54": 2}))
    kept = {key for key in most if key[1] == "P54"}
    assert 1 <= len(kept) <= 2
    assert {key for key in most if key[1] == "P19"} == {key for key in facts_of(SLICE) if key[1] == "P19"}
    header, *rows = TRIPLES.splitlines()
    write("slice/triples.tsv.gz", "\n".join([header, *reversed(rows)]) + "\n")
    assert facts_of(replace(SLICE, cap={"P54": 2})).keys() == most.keys()
    assert facts_of(replace(SLICE, cap={"P54": 0})).keys() == facts_of(SLICE).keys()


@given(
    pairs=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("uvwxyz")), unique=True),
    most=st.integers(1, 20),
)
def test_a_cap_never_cuts_a_slot(pairs: list[tuple[str, str]], most: int) -> None:
    triples = [Triple(head, "P54", tail) for head, tail in pairs]
    counts: Counter[str] = Counter()
    kept = replace(SLICE, cap={"P54": most})._capped(triples, counts)
    heads = {triple.head for triple in kept}
    assert kept == [triple for triple in triples if triple.head in heads]
    assert len(kept) <= most
    assert counts["facts_over_cap"] == len(triples) - len(kept)


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (
            "triples.tsv.gz",
            "Q2\tP54\tQ4",
            "Q2\tP54\tQ99",
            r"line 6: Q99 is not in entities.tsv.gz; add it there",
        ),
        (
            "triples.tsv.gz",
            "Q2\tP54\tQ4",
            "Q2\tP99\tQ4",
            r"line 6: P99 is not in relations.tsv; add it there",
        ),
        ("triples.tsv.gz", "Q2\tP54\tQ4\ttrex", "Q2\tP54\tQ4", r"line 6: 3 columns instead of 4"),
        ("triples.tsv.gz", TRIPLES, "s\tp\to\tsources\n", "holds a header and no rows"),
        ("entities.tsv.gz", "label_source", "origin", r"line 1: lacks the column 'label_source'"),
        ("entities.tsv.gz", "Q3\tParis", "Q2\tParis", "line 4: Q2 is listed twice; correct the line"),
        ("entities.tsv.gz", "Q3\tParis", "Q3\t", "line 4: Q3 has no label; correct the line"),
        ("relations.tsv", RELATIONS, "", r"relations.tsv: empty"),
        ("temporal_triples.tsv.gz", "-335", "c. 335", r"line 5: 'c. 335' to '-323' are no years; correct"),
    ],
)
def test_bad_files_are_named_with_line_and_remedy(files, write, name, old, new, expected) -> None:
    assert old in files[f"slice/{name}"]
    path = write(f"slice/{name}", files[f"slice/{name}"].replace(old, new, 1))
    with pytest.raises(UserError, match=expected) as caught:
        SLICE.extract()
    assert str(path) in str(caught.value)


def test_bad_questions_are_named(files, write) -> None:
    write("simplequestions_wikidata/annotated_wd_data_test_answerable.txt", "Q1\tX19\tQ2\twhere\n")
    with pytest.raises(UserError, match=r"test_answerable.txt, line 1: 'X19' is no property like P19 or R19"):
        SLICE.extract()


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.questions must name some of simplequestions, .* not 'quiz'"):
        replace(SLICE, questions=["quiz"])
    with pytest.raises(ValueError, match=r"data.cap.P54 must be 0 \(all\) or more, not -1"):
        replace(SLICE, cap={"P54": -1})
