from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.memory.flat import Flat, FlatWriter
from pipeline.memory.offsets import Offsets, OffsetsWriter, expand

LENGTHS = st.lists(st.sampled_from([0, 0, 1, 2, 30, 65_535, 65_536, 10**6, 2**40]), max_size=300)


def opened(folder: Path, lengths: list[int], cut: int) -> Offsets:
    with FlatWriter(folder, "offsets") as files:
        writer = OffsetsWriter(files, "rows")
        for part in (lengths[:cut], lengths[cut:]):
            writer.append(np.array(part, np.int64))
        writer.close()
    return Offsets(Flat.open(folder, "offsets"), "rows")


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, cut=st.integers(0, 300), data=st.data())
def test_every_start_is_exact(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], cut: int, data: st.DataObject
) -> None:
    offsets = opened(tmp_path_factory.mktemp("offsets"), lengths, cut)
    starts = [0, *np.cumsum(lengths).tolist()]
    assert len(offsets) == len(lengths)
    assert offsets.end == starts[-1]
    order = np.array(data.draw(st.permutations(range(len(starts)))))
    assert offsets[order].tolist() == [starts[row] for row in order]
    assert [offsets.one(row) for row in order.tolist()] == offsets[order].tolist()
    if lengths:
        rows = order[order < len(lengths)]
        start, end = offsets.ranges(rows)
        assert (end - start).tolist() == [lengths[row] for row in rows]
        filled = [row for row, length in enumerate(lengths) if length]
        ends = [starts[row] for row in filled] + [starts[row + 1] - 1 for row in filled]
        assert offsets.row(np.array(ends, np.int64)).tolist() == filled * 2


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.integers(0, 150), max_size=80).map(sorted),
    cuts=st.lists(st.integers(0, 80), max_size=4).map(sorted),
    spare=st.integers(0, 100),
)
def test_rows_are_counted_by_their_members(
    tmp_path_factory: pytest.TempPathFactory, members: list[int], cuts: list[int], spare: int
) -> None:
    folder = tmp_path_factory.mktemp("offsets")
    rows = (members[-1] + 1 if members else 0) + spare
    with FlatWriter(folder, "offsets") as files:
        writer = OffsetsWriter(files, "rows")
        for part in np.split(np.array(members, np.int64), cuts):
            writer.count(part)
        writer.fill(rows)
        writer.close()
    offsets = Offsets(Flat.open(folder, "offsets"), "rows")
    assert len(offsets) == rows
    found = offsets.ranges(np.arange(rows))
    assert (found.end - found.start).tolist() == [members.count(row) for row in range(rows)]
    places, of = expand(found)
    assert places.tolist() == list(range(len(members)))
    assert of.tolist() == members


def test_a_row_without_a_hub_costs_about_two_bytes(tmp_path: Path) -> None:
    opened(tmp_path, [20] * 100_000, 77)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.bin"))
    assert size < 2.2 * 100_000
