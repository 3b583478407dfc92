"""Lists of numbers of different lengths in tensors that stay where they are, and numbers for strings."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

ROOM = 16
"""Lists that come later have room for so many numbers each, on average, and for twice as many at most."""


class Numbers:
    """The numbers of strings, in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, texts: Iterable[str]) -> list[int]:
        """Return the numbers of strings, known or new."""
        known = self._numbers
        return [known.setdefault(text, len(known)) for text in texts]

    def known(self, texts: Iterable[str], otherwise: int) -> list[int]:
        """Return the numbers of strings, `otherwise` for new ones."""
        return [self._numbers.get(text, otherwise) for text in texts]


class Lists:
    """Lists of numbers, with room for more of them.

    Args:
        lists: the first ones.
        more: lists that may come.
        device: where they are read.
    """

    def __init__(self, lists: Sequence[Sequence[int]], more: int, device: torch.device) -> None:
        self.longest = max([2 * ROOM, *map(len, lists)])
        """Numbers of the longest list that there may be."""
        self._count = self._end = 0
        self._start = torch.zeros(len(lists) + more + 1, dtype=torch.long, device=device)
        self._numbers = torch.zeros(sum(map(len, lists)) + more * ROOM, dtype=torch.long, device=device)
        self.add(lists)

    def fit(self, lists: Sequence[Sequence[int]]) -> bool:
        """Return whether there is room for more lists."""
        longest, numbers = max(map(len, lists), default=0), sum(map(len, lists))
        rows = self._count + len(lists) < len(self._start)
        return rows and longest <= self.longest and self._end + numbers <= len(self._numbers)

    def add(self, lists: Sequence[Sequence[int]]) -> None:
        """Add lists, for which there is room."""
        ends = list(accumulate(map(len, lists), initial=self._end))
        flat = np.fromiter((number for numbers in lists for number in numbers), np.int64)
        device = self._start.device
        self._start[self._count : self._count + len(ends)] = torch.tensor(ends, device=device)
        self._numbers[self._end : ends[-1]] = torch.from_numpy(flat).to(device)
        self._count, self._end = self._count + len(lists), ends[-1]

    def __getitem__(self, rows: Int[Tensor, "*n"]) -> tuple[Int[Tensor, "*n L"], Int[Tensor, "*n"]]:
        """Return the numbers of each row's list, padded with -1, and how many they are."""
        start = self._start[rows]
        sizes = self._start[rows + 1] - start
        place = torch.arange(self.longest, device=rows.device)
        numbers = self._numbers[(start[..., None] + place).clamp(max=len(self._numbers) - 1)]
        return numbers.masked_fill(place >= sizes[..., None], -1), sizes
