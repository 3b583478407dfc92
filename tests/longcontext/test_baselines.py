"""What each baseline keeps and reads, where it is known what it should."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.longcontext.attention import attend
from pipeline.longcontext.baselines.buffers import Growing
from pipeline.longcontext.baselines.evicting import Evicting, Lengths
from pipeline.longcontext.baselines.kept import Kept
from pipeline.longcontext.baselines.landmarks import ChunkLandmarks
from pipeline.longcontext.baselines.observing import pooled, received
from pipeline.longcontext.baselines.perhead import PerHeadEviction
from pipeline.longcontext.baselines.pyramidkv import PyramidKV, pyramid
from pipeline.longcontext.baselines.quest import QuestPages, bounds
from pipeline.longcontext.baselines.razor import RazorAttention
from pipeline.longcontext.baselines.settings import Landmarks, Observation, Quest, Razor, tokens
from pipeline.longcontext.baselines.snapkv import SnapKV
from pipeline.longcontext.baselines.windows import StreamingLLM
from pipeline.longcontext.context import Context, Seen
from pipeline.longcontext.running import Rotation
from tests.longcontext.baseline_settings import decoder

ROWS, HEADS, GROUPS, SIZE = 2, 4, 2, 8
PLAIN = Observation(queries=2, pooling=1, pool="mean")


class Unrotated(nn.Module):
    """Leaves every key where it is, so that a planted one is found wherever it stands."""

    def forward(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        ones = torch.ones(1, positions.shape[1], states.shape[-1])
        return ones, torch.zeros_like(ones)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def direction(which: int) -> Tensor:
    return 20.0 * torch.eye(SIZE)[which]


def read_prompt(context: Context, layers: int, keys: Tensor, last: Tensor, chunk: int = 7) -> None:
    """Let each layer read keys that are their own values; all queries but those of the end are noise."""
    length = keys.shape[2]
    queries = noise(ROWS, HEADS, length, SIZE, seed=5)
    queries[:, :, -last.shape[2] :] = last
    for start in range(0, length, chunk):
        part = slice(start, start + chunk)
        for layer in range(layers):
            context.read(layer, queries[:, :, part], keys[:, :, part], keys[:, :, part])


def one_more(context: Context, layer: int, query: Tensor) -> Seen:
    new = torch.zeros(ROWS, GROUPS, 1, SIZE)
    return context.read(layer, query, new, new)


def planted(length: int, places: list[list[int]]) -> Tensor:
    """Return keys of noise with a planted one a row and group: in the direction 0."""
    keys = noise(ROWS, GROUPS, length, SIZE)
    for row, groups in enumerate(places):
        for group, place in enumerate(groups):
            keys[row, group, place] = direction(0)
    return keys


PLACES = [[3, 17], [11, 8]]


@pytest.mark.parametrize("kind", [SnapKV, PyramidKV])
def test_each_head_keeps_the_key_that_the_last_queries_attend_to(kind: Any) -> None:
    keys = planted(30, PLACES)
    more = {"beta": 4.0} if kind is PyramidKV else {}
    context = kind(2, Unrotated(), Lengths(30, 4), 8, PLAIN, **more)
    read_prompt(context, 2, keys, direction(0).expand(ROWS, HEADS, 2, SIZE))
    masks = context.masks()
    counts = [8, 8] if kind is SnapKV else [2 + 11, 2 + 1]  # 6 on average: 2 · 6 − 6 / 4 and 6 / 4
    for mask, count in zip(masks, counts, strict=True):
        assert (mask.sum(dim=-1) == count).all()
        assert mask[..., -2:].all()
        for row, groups in enumerate(PLACES):
            for group, place in enumerate(groups):
                assert mask[row, group, place]
    context.ready()
    seen = one_more(context, 1, torch.zeros(ROWS, HEADS, 1, SIZE))
    assert seen.keys.shape == (ROWS, GROUPS, counts[1] + 1, SIZE)
    assert seen.queries_at.tolist() == [30]  # the answer goes on where the prompt ended
    for row, groups in enumerate(PLACES):
        for group, place in enumerate(groups):
            kept = keys[row, group][masks[1][row, group]]
            assert torch.equal(seen.keys[row, group, :-1], kept)
            assert any(torch.equal(key, keys[row, group, place]) for key in kept)


def test_pooling_keeps_the_neighbours_of_what_is_attended_to() -> None:
    keys = planted(30, PLACES)
    wide = Observation(queries=2, pooling=5, pool="max")
    context = SnapKV(1, Unrotated(), Lengths(30, 4), 7, wide)
    read_prompt(context, 1, keys, direction(0).expand(ROWS, HEADS, 2, SIZE))
    (mask,) = context.masks()
    for row, groups in enumerate(PLACES):
        for group, place in enumerate(groups):
            assert mask[row, group].nonzero().flatten().tolist() == [*range(place - 2, place + 3), 28, 29]


def test_heads_and_layers_compete_for_one_budget() -> None:
    keys = noise(ROWS, GROUPS, 30, SIZE)
    keys[:, 1, 4:20] = direction(0)  # sixteen tokens, all in one head
    context = PerHeadEviction(2, Unrotated(), Lengths(30, 4), 6, PLAIN)
    read_prompt(context, 2, keys, (direction(0) / 10).expand(ROWS, HEADS, 2, SIZE))
    masks = torch.stack(context.masks())  # L B G N
    assert (masks.sum(dim=(0, 2, 3)) == 2 * GROUPS * 6).all()
    assert masks[..., -2:].all()
    counts = masks.sum(dim=-1)
    # the budget is 16 besides the last two of each; a sixteenth of head 1's attention beats a thirtieth
    assert (counts[:, :, 0] == 2).all()
    assert (counts[:, :, 1].sum(dim=0) == 2 * 2 + 16).all()
    assert masks[:, :, 1, :4].sum() == masks[:, :, 1, 20:28].sum() == 0
    context.ready()
    seen = one_more(context, 0, torch.zeros(ROWS, HEADS, 1, SIZE))
    assert seen.mask is not None
    assert seen.mask.shape == (ROWS, GROUPS, 1, int(counts[0].max()) + 1)
    for row in range(ROWS):
        for group in range(GROUPS):
            visible = seen.keys[row, group][seen.mask[row, group, 0]]
            assert torch.equal(visible[:-1], keys[row, group][masks[0, row, group]])


def test_sharper_attention_counts_more_when_it_is_squared() -> None:
    queries = torch.stack([direction(0), direction(1)])[None, None] / 4  # one head, two queries
    keys = torch.zeros(1, 1, 12, SIZE)
    keys[0, 0, 2] = direction(0)  # all of one query's attention
    keys[0, 0, 3:10] = direction(1)  # a seventh each of the other's
    plain, squared = (received(queries, keys, power)[0, 0] for power in (1, 2))
    assert plain[2] / plain[3] < 8 < squared[2] / squared[3]


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 40),
    last=st.integers(1, 12),
    block=st.integers(1, 50),
    power=st.sampled_from([1, 2]),
)
def test_attention_in_blocks_is_that_of_the_whole_matrix(
    length: int, last: int, block: int, power: int
) -> None:
    last = min(last, length)
    queries, keys = 10 * noise(ROWS, HEADS, last, SIZE), 10 * noise(ROWS, GROUPS, length, SIZE, seed=1)
    logits = queries @ keys.repeat_interleave(2, dim=1).transpose(2, 3) / SIZE**0.5
    seen = torch.ones(last, length).tril(length - last).bool()
    attention = logits.masked_fill(~seen, -torch.inf).softmax(dim=-1).pow(power)
    right = attention.sum(dim=2).view(ROWS, GROUPS, 2, length).sum(dim=2)
    torch.testing.assert_close(received(queries, keys, power, block), right)


def test_pooled_scores_are_means_or_maxima_of_neighbours() -> None:
    scores = torch.tensor([[[0.0, 3.0, 0.0, 6.0]]])
    assert pooled(scores, 3, "mean").tolist() == [[[1.0, 1.0, 3.0, 2.0]]]
    assert pooled(scores, 3, "max").tolist() == [[[3.0, 3.0, 6.0, 6.0]]]


@given(
    mean=st.integers(1, 500),
    spare=st.integers(0, 500),
    layers=st.integers(1, 40),
    beta=st.floats(1, 40),
)
def test_a_pyramid_spends_the_budget_and_falls(mean: int, spare: int, layers: int, beta: float) -> None:
    counts = pyramid(mean, mean + spare, layers, beta)
    assert sum(counts) == mean * layers
    assert all(0 <= count <= mean + spare for count in counts)
    assert all(after <= before + 1 for before, after in pairwise(counts))  # up to rounding
    if layers > 1 and spare >= mean:
        assert abs(counts[-1] - mean / beta) <= 1


def test_a_budget_is_a_share_or_a_number() -> None:
    assert [tokens(budget, 1001) for budget in (0.3, 1.0, 300, 5000)] == [301, 1001, 300, 1001]


RAZOR = Razor(tokens=4, repeats=2, induction=0.5, echo=0.5, sinks=2, budgeted=False, least=5, part=3)


def test_only_retrieval_heads_keep_all_and_the_others_one_token_for_the_rest() -> None:
    keys = noise(ROWS, GROUPS, 30, SIZE)
    whole = torch.tensor([[True, False], [False, False]])
    context = RazorAttention(Unrotated(), Lengths(30, 4), whole, RAZOR, budget=1.0)
    assert context.window(30) == 10
    assert context.window(9) == 5
    read_prompt(context, 2, keys, noise(ROWS, HEADS, 2, SIZE))
    context.ready()
    dropped = keys[:, :, 2:20]
    for layer in range(2):
        seen = one_more(context, layer, torch.zeros(ROWS, HEADS, 1, SIZE))
        assert seen.bias is not None
        for group in range(GROUPS):
            visible = slice(None) if seen.mask is None else seen.mask[0, group, 0]
            shown, bias = seen.keys[0, group][visible][:-1], seen.bias[0, group, 0]
            if whole[layer, group]:
                assert torch.equal(shown, keys[0, group])
                assert not bias.any()
            else:
                torch.testing.assert_close(shown[0], dropped[0, group].mean(dim=0))
                assert torch.equal(shown[1:], torch.cat([keys[0, group, :2], keys[0, group, 20:]]))
                torch.testing.assert_close(bias[0], torch.tensor(18.0).log())
                assert not bias[1:].any()


def test_equal_keys_and_values_are_not_missed_where_one_token_stands_for_them() -> None:
    keys = noise(ROWS, GROUPS, 30, SIZE)
    keys[:, :, 2:20] = direction(3) / 20
    context = RazorAttention(
        Unrotated(), Lengths(30, 4), torch.zeros(1, 2, dtype=torch.bool), RAZOR, budget=1.0
    )
    read_prompt(context, 1, keys, noise(ROWS, HEADS, 2, SIZE))
    context.ready()
    query = noise(ROWS, HEADS, 1, SIZE, seed=9)
    seen = one_more(context, 0, query)
    right = torch.cat([keys, torch.zeros(ROWS, GROUPS, 1, SIZE)], dim=2)
    torch.testing.assert_close(
        attend(query, seen.keys, seen.values, seen.mask, seen.bias, None),
        attend(query, right, right, None, None, None),
    )


@given(seed=st.integers(0, 1000), page=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_the_range_of_a_page_bounds_the_logits_of_all_its_keys(seed: int, page: int) -> None:
    keys, queries = 20 * noise(ROWS, GROUPS, 4 * page, SIZE, seed=seed), 20 * noise(ROWS, HEADS, 3, SIZE)
    paged = keys.view(ROWS, GROUPS, 4, page, SIZE)
    limits = bounds(queries, paged.amin(dim=3), paged.amax(dim=3))
    logits = queries @ keys.repeat_interleave(2, dim=1).transpose(2, 3)
    highest = logits.view(ROWS, GROUPS, 2, 3, 4, page).amax(dim=(2, 5))
    assert (limits >= highest - 1e-4).all()
    if page == 1:
        torch.testing.assert_close(limits, highest)


def test_a_token_of_the_answer_reads_the_page_with_the_planted_key() -> None:
    keys = planted(30, PLACES)
    context = QuestPages(2, Unrotated(), Lengths(30, 4), 4, Quest(page=4, dense=1))
    read_prompt(context, 2, keys, noise(ROWS, HEADS, 2, SIZE))
    context.ready()
    query = direction(0).expand(ROWS, HEADS, 1, SIZE)
    assert one_more(context, 0, query).keys.shape[2] == 31  # a dense layer
    seen = one_more(context, 1, query)
    assert seen.keys.shape == (ROWS, GROUPS, 4 + 3, SIZE)  # a page, and the one that isn't complete
    for row, groups in enumerate(PLACES):
        for group, place in enumerate(groups):
            start = place // 4 * 4
            assert torch.equal(seen.keys[row, group, :4], keys[row, group, start : start + 4])
            assert torch.equal(seen.keys[row, group, 4:6], keys[row, group, 28:])


def test_ranges_cover_the_pages_that_the_answer_completes() -> None:
    context = QuestPages(1, Unrotated(), Lengths(6, 8), 4, Quest(page=4, dense=0))
    read_prompt(context, 1, noise(ROWS, GROUPS, 6, SIZE), noise(ROWS, HEADS, 1, SIZE))
    context.ready()
    for _ in range(8):
        one_more(context, 0, noise(ROWS, HEADS, 1, SIZE))
    paged = context.buffers[0].keys[:, :, :12].view(ROWS, GROUPS, 3, 4, SIZE)
    assert torch.equal(context.ranges[0].keys, paged.amin(dim=3))
    assert torch.equal(context.ranges[0].values, paged.amax(dim=3))


def stream(window: int, keys: Tensor, chunk: int) -> list[tuple[list[int], list[int]]]:
    """Return, for each query, the text places that it sees and how far back it sees them."""
    context = StreamingLLM(1, 2, window)
    named = torch.arange(keys.shape[2], dtype=torch.float32)[None, None, :, None].expand_as(keys)
    result = []
    for start in range(0, keys.shape[2], chunk):
        part = slice(start, start + chunk)
        queries = noise(ROWS, HEADS, keys[:, :, part].shape[2], SIZE)
        seen = context.read(0, queries, keys[:, :, part], named[:, :, part])
        assert seen.positions is not None
        for query, at in enumerate(seen.queries_at):
            visible = slice(None) if seen.mask is None else seen.mask[0, 0, query]
            places = seen.values[0, 0, :, 0][visible].int().tolist()
            result.append((places, (at - seen.positions[visible]).tolist()))
    return result


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 40), window=st.integers(1, 12), chunk=st.integers(1, 15))
def test_a_stream_sees_sinks_and_window_however_it_is_cut(length: int, window: int, chunk: int) -> None:
    for place, (places, back) in enumerate(stream(window, noise(ROWS, GROUPS, length, SIZE), chunk)):
        near = range(max(2, place - window), place + 1)
        assert places == [*range(min(2, place + 1)), *near]
        assert back[2:] == [place - other for other in near]
        assert all(away <= window + chunk + 1 for away in back)
        if chunk == 1:
            assert max(back) == min(place, window + 2)  # counted inside the cache, not in the text


@pytest.mark.parametrize("offload", [False, True])
def test_the_chunk_with_the_planted_key_is_fetched_at_positions_inside_the_window(offload: bool) -> None:
    keys = planted(60, [[9, 17], [30, 8]])
    landmarks = Landmarks(chunk=4, chunks=2, window=6, offload=offload)
    context = ChunkLandmarks(1, 2, Lengths(60, 4), landmarks)
    read_prompt(context, 1, keys, noise(ROWS, HEADS, 2, SIZE))
    context.asking = True
    context.ready()
    seen = one_more(context, 0, direction(0).expand(ROWS, HEADS, 1, SIZE))
    near = seen.keys.shape[2] - 2 - 8
    assert 6 < near <= 6 + 4
    assert seen.positions is not None
    assert seen.positions.tolist() == list(range(2 + 8 + near))
    assert seen.queries_at.tolist() == [2 + 8 + near - 1]
    for row, groups in enumerate([[9, 17], [30, 8]]):
        for group, place in enumerate(groups):
            start = 2 + (place - 2) // 4 * 4  # chunks are counted from the end of the sinks
            fetched = seen.keys[row, group, 2:10].view(2, 4, SIZE)
            assert any(torch.equal(chunk, keys[row, group, start : start + 4]) for chunk in fetched)


def test_while_a_text_is_read_chunks_are_fetched_by_the_queries_before() -> None:
    keys = planted(40, [[9, 9], [9, 9]])
    landmarks = Landmarks(chunk=4, chunks=1, window=6, offload=False)

    def fetched(aimed: int) -> Tensor:
        context = ChunkLandmarks(1, 2, Lengths(48, 4), landmarks)
        read_prompt(context, 1, keys, noise(ROWS, HEADS, 1, SIZE), chunk=8)
        seen = None
        for turn in range(2):
            query = direction(0) if turn == aimed else direction(1)
            new = noise(ROWS, GROUPS, 8, SIZE)
            seen = context.read(0, query.expand(ROWS, HEADS, 8, SIZE), new, new)
        assert seen is not None
        return seen.keys[:, :, 2:6]

    assert torch.equal(fetched(aimed=0), keys[:, :, 6:10])
    assert not torch.equal(fetched(aimed=1), keys[:, :, 6:10])


def test_queries_rotated_late_are_those_that_the_model_computes() -> None:
    lm = decoder()
    context = SnapKV(1, lm.base_model.rotary_emb, Lengths(20, 0), 10, PLAIN)
    queries, keys = noise(1, 3, 20, 16), noise(1, 1, 20, 16, seed=1)
    for start in range(0, 20, 6):
        part = slice(start, start + 6)
        context.read(0, queries[:, :, part], keys[:, :, part], keys[:, :, part])
    at = torch.arange(20)
    turned = Rotation(lm.base_model.rotary_emb).turned(queries, at)[:, :, -2:]
    right = received(turned, Rotation(lm.base_model.rotary_emb).turned(keys, at))[..., :-2]
    torch.testing.assert_close(context.scores(0, 2), right)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_is_kept_is_seen_whatever_the_heads_keep(data: st.DataObject) -> None:
    length, answer = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    bits = st.lists(st.booleans(), min_size=4 * length, max_size=4 * length)
    mask = torch.tensor(data.draw(bits)).view(ROWS, GROUPS, length)
    keys = noise(ROWS, GROUPS, length, SIZE)
    kept = Kept(keys, keys, mask, room=2)
    new = noise(ROWS, GROUPS, answer, SIZE, seed=3)
    seen = kept.seen(new, new, torch.arange(answer))
    for row in range(ROWS):
        for group in range(GROUPS):
            for query in range(answer):
                width = seen.keys.shape[2]
                causal = torch.arange(width) <= width - answer + query
                visible = causal if seen.mask is None else seen.mask[row, group, query]
                right = torch.cat([keys[row, group][mask[row, group]], new[row, group, : query + 1]])
                assert torch.equal(seen.keys[row, group][visible], right)


@given(widths=st.lists(st.integers(1, 9), min_size=1, max_size=9), room=st.integers(0, 30))
def test_a_buffer_holds_what_was_appended_and_no_more_room_than_a_quarter(
    widths: list[int], room: int
) -> None:
    buffer, parts = Growing(room), [noise(1, 2, width, 3, seed=width) for width in widths]
    for part in parts:
        buffer.append(part, part + 1)
    right = torch.cat(parts, dim=2)
    assert torch.equal(buffer.keys, right)
    assert torch.equal(buffer.values, right + 1)
    assert 2 * right.nbytes <= buffer.nbytes <= 2 * max(room * 24, right.nbytes * 5 // 4)


def test_a_base_class_of_eviction_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match="masks"):
        Evicting(1, Unrotated(), Lengths(1, 1))  # type: ignore[abstract]
