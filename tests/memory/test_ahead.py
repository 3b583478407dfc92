import threading
import time

import pytest

from pipeline.memory.ahead import ahead


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_and_no_more_wait_than_there_are_workers(workers: int) -> None:
    begun: list[int] = []

    def run(item: int) -> int:
        begun.append(item)
        time.sleep(0.01 * (item % 3))
        return item * item

    for place, result in enumerate(ahead(run, range(20), workers)):
        assert result == place * place
        assert len(begun) <= place + workers
    assert sorted(begun) == list(range(20))


def test_what_fails_is_told_in_its_place_and_nothing_goes_on() -> None:
    def run(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    found = []
    with pytest.raises(ValueError, match="three"):
        found += [found.append(item) for item in ahead(run, range(1000), 2)]  # type: ignore[func-returns-value]
    assert found == [0, 1, 2]
    assert threading.active_count() == 1 or not any("ThreadPool" in t.name for t in threading.enumerate())
