import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.longcontext.summaries import Summaries
from tests.longcontext.standins import BLOCK, Random

HIDDEN = 6
RETRIEVER = Random(HIDDEN)


def states(tokens: int) -> Tensor:
    return torch.randn(2, tokens, HIDDEN, generator=torch.Generator().manual_seed(3))


@given(widths=st.lists(st.integers(1, 70), min_size=1, max_size=8))
def test_blocks_are_pooled_whole_however_the_text_is_cut(widths: list[int]) -> None:
    text = states(sum(widths))
    summaries = Summaries(BLOCK, RETRIEVER.summaries, "float16")
    for part in text.split(widths, dim=1):
        summaries.add(part, oldest=0)
    count = text.shape[1] // BLOCK
    assert summaries.count == count
    if count:
        right = RETRIEVER.summaries(text[:, : count * BLOCK].unflatten(1, (count, BLOCK)))
        torch.testing.assert_close(summaries.of(0, count).float(), right, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_memory_is_constant_where_old_blocks_are_forgotten(precision: str) -> None:
    text = states(4000)
    summaries = Summaries(BLOCK, RETRIEVER.summaries, precision)
    taken = set()
    for start in range(0, 4000, 8):
        summaries.add(text[:, start : start + 8], oldest=max(0, start // BLOCK - 20))
        taken.add(summaries.nbytes)
    width = 8 + 2 if precision == "int8" else 8 * 2
    assert taken == {2 * 64 * width}
    right = RETRIEVER.summaries(text[:, 3960:].unflatten(1, (10, BLOCK)))
    torch.testing.assert_close(summaries.of(990, 1000).float(), right, rtol=2e-3, atol=5e-2)


def test_summaries_in_eight_bits_score_nearly_the_same() -> None:
    text = states(400)
    exact, small = (Summaries(BLOCK, RETRIEVER.summaries, kind) for kind in ("float16", "int8"))
    for summaries in (exact, small):
        summaries.add(text, oldest=0)
    query = RETRIEVER.query(text[:, -1:])
    one, other = (RETRIEVER.scores(query, summaries.of(0, 100).float()) for summaries in (exact, small))
    assert (one - other).abs().max() < 0.02 * one.abs().max()
    assert small.nbytes < 0.7 * exact.nbytes
