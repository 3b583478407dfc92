"""What the attention family keeps, whatever the method and whatever the type of the language model."""

import hashlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.systems import Method
from pipeline.model.reader import Reader, Tokens
from pipeline.model.settings import AtlasKv
from pipeline.model.system import Example, System
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import (
    PROJECTIONS,
    bm25,
    dysk,
    dysk_dense,
    linking,
    opened,
    ours,
    rag,
    rag_tuned,
    shaken,
    some_examples,
    vector,
)
from tests.tiny import FAMILIES, SmallWorld, tiny_language_model

QUESTIONS = ["What is the capital of Aland?", "Why?", "Tell me the currency of Cland, please."]
EVERYTHING = 999
RELATION_HEAD = {
    "heads.map",
    "heads.relation_log_scale",
    *(f"heads.relation.{part}.{kind}" for part in ("inner", "outer") for kind in ("weight", "bias")),
}

Build = Callable[..., Method]


class Case(NamedTuple):
    """A method as it is tested on every type of model."""

    build: Build
    """Takes the projections of the model's type."""
    memory: dict[str, Any]
    unreached: frozenset[str] = frozenset()
    """Parameters that its loss does not depend on."""


def reading_tokens(**changes: Any) -> Build:
    return lambda projections: ours(projections=projections, **changes)


def tuned(projections: list[str]) -> Method:
    return rag(projections=projections)


def retuned(projections: list[str]) -> Method:
    return rag_tuned(projections=projections, rerank_projections=["query", "value"])


def lexical(projections: list[str]) -> Method:
    return bm25(projections=projections)


def linked(projections: list[str]) -> Method:
    return linking(projections=projections)


def sparse(**changes: Any) -> Build:
    return lambda projections: dysk(**changes)


def joint(**changes: Any) -> Build:
    return lambda projections: vector(**changes)


def mixed(**changes: Any) -> Build:
    values = {"size_weight": 0.0, "refuses": False} | changes
    return lambda projections: vector(AtlasKv, **values)


def shared(**changes: Any) -> Build:
    values = {"selection": "shared", "grounding": 1, "leaves": 20, "alpha": 1.0, "scored": 9}
    return mixed(**(values | {"pooling": "mean", "logit_scale": 7.0} | changes))


CORRECTION = frozenset({"correction.map.weight"})
"""Gets no gradient while its weight is zero."""
SEARCH = frozenset(
    {
        "query.log_scale",
        *(f"query.residual.{part}.{kind}" for part in ("inner", "outer") for kind in ("weight", "bias")),
        *(f"reranker.lowrank.{part}.{place}" for part in ("down", "up") for place in (0, 1)),
        *(f"reranker.{part}.{kind}" for part in ("inner", "outer") for kind in ("weight", "bias")),
    }
)
"""Is fitted before the reader, whose loss takes what was found as it is."""
CASES = {
    "ours": Case(reading_tokens(), {}, CORRECTION),
    "ours, slots": Case(reading_tokens(), {"layout": "slot"}, CORRECTION | RELATION_HEAD),
    "ours, by states": Case(reading_tokens(question="states"), {}, CORRECTION),
    "ours, letters": Case(reading_tokens(letters=True), {}, CORRECTION),
    "ours, two hops": Case(reading_tokens(letters=True, hops=2), {}, CORRECTION),
    "rag": Case(tuned, {}),
    "rag_tuned": Case(retuned, {}, SEARCH),
    "bm25": Case(lexical, {}),
    "linking": Case(linked, {}),
    "kblam": Case(joint(), {}),
    "atlaskv": Case(mixed(roots=EVERYTHING, inner=EVERYTHING, leaves=EVERYTHING), {}),
    "atlaskv with L_Aux": Case(mixed(alpha=1.0, scored=9, pooling="mean", logit_scale=7.0), {}),
    "atlaskv, shared": Case(shared(), {}),
    "atlaskv, shared by a tree": Case(shared(roots=EVERYTHING, inner=EVERYTHING), {}),
    "dysk": Case(sparse(), {}),
    "dysk_dense": Case(lambda projections: dysk_dense(), {}),
    "dysk, norm": Case(sparse(fusion="norm", space="rotate", dense=True), {}),
}
MAIN = ["ours", "rag", "kblam", "atlaskv", "atlaskv, shared", "dysk"]
PROMPTED = ["rag_tuned", "bm25", "linking"]
"""Further searches before the reader of `rag`."""

Opened = Callable[..., Any]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return tiny_language_model(tmp_path_factory.mktemp(family), family)


@pytest.fixture
def make(family: str, model: LanguageModel, world: SmallWorld, encoder: Encoder) -> Opened:
    def made(name: str, build: Build | None = None, **memory: Any) -> Any:
        case = CASES[name]
        method = (build or case.build)(PROJECTIONS[family])
        return opened(method, world, model, encoder, **(case.memory | memory))

    return made


def digest(system: System) -> str:
    """Return a hash of every weight of the frozen models."""
    found = hashlib.sha256()
    system.encoder.encode(["loaded"])
    for frozen in (system.reader.lm, system.encoder._model):
        for name, value in frozen.state_dict().items():
            found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def backward(system: System, optimizer: torch.optim.Optimizer, examples: list[Example]) -> None:
    random.seed(0)
    optimizer.zero_grad()
    system.losses(examples)["loss"].backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter_and_nothing_else(name: str, make: Opened) -> None:
    """At the second step: what multiplies a zero of the start gets its first gradient then."""
    system = make(name)
    unreached = CASES[name].unreached
    before = digest(system)
    start = {part: parameter.detach().clone() for part, parameter in system.named_parameters()}
    optimizer = torch.optim.Adam(system.parameters(), lr=0.01, eps=1e-30)  # moves by any gradient above 0
    examples = some_examples(system)
    with system.attached():
        backward(system, optimizer, examples)
        optimizer.step()
        backward(system, optimizer, examples)
        optimizer.step()
    found = {
        part
        for part, parameter in system.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    }
    assert found == unreached
    moved = {part for part, parameter in system.named_parameters() if not torch.equal(parameter, start[part])}
    assert moved == start.keys() - unreached
    assert digest(system) == before
    for frozen in (system.reader.lm, system.encoder._model):
        assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
        assert not frozen.training


@pytest.mark.parametrize("name", [*MAIN[1:], *PROMPTED, "dysk_dense", "ours, two hops"])
def test_a_batch_is_answered_as_its_questions_alone(name: str, make: Opened) -> None:
    """Equal texts and facts; weights up to the rounding of float32 in another order of summation (1e-4)."""
    system = make(name)
    shaken(system, 0.05)
    with system.attached():
        together = system.reply(QUESTIONS)
        for row, question in enumerate(QUESTIONS):
            system.forget()
            alone = system.reply([question])
            assert alone.texts == [together.texts[row]]
            assert alone.facts == [together.facts[row]]
            assert alone.candidates == [together.candidates[row]]
            assert alone.refused == [together.refused[row]]
            assert alone.weights[0] == pytest.approx(together.weights[row], rel=1e-4, abs=1e-6)
            assert alone.refusal == pytest.approx([together.refusal[row]], rel=1e-4, abs=1e-6)


@torch.no_grad()
def bare(reader: Reader) -> Tensor:
    tokens = reader.tokens(QUESTIONS)
    logits: Tensor = reader.lm(input_ids=tokens.ids, attention_mask=tokens.mask).logits
    return logits


@pytest.mark.parametrize("name", MAIN)
def test_without_facts_the_model_is_the_bare_one_bit_for_bit(name: str, make: Opened) -> None:
    """`rag` has changed weights, not facts, beside the model: it is off only when it is detached."""
    system = make(name)
    before = bare(system.reader)
    shaken(system)
    with system.attached():
        system.reply(QUESTIONS)
        off = bare(system.reader)
    assert torch.equal(off, before) or name == "rag"
    assert torch.equal(bare(system.reader), before)


@pytest.mark.parametrize("name", [*MAIN, *PROMPTED, "dysk_dense"])
def test_the_order_of_the_facts_does_not_matter(name: str, make: Opened) -> None:
    """The same facts, put into the memory the other way round."""
    system, other = make(name), make(name)
    keys = [other.memory.fact(row).key for row in range(len(other.memory.triples))]
    held = [other.memory.fact(row) for row in reversed(range(len(keys)))]
    other.memory.delete(keys)
    other.memory.upsert(held)
    asked = QUESTIONS + [example.text for example in some_examples(system, 6)]
    replies = []
    for each in (system, other):
        shaken(each, 0.05)
        with each.attached():
            reply = each.reply(asked)
        weights = [
            {each.memory.fact(fact).key: weight for fact, weight in zip(facts, row, strict=True)}
            for facts, row in zip(reply.facts, reply.weights, strict=True)
        ]
        replies.append((reply.texts, weights))
    assert replies[0][0] == replies[1][0]
    assert any(replies[0][0])
    for weights, changed in zip(replies[0][1], replies[1][1], strict=True):
        assert changed == pytest.approx(weights, rel=1e-3, abs=1e-5)


def recomputed(reader: Reader) -> Callable[..., list[str]]:
    """Return an implementation of `generate` that keeps nothing from one token to the next."""

    @torch.no_grad()
    def generate(tokens: Tokens, limit: int, **_: Any) -> list[str]:
        ids, mask = tokens.ids, tokens.mask
        for _step in range(limit):
            positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
            out = reader.lm(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            ids = torch.cat([ids, out.logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        said = [row[tokens.ids.shape[1] :].tolist() for row in ids]
        ended = [row[: row.index(reader.stop)] if reader.stop in row else row for row in said]
        return [text.strip() for text in reader.tokenizer.batch_decode(ended, skip_special_tokens=True)]

    return generate


def stir(system: System) -> None:
    """Make the model say something else for each question: one of small weights repeats its last token."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in system.reader.lm.named_parameters():
            if weight.ndim == 2:
                size = 0.1 if "embed" in name else 1.0  # what goes in is not what comes out
                weight.copy_(size * torch.randn(weight.shape, generator=generator) * weight.shape[1] ** -0.5)


@pytest.mark.parametrize("name", MAIN)
def test_cached_decoding_equals_computing_all_anew(
    name: str, make: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(name)
    shaken(system, 0.02)
    stir(system)
    asked = [
        *QUESTIONS,
        "Who?",
        "Aland",
        "currency",
        "Name the language of Bland.",
        "When did it rain in 1984?",
    ]
    with system.attached():
        cached = system.reply(asked).texts
        monkeypatch.setattr(system.reader, "generate", recomputed(system.reader))
        assert system.reply(asked).texts == cached
    assert any(cached)


def without_tree(name: str) -> Build | None:
    return mixed(roots=0) if name == "atlaskv" else None


@pytest.mark.parametrize("name", ["ours", "rag", "atlaskv", "dysk"])
def test_a_tree_that_prunes_nothing_answers_as_all_facts_do(name: str, make: Opened) -> None:
    """`atlaskv` descends a tree in every layer; the others search one for their candidates."""
    system = make(name, backend="hikvp", roots=EVERYTHING, inner=EVERYTHING)
    flat = make(name, without_tree(name))
    for each in (system, flat):
        shaken(each, 0.05)
    with system.attached():
        found = system.reply(QUESTIONS)
    with flat.attached():
        expected = flat.reply(QUESTIONS)
    assert (found.texts, found.facts) == (expected.texts, expected.facts)
    for row, other in zip(found.weights, expected.weights, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["ours", "dysk"])
def test_keeping_as_many_facts_as_there_are_is_keeping_all(name: str, make: Opened) -> None:
    """Past the number of facts k changes nothing; below it, fewer are read."""
    replies = []
    for k in (60, 99, 1):
        build = sparse(k=k) if name == "dysk" else reading_tokens(mass=1.0)
        system = make(name, build, N=99, k=k)
        shaken(system)
        with system.attached():
            replies.append(system.reply(QUESTIONS))
    count = len(system.memory)
    assert (replies[0].texts, replies[0].facts) == (replies[1].texts, replies[1].facts)
    assert [len(row) for row in replies[0].facts] == [count] * len(QUESTIONS)
    assert [len(row) for row in replies[2].facts] == [1] * len(QUESTIONS)
