from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.longcontext.context import FullKV, Held
from pipeline.longcontext.dsram import Dsram, Shape
from pipeline.longcontext.lowrank import Bases, calibrate
from pipeline.longcontext.running import Runner
from pipeline.longcontext.selection import Retrieving, budget
from tests.longcontext.standins import BLOCK, Random, Wanted, dsram_settings
from tests.tiny import tiny_decoder

FAMILIES = ("llama", "qwen2", "gpt_neox")
HIDDEN = 48


def decoder(family: str) -> Any:
    torch.manual_seed(0)
    return tiny_decoder(family, vocabulary=97).eval().requires_grad_(False)


def tokens(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(seed))


def context(
    lm: Any, retriever: Retrieving | None = None, bases: Bases | None = None, **changes: Any
) -> Dsram:
    return Dsram(dsram_settings(**changes), Shape.of(lm.config), retriever or Random(HIDDEN), bases, "cpu")


def bases_of(runner: Runner, first: int) -> Bases:
    return calibrate(runner, [tokens(2, 200, seed=8)], lambda: FullKV(runner.layers), first)


EVERYTHING = {"first_layer": 0, "reading_k": 100, "k_base": 100}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [5, 16, 64])
@pytest.mark.parametrize(("ring", "spill"), [(2, "host"), (2, "disk"), (100, "none")])
def test_with_all_blocks_it_computes_what_full_attention_computes(
    family: str, chunk: int, ring: int, spill: str
) -> None:
    lm = decoder(family)
    ids = tokens(2, 120)
    right = lm(ids).logits
    runner = Runner(lm, chunk)
    dsram = context(lm, **EVERYTHING, ring=ring * BLOCK, spill=spill)
    torch.testing.assert_close(runner.prompt(ids[:, :112], dsram, asked=6), right[:, 111], rtol=0, atol=2e-4)
    for place in range(112, 120):
        logits = runner.step(ids[:, place : place + 1], dsram, logits=1)
        torch.testing.assert_close(logits[:, 0], right[:, place], rtol=0, atol=2e-4)
    assert dsram.selected is not None
    assert dsram.selected.tolist() == [list(range(1, 24))] * 2  # 96 of 106 tokens had left the window


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_computes_what_the_exact_cache_computes(family: str) -> None:
    lm = decoder(family)
    runner = Runner(lm, chunk=16)
    size = Shape.of(lm.config).groups * Shape.of(lm.config).size
    ids = tokens(2, 120)
    exact = context(lm)
    right = runner.prompt(ids, exact, asked=6)
    full = context(lm, bases=bases_of(runner, first=1), rank_keys=size, rank_values=size)
    torch.testing.assert_close(runner.prompt(ids, full, asked=6), right, rtol=0, atol=2e-4)
    assert exact.selected is not None
    assert full.selected is not None
    assert full.selected.tolist() == exact.selected.tolist()


def test_fewer_numbers_and_bits_compute_less_exactly() -> None:
    lm = decoder("gpt_neox")
    runner = Runner(lm, chunk=16)
    bases, ids = bases_of(runner, first=1), tokens(2, 120)
    right = runner.prompt(ids, context(lm, k_base=9), asked=6)
    errors = []
    for rank, precision in ((48, "int8"), (48, "int4"), (8, "int8"), (8, "float32")):
        changes = {"rank_keys": rank, "rank_values": rank, "precision": precision, "k_base": 9}
        got = runner.prompt(ids, context(lm, bases=bases, **changes), asked=6)
        errors.append(float((got - right).abs().max()))
    assert 0 < errors[0] < 0.05 < errors[1] < errors[2]
    assert errors[3] == pytest.approx(errors[2], rel=0.2)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("spill", ["none", "host"])
@pytest.mark.parametrize("reading_k", [0, 3])
def test_decoding_from_the_cache_computes_what_reading_again_computes(
    stop: bool, spill: str, reading_k: int
) -> None:
    lm = decoder("llama")
    runner = Runner(lm, chunk=16)
    ids, changes = tokens(3, 130), {"stop": stop, "spill": spill, "reading_k": reading_k, "k_base": 5}
    kept = context(lm, **changes)
    runner.prompt(ids[:, :120], kept, asked=6)
    for place in range(120, 130):
        logits = runner.step(ids[:, place : place + 1], kept, logits=1)
        again = context(lm, **changes)
        runner.prompt(ids[:, :120], again, asked=6)
        right = runner.step(ids[:, 120 : place + 1], again, logits=1)
        torch.testing.assert_close(logits, right, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spill", ["none", "host"])
def test_each_text_sees_its_own_blocks_as_if_it_were_alone(spill: str) -> None:
    lm = decoder("qwen2")
    runner = Runner(lm, chunk=16)
    first = 1 if spill == "host" else 17  # the ring holds the last 8 of 25 blocks
    rows = [[first, first + 3, first + 4], [first + 1], []]
    ids = tokens(3, 120)
    changes = {"spill": spill, "stop": True, "k_base": 5}

    def answered(rows: list[list[int]], ids: Tensor) -> tuple[Tensor, Dsram]:
        dsram = context(lm, Wanted(HIDDEN, rows, first), **changes)
        logits = [runner.prompt(ids[:, :116], dsram, asked=6)[:, None]]
        logits.append(runner.step(ids[:, 116:118], dsram, logits=2))
        logits.append(runner.step(ids[:, 118:119], dsram, logits=1))
        return torch.cat(logits, dim=1), dsram

    together, dsram = answered(rows, ids)
    assert dsram.selected is not None
    assert dsram.selected.tolist() == [rows[0], [-1, -1, *rows[1]], [-1, -1, -1]]
    assert dsram.retrieved_tokens.tolist() == [3 * BLOCK, BLOCK, 0]
    for text, row in enumerate(rows):
        alone, _ = answered([row], ids[text : text + 1])
        torch.testing.assert_close(together[text], alone[0], rtol=0, atol=1e-4)
    other, _ = answered([rows[0], [first + 2], []], ids)
    assert (other[1] - together[1]).abs().max() > 1e-2  # it does matter which


def test_a_selection_is_fetched_once_and_held_for_its_stride() -> None:
    lm = decoder("llama")
    runner = Runner(lm, chunk=16)
    ids = tokens(2, 120)
    dsram = context(lm, stride=4, k_base=3)
    fetched = []
    gather = dsram._ring.gather
    dsram._ring.gather = lambda numbers: fetched.append(numbers) or gather(numbers)  # type: ignore[method-assign, assignment, func-returns-value]
    runner.prompt(ids[:, :100], dsram, asked=3)
    renewed = []
    for place in range(100, 118):
        before, held = len(fetched), dsram.candidates
        runner.step(ids[:, place : place + 1], dsram, logits=1)
        if len(fetched) > before:
            renewed.append(place)
            assert dsram.selected is not None
            assert place - dsram.candidates[1] * BLOCK < 8 + BLOCK  # the window has moved on with it
        else:
            assert dsram.candidates[0] == held[0]
    assert renewed == [101, 105, 109, 113, 117]
    assert len(fetched) == 6


def tensors(part: Any, seen: set[int]) -> dict[int, int]:
    """Storages that an object holds, by address, and their bytes; not those of modules."""
    if id(part) in seen or isinstance(part, nn.Module):
        return {}
    seen.add(id(part))
    if isinstance(part, Tensor):
        storage = part.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()} if storage.nbytes() else {}
    inner: list[Any] = []
    if isinstance(part, list | tuple | set):
        inner = list(part)
    elif isinstance(part, dict):
        inner = list(part.values())
    elif hasattr(part, "__dict__"):
        inner = list(vars(part).values())
    found: dict[int, int] = {}
    for each in inner:
        found |= tensors(each, seen)
    return found


@pytest.mark.parametrize("spill", ["none", "host"])
@pytest.mark.parametrize(("reading_k", "precision"), [(0, "float32"), (4, "int8")])
def test_bytes_held_are_those_of_the_tensors_and_constant_once_the_ring_is_full(
    spill: str, reading_k: int, precision: str
) -> None:
    lm = decoder("llama")
    runner = Runner(lm, chunk=16)
    dsram = context(
        lm,
        spill=spill,
        reading_k=reading_k,
        precision=precision,
        summary_precision="int8" if precision == "int8" else "float16",
        bases=bases_of(runner, first=1),
        rank_keys=6,
        rank_values=6,
        ring=40 * BLOCK,
    )
    constant = set(tensors([dsram._latents], set()))
    device = []
    for start in range(0, 960, 16):
        runner.step(tokens(2, 16, seed=start), dsram, logits=0)
        held = dsram.held()
        found = {place: size for place, size in tensors(dsram, set()).items() if place not in constant}
        assert held.device + held.host == sum(found.values())
        device.append(held.device - dsram._summaries.nbytes if spill == "host" else held.device)
    full = 20  # chunks: the ring has 40 blocks, 4 a chunk, and what forgets has dropped its first summaries
    assert len(set(device[full:])) == 1
    assert device[0] < device[full]
    assert (held.host > 0) == (spill == "host")


def test_nothing_but_sinks_and_window_is_kept_below_the_first_layer() -> None:
    lm = decoder("llama")
    runner = Runner(lm, chunk=16)
    grown = {}
    for first in (1, 3):
        dsram = context(lm, first_layer=first, ring=100 * BLOCK)
        sizes = []
        for length in (100, 300):
            runner.step(tokens(1, length), dsram, logits=0)
            sizes.append(dsram.held().device)
        grown[first] = dsram._ring.held()
    assert grown[1].device == 3 * grown[3].device


def test_a_budget_of_blocks_grows_with_the_logarithm_of_the_text() -> None:
    settings = dsram_settings(k_base=8, k_from=4096, k_log=1.5, k_most=20)
    lengths = (1, 4096, 8192, 65536, 1 << 20, 1 << 24)
    assert [budget(settings, length) for length in lengths] == [8, 8, 10, 14, 20, 20]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sinks": 6}, "sinks must be whole blocks"),
        ({"window": 0}, "window at least 1"),
        ({"ring": 30}, "ring must be whole blocks of 4 tokens, not 30"),
        ({"reading_k": 101}, "k_most the most"),
        (
            {"precision": "int2"},
            "precision must be one of int8, int4, float16, bfloat16, float32, not 'int2'",
        ),
        ({"spill": "tape"}, "spill must be one of none, host, disk, not 'tape'"),
        ({"summary_precision": "float32"}, "summary_precision must be one of int8, float16"),
        ({"first_layer": 4}, "first_layer is 4, of a decoder of 4 layers"),
        ({"rank_keys": 3}, "a rank of 3 with no basis"),
    ],
)
def test_settings_that_cannot_work_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        context(decoder("llama"), **changes)


def test_bases_of_other_layers_are_refused() -> None:
    lm = decoder("llama")
    with pytest.raises(ValueError, match="first_layer is 1; the bases are for layers from 2 on"):
        context(lm, bases=bases_of(Runner(lm, chunk=16), first=2))


def test_more_than_the_decoder_has_positions_for_is_refused() -> None:
    lm = decoder("llama")
    runner = Runner(lm, chunk=400)
    dsram = context(lm, **EVERYTHING)
    runner.step(tokens(1, 400), dsram, logits=0)
    with pytest.raises(ValueError, match="exceed the decoder's 512 positions: lower window, room"):
        runner.step(tokens(1, 400), dsram, logits=0)


def test_before_a_question_nothing_is_selected_and_a_short_text_has_nothing_to_select() -> None:
    lm = decoder("llama")
    dsram = context(lm)
    with pytest.raises(ValueError, match="nothing was selected yet"):
        _ = dsram.retrieved_tokens
    ids = tokens(2, 14)
    logits = Runner(lm, chunk=16).prompt(ids, dsram, asked=2)
    torch.testing.assert_close(logits, lm(ids).logits[:, -1], rtol=0, atol=1e-4)
    assert dsram.retrieved_tokens.tolist() == [0, 0]
    assert dsram.held() != Held(0)
