"""What workers compute in tests: they say so, and one of them is killed in the middle of it."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.memory.encoder import TextEncoder
from pipeline.weights import Encoder


@dataclass(frozen=True)
class Squares:
    """Squares the numbers of a block, says so in a file, and fails or dies once where it is told to."""

    told: Path
    fails: int = -1
    dies: int = -1

    def __call__(self, block: NDArray[np.int64]) -> NDArray[np.int64]:
        with self.told.open("a") as stream:
            stream.write(f"{block[0]}\n")
        if block[0] == self.fails:
            raise RuntimeError("the power is gone")
        mark = self.told.with_suffix(".died")
        if block[0] == self.dies and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block**2


class Dying(TextEncoder):
    """An encoder whose process is killed in the middle of the first batch that holds a word, once."""

    def __init__(self, encoder: Encoder, word: str, mark: Path, *mapped: object) -> None:
        super().__init__(encoder, "cpu", *mapped)  # type: ignore[arg-type]
        self.word, self.mark = word, mark

    def batch(self, texts: Sequence[str]) -> Tensor:
        vectors = super().batch(texts)
        if any(self.word in text for text in texts) and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return vectors
