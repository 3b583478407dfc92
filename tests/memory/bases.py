"""Small bases on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from pipeline.memory.base import Base
from pipeline.memory.build import Facts, build

ENTITIES, RELATIONS = 7, 5
Triple = tuple[int, int, int]
TRIPLES = st.tuples(st.integers(0, ENTITIES - 1), st.integers(0, RELATIONS - 1), st.integers(0, ENTITIES - 1))


def rows(triples: Sequence[Triple]) -> np.ndarray:
    return np.array(triples, dtype=np.int64).reshape(-1, 3)


def built(
    folder: Path, facts: Facts, entities: int = ENTITIES, relations: int = RELATIONS, memory: int = 1 << 20
) -> tuple[Base, int]:
    """Return the base of `facts` over Q0, Q1, … and P0, P1, …, and how many facts came again."""
    names = [([f"{letter}{i}" for i in range(size)], [f"{letter.lower()} number {i}" for i in range(size)])
             for letter, size in (("Q", entities), ("P", relations))]  # fmt: skip
    return build(folder, names[:1], names[1:], facts, memory)
