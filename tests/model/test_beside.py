"""Attention to one-vector facts beside the sequence, against the projected form and the bare model."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.memory import tree as tree_module
from pipeline.memory.tree import build_tree
from pipeline.model.beside import (
    Bank,
    FactsBeside,
    Pruning,
    attend,
    attentions,
    inject,
    query_weight,
    reading,
)
from pipeline.model.knowledge import EPSILON, KnowledgeMaps, size_shift
from pipeline.model.reader import Reader
from tests.tiny import FAMILIES, tiny_language_model

QUESTIONS = ["What is the capital of Aland?", "Why?", "Tell me the currency of Cland, please."]
BASE = 12
SIZES = [1, 2, 7, 512, 513, 10_000]


@pytest.fixture(scope="module", params=FAMILIES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tiny_language_model(tmp_path_factory.mktemp(request.param), request.param), "cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def beside(reader: Reader, tokens: Tensor, count: int = 9, seed: int = 3, **options: object) -> FactsBeside:
    """Facts with maps that are no longer small, beside the tokens whose mask is given."""
    config = reader.lm.config
    heads = config.num_attention_heads
    starts = [query_weight(module, heads).float() for module in attentions(reader.lm, 2)]
    torch.manual_seed(seed)
    maps = KnowledgeMaps(BASE, len(starts), heads, len(starts[0]) // heads)
    with torch.no_grad():
        maps.values.mul_(8)
    unit = F.normalize(drawn(count, BASE, seed=seed), dim=-1)
    values = F.normalize(drawn(count, BASE, seed=seed + 1), dim=-1)
    bank = Bank(torch.arange(count), unit, values)
    settings = {"grounding": 0, "pooling": "softmax", "block": 64} | options
    return FactsBeside(maps, starts, bank, tokens.bool(), **settings)  # type: ignore[arg-type]


@torch.no_grad()
def logits(reader: Reader, questions: list[str], **options: object) -> list[Tensor]:
    """Logits of each question's own tokens with facts beside them."""
    tokens = reader.tokens(questions)
    positions = (tokens.mask.cumsum(dim=-1) - 1).clamp(min=0)
    with inject(reader.lm, 2), reading(beside(reader, tokens.mask, **options)):
        out = reader.lm(input_ids=tokens.ids, attention_mask=tokens.mask, position_ids=positions).logits
    return [row[mask.bool()] for row, mask in zip(out, tokens.mask, strict=True)]


@torch.no_grad()
def test_without_active_facts_the_model_is_the_bare_one(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    bare = reader.lm(input_ids=tokens.ids, attention_mask=tokens.mask).logits
    with inject(reader.lm, 2):
        assert torch.equal(reader.lm(input_ids=tokens.ids, attention_mask=tokens.mask).logits, bare)
    assert torch.equal(reader.lm(input_ids=tokens.ids, attention_mask=tokens.mask).logits, bare)
    assert not [module for module in reader.lm.modules() if hasattr(module, "_place_of_facts")]


def test_facts_far_below_the_sequence_change_nothing_and_others_do(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    positions = (tokens.mask.cumsum(dim=-1) - 1).clamp(min=0)
    with torch.no_grad():
        out = reader.lm(input_ids=tokens.ids, attention_mask=tokens.mask, position_ids=positions).logits
    bare = [row[mask.bool()] for row, mask in zip(out, tokens.mask, strict=True)]
    for near, far, read in zip(
        bare, logits(reader, QUESTIONS, shift=-1e4), logits(reader, QUESTIONS), strict=True
    ):
        torch.testing.assert_close(far, near, rtol=1e-3, atol=1e-4)
        assert (read - near).abs().max() > 1e-2


def test_a_batch_reads_as_each_question_alone(reader: Reader) -> None:
    together = logits(reader, QUESTIONS)
    for question, row in zip(QUESTIONS, together, strict=True):
        torch.testing.assert_close(row, logits(reader, [question])[0], rtol=1e-3, atol=1e-4)


def test_the_order_of_the_facts_does_not_matter(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    facts = beside(reader, tokens.mask)
    order = torch.randperm(len(facts.bank.ids), generator=torch.Generator().manual_seed(1))
    moved = beside(reader, tokens.mask)
    moved.bank = Bank(*(part[order] for part in (facts.bank.ids, facts.bank.keys, facts.bank.values)))
    moved.scale = facts.scale[order]
    states = drawn(len(QUESTIONS), tokens.ids.shape[1], reader.hidden, seed=5)
    facts.hidden = moved.hidden = states
    for found, other in zip(facts.read(0), moved.read(0), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(facts.scores()[:, order], moved.scores(), rtol=1e-4, atol=1e-5)


def test_blocks_and_a_tree_that_prunes_nothing_read_what_all_at_once_does(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    facts = beside(reader, tokens.mask)
    tree = build_tree(facts.bank.keys * facts.scale[:, None], 99, 99)
    flat = logits(reader, QUESTIONS)
    for options in (
        {"block": 4},
        {"pruning": Pruning(tree, 9)},
        {"pruning": Pruning(tree, 9), "pooling": "mean"},
    ):
        for row, other in zip(flat, logits(reader, QUESTIONS, **options), strict=True):
            torch.testing.assert_close(other, row, rtol=1e-3, atol=1e-4)
    pruned = logits(reader, QUESTIONS, pruning=Pruning(tree, 2))
    assert any((row - other).abs().max() > 1e-3 for row, other in zip(flat, pruned, strict=True))


@pytest.mark.parametrize("count", SIZES)
def test_a_tree_that_prunes_nothing_is_flat_at_every_size(reader: Reader, count: int) -> None:
    tokens = reader.tokens(QUESTIONS)
    facts = beside(reader, tokens.mask, count)
    tree = build_tree(facts.bank.keys * facts.scale[:, None], count, count)
    flat = logits(reader, QUESTIONS, count=count, block=4096)
    found = logits(reader, QUESTIONS, count=count, pruning=Pruning(tree, count))
    for row, other in zip(flat, found, strict=True):
        torch.testing.assert_close(other, row, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", ["softmax", "mean"])
def test_a_tree_descended_in_parts_reads_what_it_does_at_once(
    reader: Reader, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = beside(reader, reader.tokens(QUESTIONS).mask)
    pruning = Pruning(build_tree(facts.bank.keys * facts.scale[:, None], 2, 2), 2)
    whole = logits(reader, QUESTIONS, pruning=pruning, pooling=pooling)
    monkeypatch.setattr(tree_module, "GATHERED", 1)  # each question alone
    for row, other in zip(whole, logits(reader, QUESTIONS, pruning=pruning, pooling=pooling), strict=True):
        torch.testing.assert_close(other, row, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_cached_decoding_equals_computing_all_anew(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    with inject(reader.lm, 2):
        with reading(beside(reader, tokens.mask)):
            answers = reader.generate(tokens, 4)
        for row, question in enumerate(QUESTIONS):
            ids = reader.tokens([question]).ids
            said: list[int] = []
            for _ in range(4):
                with reading(beside(reader, torch.ones_like(ids))):
                    best = int(reader.lm(input_ids=ids).logits[0, -1].argmax())
                if best == reader.stop:
                    break
                said.append(best)
                ids = torch.cat([ids, torch.tensor([[best]])], dim=1)
            assert answers[row] == reader.tokenizer.decode(said, skip_special_tokens=True).strip()


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["softmax", "mean"])
def test_the_ranking_of_a_tree_that_prunes_nothing_is_the_flat_one(reader: Reader, pooling: str) -> None:
    tokens = reader.tokens(QUESTIONS)
    found = []
    for pruned in (False, True):
        facts = beside(reader, tokens.mask, pooling=pooling, block=4)
        if pruned:
            tree = build_tree(facts.bank.keys * facts.scale[:, None], 99, 99)
            facts.pruning = Pruning(tree, 9)
        with inject(reader.lm, 2), reading(facts):
            reader.generate(tokens, 2)
        found.append(facts.ranking(4))
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)


class Plain(torch.nn.Module):
    """What `attend` knows of an attention."""

    _place_of_facts = 0
    is_causal = True


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_it_is_the_joint_softmax_over_projected_and_normalised_keys(weight: float) -> None:
    """KBLaM eq. 4, with keys and values of every fact made by W_K, a LayerNorm over all of them, and W_V."""
    batch, heads, groups, length, width, hidden, count = 2, 4, 2, 5, 6, 10, 7
    maps = KnowledgeMaps(BASE, 1, heads, width)
    keys, values = drawn(count, BASE, seed=1), drawn(count, BASE, seed=2)
    states, queries = drawn(batch, length, hidden, seed=3), drawn(heads * width, hidden, seed=4)
    shift = size_shift(count, weight) if weight else 0.0
    bank = Bank(torch.arange(count), keys, values)
    asks = torch.ones(batch, length).bool()
    facts = FactsBeside(maps, [queries], bank, asks, 0, "softmax", 64, shift)
    facts.hidden = states
    q, k, v = (drawn(batch, n, length, width, seed=s) for n, s in ((heads, 5), (groups, 6), (groups, 7)))
    with reading(facts):
        found, _ = attend(Plain(), q, k, v, None)

    projected = F.layer_norm((keys @ maps.keys.flatten(0, 2).T), (heads * width,), eps=EPSILON)
    made = projected.unflatten(-1, (heads, width)).transpose(0, 1)
    read = (values @ maps.values.flatten(0, 2).T).unflatten(-1, (heads, width)).transpose(0, 1)
    own = (states @ queries.T).unflatten(-1, (heads, width)).transpose(1, 2)
    k, v = (t.repeat_interleave(heads // groups, dim=1) for t in (k, v))
    seen = torch.ones(length, length).tril().bool()
    sequence = (q @ k.transpose(2, 3) / width**0.5).masked_fill(~seen, -torch.inf)
    beside_it = own @ made.transpose(1, 2) / width**0.5 + shift
    both = torch.softmax(torch.cat([beside_it, sequence], dim=-1), dim=-1)
    expected = both[..., :count] @ read + both[..., count:] @ v
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)
