import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kg.splits import MOST_HELD_OUT, Splits, rank

DEFAULT = Splits(valid=0.1, test=0.2, unseen_relations=0.1)
KEYS = st.text(min_size=1, max_size=8)
SIZES = st.dictionaries(KEYS, st.integers(1, 1000), min_size=1, max_size=60)


@given(KEYS, st.integers(0, 5), KEYS)
def test_rank_is_a_share_that_depends_on_key_and_purpose(key: str, seed: int, purpose: str) -> None:
    assert 0 <= rank(key, seed, purpose) < 1
    assert rank(key, seed, purpose) == rank(key, seed, purpose)
    assert rank(key, seed, purpose) != rank(key, seed, purpose + "'")
    assert rank(key, seed, purpose) != rank(key, seed + 1, purpose)


def test_rank_is_the_same_on_every_machine() -> None:
    assert rank("airport:EGLL", 0, "fold") == pytest.approx(0.047640457839197126)


def test_folds_have_their_shares() -> None:
    folds = [DEFAULT.fold_of(f"city:{i}", 3) for i in range(5000)]
    assert folds.count("test") / 5000 == pytest.approx(0.2, abs=0.02)
    assert folds.count("valid") / 5000 == pytest.approx(0.1, abs=0.02)
    assert folds.count("train") / 5000 == pytest.approx(0.7, abs=0.02)


@given(SIZES, st.integers(0, 9), st.floats(0, 0.9), st.randoms(use_true_random=False))
def test_held_out_relations_are_few_small_and_in_no_order(sizes, seed, share, random) -> None:
    splits = Splits(valid=0.1, test=0.2, unseen_relations=share)
    held_out = splits.held_out(sizes, seed)
    assert len(held_out) <= round(share * len(sizes))
    assert held_out < sizes.keys()
    assert all(sizes[key] <= MOST_HELD_OUT * sum(sizes.values()) for key in held_out)
    shuffled = list(sizes.items())
    random.shuffle(shuffled)
    assert splits.held_out(dict(shuffled), seed) == held_out


def test_held_out_relations_reach_their_share_where_they_can() -> None:
    sizes = {f"P{i}": 10 for i in range(40)}
    assert len(DEFAULT.held_out(sizes, 0)) == 4
    assert DEFAULT.held_out(sizes, 0) != DEFAULT.held_out(sizes, 1)
    assert DEFAULT.held_out({"P1": 5}, 0) == set()


@pytest.mark.parametrize("share", [-0.1, 1.0])
@pytest.mark.parametrize("name", ["valid", "test", "unseen_relations"])
def test_a_share_out_of_range_is_named(name: str, share: float) -> None:
    with pytest.raises(ValueError, match=rf"splits\.{name} must be .*, not {share}"):
        Splits(**({"valid": 0.1, "test": 0.1, "unseen_relations": 0.1} | {name: share}))


def test_shares_that_leave_nothing_to_train_on_are_named() -> None:
    with pytest.raises(ValueError, match=r"splits\.valid \+ splits\.test must be below 1"):
        Splits(valid=0.5, test=0.5, unseen_relations=0)
