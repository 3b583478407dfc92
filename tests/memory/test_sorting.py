from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory.sorting import Sorter

LARGEST = 2**64 - 1


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.lists(st.integers(0, LARGEST) | st.integers(0, 9), max_size=40), max_size=6),
    memory=st.sampled_from([1, 100, 1000, 10**6]),
    largest=st.sampled_from([3, 1000, LARGEST]),
    workers=st.integers(1, 3),
)
def test_each_number_comes_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[int]], memory: int, largest: int, workers: int
) -> None:
    folder = tmp_path_factory.mktemp("sorting") / "runs"
    blocks = [[min(number, largest) for number in block] for block in blocks]
    with Sorter(folder, largest, memory, workers) as sorter:
        for block in blocks:
            sorter.add(np.array(block, np.uint64))
        assert sorter.taken == sum(map(len, blocks))
        found = [number for part in sorter.merged() for number in part.tolist()]
        assert list(folder.iterdir()) == []
    assert found == sorted({number for block in blocks for number in block})
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["random", "ascending", "all but one alike"])
def test_no_block_is_larger_than_memory_and_the_disk_holds_each_number_once(
    tmp_path: Path, kind: str
) -> None:
    random = np.random.default_rng(0)
    numbers = random.integers(0, 2**40, 200_000, dtype=np.uint64)
    if kind == "ascending":
        numbers.sort()
    if kind == "all but one alike":
        numbers[1:] = 2**39 + random.integers(0, 2**20, len(numbers) - 1, dtype=np.uint64)
    memory = 1 << 18

    def size() -> int:
        return sum(file.stat().st_size for file in (tmp_path / "runs").iterdir())

    def given_back(sorter: Sorter) -> Iterator[np.ndarray]:
        for part in sorter.merged():
            assert part.nbytes <= memory
            assert size() <= numbers.nbytes
            yield part

    with Sorter(tmp_path / "runs", 2**40, memory) as sorter:
        for part in np.array_split(numbers, 17):
            sorter.add(part)
        found = np.concatenate(list(given_back(sorter)))
    assert np.array_equal(found, np.unique(numbers))


def test_files_go_where_the_caller_breaks_off(tmp_path: Path) -> None:
    def broken() -> None:
        with Sorter(tmp_path / "runs", 99, 64) as sorter:
            sorter.add(np.arange(100, dtype=np.uint64))
            assert any((tmp_path / "runs").iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert not (tmp_path / "runs").exists()
