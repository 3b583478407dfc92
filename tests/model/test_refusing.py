"""Thresholds by validation questions: kinds are pooled, each has its bound, and wrong finds don't count."""

import pytest

from pipeline.model.refusing import Judged, limit, rightly, spare


def test_one_kind_is_refused_by_its_share_alone() -> None:
    values = {"template": [row / 1000 for row in range(1000)]}
    assert sum(value > limit(values, 0.005) for value in values["template"]) == 4
    assert limit(values, 0.0) == pytest.approx(0.999)


def test_the_odd_questions_of_a_small_kind_do_not_decide() -> None:
    usual = [row / 2000 for row in range(1000)]
    alone = limit({"template": usual}, 0.005)
    assert limit({"template": usual, "multihop": [0.1] * 199 + [1.0] * 2}, 0.005) < alone + 0.01
    assert limit({"template": usual, "multihop": [0.1] * 9 + [1.0]}, 0.005) < alone + 0.01


def test_a_kind_that_is_doubted_as_a_whole_keeps_its_questions() -> None:
    """Pooled, all hundred could be refused among many others; by chance at most three would be."""
    values = {"template": [0.1] * 100_000, "multihop": [0.9 + row / 1000 for row in range(100)]}
    chosen = limit(values, 0.005)
    assert sum(value > chosen for value in values["multihop"]) == spare(100, 0.005) == 2


@pytest.mark.parametrize(("count", "share"), [(50, 0.005), (300, 0.005), (300, 0.05), (20, 0.3)])
def test_a_kind_may_lose_what_chance_takes(count: int, share: float) -> None:
    """By the odds of each number of refusals, multiplied out."""
    odds = [(1 - share) ** count]
    for taken in range(1, count + 1):
        odds.append(odds[-1] * (count - taken + 1) / taken * share / (1 - share))
    allowed = spare(count, share)
    assert sum(odds[allowed + 1 :]) <= 0.05
    assert allowed == 1 or sum(odds[allowed:]) > 0.05


def test_questions_that_would_be_answered_wrongly_do_not_count() -> None:
    judged = {"a": [Judged(0.1, True), Judged(1.0, False)], "b": [Judged(0.9, False)]}
    assert rightly(judged) == {"a": [0.1]}


def test_where_nothing_is_found_all_questions_count() -> None:
    assert rightly({"a": [Judged(0.1, False)], "b": [Judged(0.9, False)]}) == {"a": [0.1], "b": [0.9]}


def test_without_a_question_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ValueError, match="no validation question has an answer"):
        limit({}, 0.005)
