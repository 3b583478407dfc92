from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import intervals
from pipeline.evaluation.intervals import bootstrap, paired, resampled_means, sign_test


def test_resampled_means_equal_explicit_resampling():
    values = np.random.default_rng(1).random((7, 2))
    drawn = np.random.default_rng(3).integers(7, size=(50, 7))
    assert np.allclose(resampled_means(values, 50, 3), values[drawn].mean(axis=1))


def test_chunks_draw_the_same_resamples(monkeypatch):
    values = np.random.default_rng(1).random((9, 3))
    whole = resampled_means(values, 40, 5)
    monkeypatch.setattr(intervals, "_CELLS", 30)
    assert np.allclose(resampled_means(values, 40, 5), whole)


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(0).normal(2.0, 1.0, 2000)
    interval = bootstrap(values, 4000, 0)[0]
    half = 1.96 * values.std() / np.sqrt(2000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(interval.mean - half, abs=0.1 * half)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.1 * half)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        interval = bootstrap((generator.random(100) < 0.8).astype(float), 400, trial)[0]
        covered += interval.low <= 0.8 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 5))
def test_interval_holds_the_mean_and_stays_in_range(values, seed):
    interval = bootstrap(values, 200, seed)[0]
    assert -1e-9 <= interval.low <= interval.high + 1e-9 <= 1 + 2e-9
    assert min(values) - 1e-9 <= interval.mean <= max(values) + 1e-9
    assert bootstrap(values, 200, seed)[0] == interval


@pytest.mark.parametrize("count", [1, 20, 200])
def test_equal_answers_do_not_claim_certainty(count):
    right, wrong = bootstrap(np.stack([np.ones(count), np.zeros(count)], axis=1), 100, 0)
    assert right.high == 1.0
    assert right.low**count == pytest.approx(0.025)
    assert wrong.low == 0.0
    assert wrong.high == pytest.approx(1 - right.low)


@given(st.integers(0, 40), st.integers(0, 40))
def test_sign_test_equals_summing_the_binomial(wins, losses):
    tosses = wins + losses
    share = sum(comb(tosses, heads) for heads in range(min(wins, losses) + 1)) / 2**tosses
    assert sign_test(wins, losses) == pytest.approx(min(1.0, 2 * share))
    assert sign_test(wins, losses) == sign_test(losses, wins)


def test_sign_test_takes_thousands_of_questions():
    assert sign_test(2000, 2000) == 1.0
    assert 0 < sign_test(2300, 2000) < 1e-5


def test_pairing_sees_what_separate_intervals_hide():
    generator = np.random.default_rng(0)
    easy = generator.random(400) < 0.5
    second = easy.astype(float)
    first = np.where(np.arange(400) % 20 == 0, 1.0, second)
    compared = paired(first, second, 2000, 0)
    alone = bootstrap(np.stack([first, second], axis=1), 2000, 0)
    assert alone[0].low < alone[1].high
    assert compared.difference.low > 0
    assert compared.losses == 0
    assert compared.wins == (first != second).sum()
    assert compared.p < 0.01


def test_a_method_does_not_differ_from_itself():
    values = np.arange(5) / 5
    assert paired(values, values, 100, 0) == ((0.0, 0.0, 0.0), 0, 0, 1.0)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="at least one question"):
        bootstrap([], 10, 0)
    with pytest.raises(ValueError, match="finite values"):
        bootstrap([0.5, float("nan")], 10, 0)
    with pytest.raises(ValueError, match=r"one shape \[n\], not \(2, 1\) and \(3, 1\)"):
        paired([0, 1], [0, 1, 1], 10, 0)
