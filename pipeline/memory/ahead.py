"""Work that goes on beside whoever takes its results, which come in the order of the work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(run: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `run` of each item, in order; that of some later ones is under way meanwhile.

    Args:
        run: what is called, in threads: it should be work that numpy does.
        items: what it is called with.
        workers: threads; as many results at most wait to be taken. One is the caller's own.
    """
    if workers == 1:
        yield from map(run, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(run, item))
                if len(waiting) == workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
