"""Figures of answers over text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.answers import rouge_l, squad_em, squad_f1


@pytest.mark.parametrize(
    ("said", "answers", "em", "f1"),
    [
        ("The U.S.", ["us"], 1, 1),
        ("paris", ["Lima", "Paris!"], 1, 1),
        ("Paris, France", ["Paris"], 0, 2 / 3),
        ("", ["Paris"], 0, 0),
        ("the", ["a"], 1, 1),
        ("one one two", ["one two two"], 0, 2 / 3),
    ],
)
def test_answers_are_held_against_the_best_of_several(
    said: str, answers: list[str], em: float, f1: float
) -> None:
    assert squad_em(said, answers) == em
    assert squad_f1(said, answers) == pytest.approx(f1)


def test_rouge_l_is_that_of_the_paper() -> None:
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert rouge_l("The gunman police killed", reference) == pytest.approx(2 / 4)
    assert rouge_l("", reference) == 0


WORDS = st.lists(st.sampled_from("abc"), max_size=6)


@given(WORDS, WORDS)
def test_rouge_l_counts_the_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    def longest(x: list[str], y: list[str]) -> int:
        if not x or not y:
            return 0
        if x[-1] == y[-1]:
            return 1 + longest(x[:-1], y[:-1])
        return max(longest(x[:-1], y), longest(x, y[:-1]))

    total = len(first) + len(second)
    right = 2 * longest(first, second) / total if first and second else 0
    assert rouge_l(" ".join(first), " ".join(second)) == pytest.approx(right)
