import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.differing import Differing


@given(words=st.integers(1, 9), size=st.integers(0, 20), start=st.integers(0, 20), seed=st.integers(0, 99))
def test_bits_are_counted_in_codes_of_any_length(words: int, size: int, start: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << 64, (words, 40), dtype=np.uint64)
    wanted = ~codes[:, 3] if seed % 2 else codes[:, 4]  # some differ in all bits
    differing = Differing(20)
    for _ in range(2):
        found = differing.count(list(codes), wanted, start, start + size)
        right = np.bitwise_count(codes[:, start : start + size] ^ wanted[:, None]).sum(axis=0)
        assert found.tolist() == right.tolist()
