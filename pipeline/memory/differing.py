"""In how many bits codes differ from another: word by word, in arrays that stay in a processor's cache."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NARROW = 3
"""Words in which codes differ by no more than fits into 8 bits."""


class Differing:
    """Counts in how many bits codes differ from others, in arrays of its own.

    Args:
        most: codes at a time.
    """

    def __init__(self, most: int) -> None:
        self._xor = np.empty(most, np.uint64)
        self._bits = np.empty(most, np.uint8)
        self._sums = np.empty(most, np.uint8), np.empty(most, np.uint16)

    def count(
        self, codes: Sequence[NDArray[np.uint64]], wanted: NDArray[np.uint64], start: int, end: int
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return by how many bits each code from `start` to `end` differs; the next call overwrites it.

        Args:
            codes: by words.
            wanted: the first words to compare these with.
            start: first row.
            end: behind the last row.
        """
        size = end - start
        bits, total, wide = self._bits[:size], self._sums[0][:size], self._sums[1][:size]
        for place, (word, asked) in enumerate(zip(codes, wanted, strict=False)):
            np.bitwise_xor(word[start:end], asked, out=self._xor[:size])
            if place % NARROW == 0:
                if place == NARROW:
                    wide[:] = total
                elif place:
                    wide += total
                np.bitwise_count(self._xor[:size], out=total)
            else:
                np.bitwise_count(self._xor[:size], out=bits)
                total += bits
        if len(wanted) <= NARROW:
            return total
        wide += total
        return wide
