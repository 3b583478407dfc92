from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.longcontext.dsram import Dsram, Shape
from pipeline.longcontext.episodes import Replay, Texts, Window, answered, asked, joined, read
from pipeline.longcontext.running import Runner
from pipeline.longcontext.settings import Dsram as Settings
from tests.tiny import tiny_decoder

WINDOW = Window(first_layer=2, sinks=4, tokens=12, block=4)
TEXT, ASKED = 48, 6
SETTINGS = Settings(
    first_layer=2,
    block=4,
    sinks=4,
    window=12,
    room=32,
    k_base=3,
    k_from=4096,
    k_log=0,
    k_most=3,
    stop=True,
    reading_k=0,
    stride=0,
    ring=1024,
    rank_keys=0,
    rank_values=0,
    precision="float32",
    summary_precision="float16",
    spill="none",
    host_bytes=0,
    folder="",
)


def decoder(family: str) -> Any:
    return tiny_decoder(family, vocabulary=97).eval().requires_grad_(False)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(97, shape, generator=torch.Generator().manual_seed(seed))


class Told:
    """A retriever whose choice is told: the blocks of each row, -1 for none."""

    def __init__(self, chosen: Tensor) -> None:
        self.chosen = chosen

    def summaries(self, states: Tensor) -> Tensor:
        return states.mean(dim=2)

    def query(self, states: Tensor) -> Tensor:
        return states

    def scores(self, query: Tensor, summaries: Tensor) -> Tensor:
        scores = torch.full(summaries.shape[:2], -1.0)
        for row, blocks in enumerate(self.chosen.tolist()):
            scores[row, [block for block in blocks if block >= 0]] = 1.0
        return scores


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("chunk", [8, 24])
def test_what_is_replayed_is_what_dsram_computes(family: str, chunk: int) -> None:
    lm = decoder(family)
    runner = Runner(lm, chunk)
    ids, answer = drawn(3, TEXT + ASKED), drawn(3, 5, seed=1)
    chosen = torch.tensor([[5, 0, 2], [-1, 3, -1], [-1, -1, -1]])
    context = Dsram(SETTINGS, Shape.of(lm.config), Told(chosen), None, "cpu")
    logits = [runner.prompt(ids, context, ASKED)[:, None]]
    logits += [runner.step(answer[:, place : place + 1], context, logits=1) for place in range(4)]
    right = torch.cat(logits, dim=1)

    texts = read(runner, ids[:, :TEXT], WINDOW)
    rows = torch.arange(3)
    states = asked(runner, texts, rows, torch.cat([ids[:, TEXT:], answer[:, :-1]], dim=1))
    got = answered(runner, Replay(texts, rows, chosen), states, last=5)
    torch.testing.assert_close(got, right, rtol=0, atol=2e-4)
    assert (got[0] - answered(runner, Replay(texts, rows, chosen - 7), states, 5)[0]).abs().max() > 1e-3


def replayed(texts: Texts, runner: Runner, chosen: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = torch.arange(2)
    states = asked(runner, texts, rows, drawn(2, 9, seed=3))
    return answered(runner, Replay(texts, rows, chosen, bias), states, last=4)


def test_texts_read_apart_are_those_read_together() -> None:
    runner = Runner(decoder("llama"), 16)
    ids, chosen = drawn(2, TEXT), torch.tensor([[1, 4], [-1, 2]])
    together = read(runner, ids, WINDOW)
    apart = joined([read(runner, ids[:1], WINDOW), read(runner, ids[1:], WINDOW)])
    torch.testing.assert_close(apart.states, together.states)
    torch.testing.assert_close(replayed(apart, runner, chosen), replayed(together, runner, chosen))


def test_an_open_gate_changes_nothing_and_a_closed_one_takes_its_block_out() -> None:
    runner = Runner(decoder("llama"), 16)
    texts = read(runner, drawn(2, TEXT), WINDOW)
    both, first = torch.tensor([[4, 1], [2, 3]]), torch.tensor([[4, -1], [2, -1]])
    plain = replayed(texts, runner, both)
    torch.testing.assert_close(replayed(texts, runner, both, torch.zeros(2, 2)), plain)
    closed = torch.tensor([[0.0, -1e4], [0.0, -1e4]])
    shifted = replayed(texts, runner, both, closed)
    assert (shifted - plain).abs().max() > 1e-3
    # Row 0 gives up block 1, before block 4: that leaves the others' distances alone, but for the sinks'.
    alone = replayed(texts, runner, first)
    assert (shifted[0] - alone[0]).abs().mean() < (plain[0] - alone[0]).abs().mean()


def test_gradients_reach_the_gates() -> None:
    runner = Runner(decoder("llama"), 16)
    texts = read(runner, drawn(2, TEXT), WINDOW)
    bias = torch.zeros(2, 2, requires_grad=True)
    replayed(texts, runner, torch.tensor([[4, 1], [2, -1]]), bias)[..., 0].sum().backward()
    assert bias.grad is not None
    assert bias.grad[[0, 0, 1], [0, 1, 0]].abs().min() > 0
    assert bias.grad[1, 1] == 0


@pytest.mark.parametrize(("length", "sinks", "tokens"), [(50, 4, 12), (48, 3, 12), (48, 4, 10), (16, 4, 12)])
def test_texts_that_are_no_whole_blocks_are_refused(length: int, sinks: int, tokens: int) -> None:
    window = Window(first_layer=2, sinks=sinks, tokens=tokens, block=4)
    with pytest.raises(ValueError, match=f"a text of {length} tokens must be whole blocks of 4"):
        read(Runner(decoder("llama"), 16), drawn(1, length), window)
