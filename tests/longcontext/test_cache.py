from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.longcontext.cache import Ring
from pipeline.longcontext.context import Held
from pipeline.longcontext.spill import Spill

CPU = torch.device("cpu")
BATCH, WIDTH = 2, 5
BLOCK_BYTES = BATCH * WIDTH


def blocks(first: int, n: int) -> Tensor:
    """Blocks that differ from each other and from text to text."""
    numbers = torch.arange(first, first + n)[:, None, None] * 7 + torch.arange(BATCH)[None, :, None] * 3
    return (numbers + torch.arange(WIDTH)).to(torch.int8)


@given(
    slots=st.integers(1, 40),
    amounts=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    spilled=st.booleans(),
    data=st.data(),
)
def test_a_ring_is_a_list_of_which_the_end_stays(
    slots: int, amounts: list[int], spilled: bool, data: st.DataObject
) -> None:
    ring = Ring(slots, Spill(None, least=3 * BLOCK_BYTES) if spilled else None)
    model: list[Tensor] = []
    for amount in amounts:
        fresh = blocks(len(model), amount)
        ring.append(fresh)
        model.extend(fresh)
        assert ring.count == len(model)
        assert ring.oldest == (0 if spilled else max(0, len(model) - slots))
        if not model:
            continue
        number = st.integers(ring.oldest, len(model) - 1) | st.just(-1)
        row = st.lists(number, min_size=3, max_size=3)
        wanted = data.draw(st.lists(row, min_size=BATCH, max_size=BATCH))
        got = ring.gather(torch.tensor(wanted))
        assert got.shape == (BATCH, 3, WIDTH)
        for text, numbers in enumerate(wanted):
            for place, number_ in enumerate(numbers):
                assert number_ < 0 or got[text, place].equal(model[number_][text])
    gone = max(0, len(model) - slots) if spilled else 0
    assert ring.spill is None or len(ring.spill) == gone


@pytest.mark.parametrize("spill", [None, Spill(None)])
def test_what_the_ring_never_had_or_forgot_is_refused(spill: Spill | None) -> None:
    ring = Ring(2, spill)
    with pytest.raises(IndexError, match="no block was appended yet"):
        ring.gather(torch.tensor([[0], [0]]))
    ring.append(blocks(0, 5))
    with pytest.raises(IndexError, match=r"block 5 of \d to 4"):
        ring.gather(torch.tensor([[4], [5]]))
    if spill is None:
        with pytest.raises(IndexError, match="block 2 of 3 to 4"):
            ring.gather(torch.tensor([[4], [2]]))


def test_a_ring_takes_what_its_slots_take_and_no_more_once_it_is_full() -> None:
    ring = Ring(100, Spill(None, least=10 * BLOCK_BYTES))
    assert ring.held() == Held(0)
    ring.append(blocks(0, 10))
    assert ring.held() == Held(32 * BLOCK_BYTES)  # it begins small
    ring.append(blocks(10, 90))
    full = ring.held()
    assert full == Held(100 * BLOCK_BYTES)
    for start in range(100, 1000, 60):
        ring.append(blocks(start, 60))
        assert ring.held().device == full.device
    assert 900 * BLOCK_BYTES <= ring.held().host <= 1.125 * 900 * BLOCK_BYTES


def test_host_and_files_give_back_the_same_bytes(tmp_path: Path) -> None:
    segment = 4 * BLOCK_BYTES
    host = Spill(None, least=segment)
    both = Spill(2 * segment, str(tmp_path / "spilled"), least=segment)
    disk = Spill(0, str(tmp_path / "spilled"), least=segment)
    for start, n in ((0, 3), (3, 9), (12, 6)):
        for spill in (host, both, disk):
            spill.put(blocks(start, n))
    wanted = [(number, text) for number in (17, 0, 3, 4, 11, 12) for text in (1, 0)]
    right = torch.stack([blocks(number, 1)[0, text] for number, text in wanted])
    for spill in (host, both, disk):
        assert len(spill) == 18
        assert spill.get(wanted, CPU).equal(right)
    assert host.held() == Held(0, host=5 * segment)
    assert both.held() == Held(0, host=2 * segment, disk=3 * segment)
    assert disk.held() == Held(0, disk=5 * segment)
    on_disk = sorted(file.stat().st_size for file in (tmp_path / "spilled").rglob("*") if file.is_file())
    assert on_disk == [segment] * 8
    with pytest.raises(IndexError, match="block 18 of 18"):
        host.get([(18, 0)], CPU)
    del both, disk, spill
    assert not list((tmp_path / "spilled").iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies from a GPU need one")
def test_blocks_from_a_gpu_arrive_though_their_place_is_overwritten() -> None:
    spill = Spill(None, least=4 * BLOCK_BYTES)
    source = torch.empty(8, BATCH, WIDTH, dtype=torch.int8, device="cuda")
    for start in range(0, 400, 8):
        source.copy_(blocks(start % 16, 8))
        spill.put(source)
        source.zero_()
    wanted = [(number, number % BATCH) for number in range(400)]
    right = torch.stack([blocks(number % 16, 1)[0, text] for number, text in wanted])
    assert spill.get(wanted, torch.device("cuda")).cpu().equal(right)
