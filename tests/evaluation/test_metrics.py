import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.metrics import auroc, exact_match, normalise, place_of_gold, token_f1

words = st.lists(st.sampled_from(["paris", "the", "new", "york", "3.5", "-2", "o'hare", "São"]), max_size=5)
phrases = words.map(" ".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Eiffel Tower. ", "eiffel tower"),
        ("U.S.", "us"),
        ("O’Hare", "ohare"),
        ("Baden-Württemberg", "baden württemberg"),
        ("São Tomé", "são tomé"),
        ("Sa\u0303o Tome\u0301", "são tomé"),
        ("ＰＡＲＩＳ", "paris"),
        ("Straße", "strasse"),
        ("-12 ft", "-12 ft"),
        ("−12 ft", "-12 ft"),
        ("2-12", "2 12"),
        ("1,024", "1024"),
        ("1,024.50", "1024.50"),
        ("C++", "c++"),
        ("A", "a"),
        ("The The", "the the"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_normalise_by_example(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("left", "right"), [("-12", "12"), ("3.5", "35"), ("C", "C++"), ("resume", "résumé"), ("10/12", "1012")]
)
def test_what_makes_an_answer_wrong_is_kept(left, right):
    assert normalise(left) != normalise(right)


@given(st.text(max_size=20))
def test_normalising_twice_changes_nothing_more(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=20))
def test_a_text_that_says_something_never_becomes_empty(text):
    assert bool(normalise(text)) == bool(unicodedata.normalize("NFKC", text).strip())


@given(st.text(alphabet="abcdefgh XYZ", max_size=20))
def test_case_white_space_and_final_stop_never_matter(text):
    assert normalise(f" {text.upper()}  .") == normalise(text.lower()) or not text.strip()


def test_exact_match_takes_any_answer_of_the_set():
    assert exact_match("the Lyon", ["Paris", "Lyon"]) == 1.0
    assert exact_match("Paris, Lyon", ["Paris", "Lyon"]) == 0.0
    assert exact_match("", ["Paris"]) == 0.0
    assert exact_match("", [""]) == 0.0
    assert exact_match("Paris", []) == 0.0


def slow_f1(prediction, answers):
    """Word precision and recall, pairing words one at a time."""
    best = 0.0
    for answer in answers:
        said, left = normalise(prediction).split(), normalise(answer).split()
        total, shared = len(left), 0
        for word in said:
            if word in left:
                left.remove(word)
                shared += 1
        if shared:
            precision, recall = shared / len(said), shared / total
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@given(phrases, st.lists(phrases, max_size=3))
def test_f1_equals_the_slow_reference(prediction, answers):
    assert token_f1(prediction, answers) == pytest.approx(slow_f1(prediction, answers))


@given(phrases, st.lists(phrases, min_size=1, max_size=3))
def test_f1_is_one_where_the_match_is_exact(prediction, answers):
    score = token_f1(prediction, answers)
    assert 0 <= score <= 1
    if exact_match(prediction, answers):
        assert score == 1.0


@given(st.lists(st.integers(0, 9), max_size=8), st.sets(st.integers(0, 9)))
def test_place_of_gold_is_the_first(ids, gold):
    place = place_of_gold(ids, gold)
    if place:
        assert ids[place - 1] in gold
        assert not gold & set(ids[: place - 1])
    else:
        assert not gold & set(ids)


scores = st.lists(st.integers(-3, 3).map(lambda value: value / 2), min_size=1, max_size=12)


@given(scores, scores)
def test_auroc_equals_the_count_over_all_pairs(answerable, unanswerable):
    pairs = [(u > a) + 0.5 * (u == a) for a in answerable for u in unanswerable]
    assert auroc(answerable, unanswerable) == pytest.approx(np.mean(pairs))


@given(scores, scores)
def test_auroc_depends_on_the_order_of_scores_alone(answerable, unanswerable):
    warped = auroc(np.exp(answerable), np.exp(unanswerable))
    assert warped == pytest.approx(auroc(answerable, unanswerable))
    assert auroc(unanswerable, answerable) == pytest.approx(1 - auroc(answerable, unanswerable))


def test_auroc_refuses_an_empty_side_and_nan():
    with pytest.raises(ValueError, match="at least one unanswerable question"):
        auroc([0.1], [])
    with pytest.raises(ValueError, match=re.escape("an answerable question is not a number")):
        auroc([float("nan")], [0.1])
