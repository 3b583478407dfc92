"""What only a GPU can show: its kernels, copies beside it, no waiting while a text is read, flat memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.longcontext.attention import attend, reference
from pipeline.longcontext.context import FullKV
from pipeline.longcontext.dsram import Dsram, Shape
from pipeline.longcontext.lowrank import calibrate
from pipeline.longcontext.running import Runner
from tests.longcontext.standins import BLOCK, Random, dsram_settings
from tests.tiny import tiny_decoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HIDDEN = 48


def decoder(dtype: torch.dtype) -> Any:
    return tiny_decoder("llama", vocabulary=97).eval().requires_grad_(False).to("cuda", dtype)


def tokens(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(seed)).cuda()


def context(lm: Any, bases: Any = None, **changes: Any) -> Dsram:
    return Dsram(dsram_settings(**changes), Shape.of(lm.config), Random(HIDDEN).cuda(), bases, "cuda")


@pytest.mark.parametrize(("width", "places"), [(1, 40), (16, 16), (16, 40)])
@pytest.mark.parametrize("masked", [False, True])
def test_kernels_in_half_precision_compute_what_loops_compute(width: int, places: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 6, width, 64), (2, 2, places, 64), (2, 2, places, 64))
    queries, keys, values = (torch.randn(shape, generator=generator).cuda().bfloat16() for shape in shapes)
    mask = torch.ones(2, 1, width, places, dtype=torch.bool).tril(places - width).cuda() if masked else None
    if mask is not None:
        mask[1, ..., : min(8, places - width)] = False
    right = reference(queries.float(), keys.float(), values.float(), mask, None, None)
    torch.testing.assert_close(
        attend(queries, keys, values, mask, None, None).float(), right, rtol=0, atol=2e-2
    )


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-3), (torch.bfloat16, 0.5)])
def test_with_all_blocks_it_computes_what_full_attention_computes(dtype: torch.dtype, atol: float) -> None:
    lm = decoder(dtype)
    ids = tokens(2, 120)
    right = lm(ids).logits[:, -1]
    precision = str(dtype).removeprefix("torch.")
    changes = {"first_layer": 0, "reading_k": 100, "k_base": 100, "ring": 2 * BLOCK, "precision": precision}
    got = Runner(lm, chunk=16).prompt(ids, context(lm, **changes), asked=6)
    torch.testing.assert_close(got, right, rtol=0, atol=atol)


def test_reading_never_waits_for_the_gpu_and_takes_no_more_memory_as_the_text_grows() -> None:
    lm = decoder(torch.bfloat16)
    runner = Runner(lm, chunk=256)
    bases = calibrate(runner, [tokens(2, 256)], lambda: FullKV(runner.layers), first=1)
    changes = {"rank_keys": 8, "rank_values": 8, "precision": "int4", "ring": 64 * BLOCK, "window": 64}
    dsram = context(lm, bases, spill="host", **changes)
    text = tokens(4, 256)
    taken = []
    for step in range(64):
        torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")
        try:
            runner.step(text, dsram, logits=0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        taken.append(torch.cuda.memory_allocated() - dsram._summaries.nbytes)
    assert len(set(taken[8:])) == 1
    assert dsram.held().host > 0
