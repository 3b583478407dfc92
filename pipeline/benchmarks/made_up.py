"""Graphs of any size with the shape of Wikidata, made as a stream out of nothing but their seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from pipeline.memory.ahead import ahead
from pipeline.memory.base import CODES, RELATIONS
from pipeline.memory.coding import CodesWriter, Part, coded
from pipeline.memory.flat import FlatWriter

BLOCK = 1 << 20
"""Facts made at once; another number makes another graph."""
CODED = 1 << 15
"""Vectors made and coded at once."""
PRIME = 2_654_435_761
"""Spreads ranks over entities, so that hubs don't lie side by side."""
SYLLABLES = (
    "am",
    "ber",
    "ce",
    "dar",
    "el",
    "fjo",
    "gro",
    "hav",
    "is",
    "jet",
    "kno",
    "la",
    "mo",
    "ne",
    "os",
    "per",
)


@dataclass(frozen=True)
class MadeUp:
    """A graph whose degrees follow Zipf's law: rank r is drawn in proportion to r^-exponent.

    Every entity heads a fact. A fact may be drawn twice.
    """

    facts: int
    entities: int
    relations: int
    exponent: float
    """From 0, where all are drawn alike, to below 1; of heads, tails and relations."""
    seed: int

    def drawn(self, random: np.random.Generator, count: int, size: int) -> Int[np.ndarray, " n"]:
        """Return `count` ranks below `size` by the inverse of the law's (continuous) distribution."""
        ranks = random.random(count) ** (1 / (1 - self.exponent)) * size
        return ranks.astype(np.int64).clip(max=size - 1)

    def ends(self, random: np.random.Generator, count: int) -> Int[np.ndarray, " n"]:
        """Return `count` entities, well-known ones more often."""
        spread: Int[np.ndarray, " n"] = self.drawn(random, count, self.entities) * PRIME % self.entities
        return spread

    def blocks(self, workers: int = 1) -> Iterator[Int[np.ndarray, "n 3"]]:
        """Yield the facts, each block from a seed of its own, whichever thread makes it."""
        yield from ahead(self._block, range(0, self.facts, BLOCK), workers)

    def _block(self, start: int) -> Int[np.ndarray, "n 3"]:
        random = np.random.default_rng([self.seed, start // BLOCK])
        count = min(BLOCK, self.facts - start)
        heads = self.ends(random, count)
        first = np.arange(start, min(start + count, self.entities))
        heads[: len(first)] = first
        relations = self.drawn(random, count, self.relations)
        return np.stack([heads, relations, self.ends(random, count)], axis=1)

    def names(self, letter: str, size: int) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
        """Yield blocks of keys, `letter` and a number, with made-up labels."""
        for start in range(0, size, BLOCK):
            numbers = range(start, min(start + BLOCK, size))
            yield [f"{letter}{number}" for number in numbers], labels(numbers)

    def vectors(self, dimensions: int, workers: int = 1) -> Callable[[FlatWriter], None]:
        """Return what writes codes of random vectors, one an entity, and random vectors of the relations."""

        def code(first: int) -> Part:
            random = np.random.default_rng([self.seed, 2, first])
            size = min(CODED, self.entities - first)
            vectors = random.standard_normal((size, dimensions), dtype=np.float32)
            words, factors = coded(vectors, np.zeros(dimensions, np.float32))
            return Part(list(words.T), factors, None)

        def write(files: FlatWriter) -> None:
            codes = CodesWriter(files, CODES, np.zeros(dimensions))
            starts = range(0, self.entities, CODED)
            with tqdm(total=len(starts), desc="codes", unit="block", delay=5) as bar:
                for part in ahead(code, starts, workers):
                    codes.copy(part)
                    bar.update()
            random = np.random.default_rng([self.seed, 3])
            column = files.column(RELATIONS, np.float16, (dimensions,))
            column.append(random.standard_normal((self.relations, dimensions)))

        return write


WORDS = [f"{first}{second}".title() for first in SYLLABLES for second in SYLLABLES]


def labels(numbers: range) -> list[str]:
    """Return names of two words that sound like one, and the number."""
    some = np.arange(numbers.start, numbers.stop)
    a, b, c = (some * factor // 7 % 16 for factor in (1, 3, 11))
    words = zip((16 * a + b).tolist(), (16 * c + a).tolist(), numbers, strict=True)
    return [f"{WORDS[first]} {WORDS[second]} {number}" for first, second, number in words]
