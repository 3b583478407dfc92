"""Where blocks go that leave the device: host memory, and files beyond a limit.

On a GPU a block goes through one of a few pinned buffers, copied there on a stream of its own; a thread takes
it from the buffer to its place. Pinning all of a large store would take longer than filling it.
"""

import shutil
import tempfile
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from pipeline.longcontext.context import Held

LEAST, MOST, SHARE = 1 << 22, 1 << 28, 8
"""Bytes that are reserved at once: an eighth of what there is, within limits."""
BUFFERS = 3
"""Pinned buffers: one being filled, one being emptied, one to spare."""


class Spill:
    """Blocks by number, from 0, each [B, ...] of one shape and type; written once, read row by row.

    Args:
        host_bytes: of host memory; None for any amount. What doesn't fit goes to files.
        folder: for files, made when the first is; empty for the system's temporary folder. The files are
            deleted with this object.
        least: bytes reserved at once, at least.
    """

    def __init__(self, host_bytes: int | None, folder: str = "", least: int = LEAST) -> None:
        self._limit, self._folder, self._least = host_bytes, folder, least
        self._segments: list[Tensor] = []
        self._starts: list[int] = []
        self._room = 0
        self._count = self._host = self._disk = 0
        self._files: Path | None = None
        self._buffers: list[Tensor] = []
        self._written: deque[Future[None]] = deque(maxlen=BUFFERS)
        self._turn = 0
        self._stream: torch.cuda.Stream | None = None
        self._worker: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return self._count

    def put(self, blocks: Shaped[Tensor, "n B *block"]) -> None:
        """Add blocks behind the last; `blocks` may be overwritten once this returns."""
        if blocks.is_cuda:
            self._put_from_gpu(blocks)
        else:
            self._place(self._count, blocks)
        self._count += len(blocks)

    def get(self, wanted: Sequence[tuple[int, int]], device: torch.device) -> Shaped[Tensor, "m *block"]:
        """Return rows, one for each (number of the block, row of the batch), on `device`.

        Raises:
            IndexError: a block has not been put.
        """
        for number, _ in wanted:
            if not 0 <= number < self._count:
                raise IndexError(f"block {number} of {self._count}")
        for future in self._written:
            future.result()
        first = self._segments[0][0, 0]
        rows = torch.empty((len(wanted), *first.shape), dtype=first.dtype, pin_memory=device.type == "cuda")
        for place, (number, text) in enumerate(wanted):
            at = bisect_right(self._starts, number) - 1
            rows[place] = self._segments[at][number - self._starts[at], text]
        return rows.to(device, non_blocking=True)

    def held(self) -> Held:
        """Return the bytes reserved; pinned buffers are the host's."""
        pinned = sum(buffer.nbytes for buffer in self._buffers)
        return Held(device=0, host=self._host + pinned, disk=self._disk)

    def _place(self, number: int, blocks: Tensor) -> None:
        """Copy blocks from the host's memory to their places."""
        for offset, block in enumerate(blocks):
            if number + offset == self._room:
                self._reserve(block)
            self._segments[-1][number + offset - self._starts[-1]].copy_(block)

    def _reserve(self, block: Tensor) -> None:
        """Make room for further blocks."""
        wanted = min(max(self._least, (self._host + self._disk) // SHARE), MOST)
        count = max(1, wanted // max(1, block.nbytes))
        shape, size = (count, *block.shape), count * block.nbytes
        self._starts.append(self._room)
        self._room += count
        if self._limit is None or self._host + size <= self._limit:
            self._segments.append(torch.empty(shape, dtype=block.dtype))
            self._host += size
            return
        if self._files is None:
            if self._folder:
                Path(self._folder).mkdir(parents=True, exist_ok=True)
            self._files = Path(tempfile.mkdtemp(prefix="longcontext-", dir=self._folder or None))
            weakref.finalize(self, shutil.rmtree, self._files, ignore_errors=True)
        file = self._files / f"{len(self._segments):06d}"
        flat = torch.from_file(str(file), shared=True, size=count * block.numel(), dtype=block.dtype)
        self._segments.append(flat.view(shape))
        self._disk += size

    def _put_from_gpu(self, blocks: Tensor) -> None:
        if self._worker is None or self._stream is None:
            self._worker, self._stream = ThreadPoolExecutor(1), torch.cuda.Stream(blocks.device)  # type: ignore[no-untyped-call]
        copied = blocks.clone()  # on the GPU, so that the caller need not wait for the slower copy
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        if len(self._written) == BUFFERS:
            self._written[0].result()
        if turn >= len(self._buffers):
            self._buffers.append(torch.empty(0, dtype=blocks.dtype, pin_memory=True))
        if self._buffers[turn].numel() < copied.numel():
            self._buffers[turn] = torch.empty(copied.numel(), dtype=copied.dtype, pin_memory=True)
        pinned = self._buffers[turn][: copied.numel()].view(copied.shape)
        self._stream.wait_stream(torch.cuda.current_stream(blocks.device))
        with torch.cuda.stream(self._stream):
            pinned.copy_(copied, non_blocking=True)
            copied.record_stream(self._stream)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        number, place = self._count, self._place

        def write() -> None:
            arrived.synchronize()
            place(number, pinned)

        self._written.append(self._worker.submit(write))
