"""What DSRAM shows, token by token, against the text as a list."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st
from torch import Tensor

from pipeline.longcontext.context import Seen
from pipeline.longcontext.dsram import Dsram, Shape
from tests.longcontext.standins import BLOCK, Random, dsram_settings

LAYERS, HIDDEN, BATCH, WINDOW, ROOM = 3, 6, 2, 8, 16
STEP = st.tuples(st.integers(1, 30), st.booleans())


def told(layer: int, start: int, width: int) -> Tensor:
    """Keys that say which token, text and layer they are of: [B, 1, T, 3]."""
    places = torch.arange(start, start + width, dtype=torch.float32)
    rows = [torch.stack([places, places * 0 + text, places * 0 + layer], dim=1) for text in range(BATCH)]
    return torch.stack(rows)[:, None]


def tokens_seen(seen: Seen, layer: int, text: int, query: int) -> list[tuple[int, int]]:
    """(token, distance from the query) of all that a query sees, by falling distance."""
    keys, values = seen.keys[text, 0], seen.values[text, 0]
    assert (keys[:, 1] == text).all()
    assert (keys[:, 2] == layer).all()
    assert values.equal(keys + 0.5)
    assert seen.positions is not None
    places, width = torch.atleast_2d(seen.positions).expand(BATCH, -1)[text], len(seen.queries_at)
    if seen.mask is None:
        visible = torch.arange(len(keys)) <= len(keys) - width + query
    else:
        visible = seen.mask[text, 0, query]
    distances = int(seen.queries_at[query]) - places[visible]
    found = zip(keys[visible, 0].int().tolist(), distances.tolist(), strict=True)
    return sorted(found, key=lambda pair: -pair[1])


@rules(deadline=None)
@given(
    steps=st.lists(STEP, min_size=1, max_size=12),
    stop=st.booleans(),
    ring=st.integers(1, 30),
    changes=st.fixed_dictionaries(
        {
            "first_layer": st.integers(0, 2),
            "reading_k": st.integers(0, 3),
            "stride": st.sampled_from([0, 1, 7]),
            "spill": st.sampled_from(["none", "host"]),
            "k_base": st.integers(0, 6),
        }
    ),
)
def test_a_query_sees_beginning_window_and_its_text_s_blocks_in_text_order(
    steps: list[tuple[int, bool]], stop: bool, ring: int, changes: dict[str, Any]
) -> None:
    settings = dsram_settings(**changes, window=WINDOW, room=ROOM, stop=stop, ring=ring * BLOCK)
    dsram = Dsram(settings, Shape(LAYERS, 1, 3, 10_000), Random(HIDDEN), None, "cpu")
    generator = torch.Generator().manual_seed(2)
    read = 0
    for width, asking in steps:
        dsram.asking = asking
        views, former = [], dsram.selected
        for layer in range(LAYERS):
            if layer == settings.first_layer:
                dsram.observe(torch.randn(BATCH, width, HIDDEN, generator=generator))
                oldest, newest = dsram.candidates
            keys = told(layer, read, width)
            views.append(dsram.read(layer, keys.repeat(1, 2, 1, 1), keys, keys + 0.5))
        own = settings.sinks // BLOCK
        for text in range(BATCH):
            picked = [] if dsram.selected is None else [b for b in dsram.selected[text].tolist() if b >= 0]
            assert picked == sorted(set(picked))
            assert all(block < newest for block in picked)
            fresh = dsram.selected is not former  # what is held may be forgotten behind it
            assert not fresh or all(block >= oldest for block in picked)
            limit = settings.k_base if asking else settings.reading_k
            assert len(picked) <= limit
            if not stop and (asking or (read and settings.reading_k)):
                assert len(picked) >= min(limit, newest - oldest) or asking
            for layer, seen in enumerate(views):
                blocks = picked if layer >= settings.first_layer else []
                retrieved = [token for block in blocks for token in range(block * BLOCK, (block + 1) * BLOCK)]
                for query in range(width):
                    at = read + query
                    found = tokens_seen(seen, layer, text, query)
                    shown = [token for token, _ in found]
                    # Positions run on without gaps, so distances count what lies between.
                    assert [distance for _, distance in found] == list(range(len(found)))[::-1]
                    begin = max(settings.sinks, newest * BLOCK)
                    right = [*range(min(settings.sinks, at + 1)), *retrieved, *range(begin, at + 1)]
                    assert shown == right
        assert begin <= max(settings.sinks, read - WINDOW)  # the window is whole for the first query
        assert read - begin < WINDOW + BLOCK + ROOM
        assert newest >= own
        read += width
