"""The fast path against the ordinary one: same answers, shares and refusals, after every kind of change."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.memory import tables
from pipeline.memory.facts import Fact
from pipeline.model import ahead, finder
from pipeline.model.fast import Fast
from pipeline.model.ours import OurSystem
from pipeline.model.system import Reply
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours, shaken, some_examples
from tests.tiny import SmallWorld

VALUES = {"questions": 2, "prompt": 120, "answer": 6, "facts": [40, 160], "backend": "", "ahead": True}
QUESTIONS = ["What is the capital of Aland?", "Which currency does Cland have?"]


@pytest.fixture
def system(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> OurSystem:
    return trained(world, lm, encoder)


def trained(world: SmallWorld, lm: LanguageModel, encoder: Encoder, **changes: object) -> OurSystem:
    device = changes.pop("device", torch.device("cpu"))
    made: OurSystem = opened(ours(letters=True, mass=0.5, **changes), world, lm, encoder, device=device)
    shaken(made, 0.1)
    made.temperature.data.fill_(0.2)
    made.asking.limit.fill_(0.3)
    drawn = torch.randn(made.asking.weight.shape, generator=torch.Generator().manual_seed(0))
    made.asking.weight.copy_(drawn)
    return made.eval()


def fast(system: OurSystem, **changes: object) -> Fast:
    return Fast(system, **(VALUES | changes))  # type: ignore[arg-type]


@pytest.fixture(params=[False, True])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of `Fast`, one after the other."""
    monkeypatch.setitem(VALUES, "ahead", request.param)


def same(found: Reply, expected: Reply) -> None:
    assert found.texts == expected.texts
    assert found.facts == expected.facts
    assert found.candidates == expected.candidates
    assert found.refused == expected.refused
    assert found.via == expected.via
    for left, right in zip(
        [found.refusal, *found.weights], [expected.refusal, *expected.weights], strict=True
    ):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6)


def asked(system: OurSystem, quick: Fast, questions: list[str]) -> Reply:
    found = quick.reply(questions)
    with system.attached():
        same(found, system.reply(questions))
    return found


@pytest.mark.parametrize("ahead", [False, True])
def test_replies_are_those_of_the_ordinary_path(system: OurSystem, ahead: bool) -> None:
    quick = fast(system, ahead=ahead)
    texts = [example.text for example in some_examples(system, 20)]
    replies = [asked(system, quick, texts[i : i + 2]) for i in range(0, 20, 2)]
    assert quick.current
    assert (quick.again > 0) == ahead
    assert 0 < sum(sum(reply.refused) for reply in replies) < 20
    assert len({len(row) for reply in replies for row in reply.facts}) > 1


@pytest.mark.parametrize("count", [1, 16])
def test_what_was_read_before_is_read_without_the_host(system: OurSystem, count: int) -> None:
    """And by the same words: the host agrees, however many values a slot has."""
    memory = system.memory
    memory.upsert([Fact("N1", "P36", f"N{n}", "Newland", "capital", f"City {9 - n}") for n in range(2, 6)])
    texts = [*(example.text for example in some_examples(system, count)), "What is the capital of Newland?"]
    batches = [texts[:count], texts[-count:]]
    quick = fast(system, questions=count, facts=[40, 200])
    for batch in batches:
        asked(system, quick, batch)
    once = quick.again
    assert 0 < once <= 2
    quick._widths.extend([200, 200])
    replies = [asked(system, quick, batch) for batch in batches * 2]
    assert quick.again == once
    assert any(memory.text(row).startswith("The capital of Newland") for row in replies[1].facts[-1])


def test_what_is_wider_than_the_last_ones_is_read_once_more(system: OurSystem) -> None:
    quick = fast(system, questions=1, facts=[8, 160])
    told = []
    for _ in range(4):
        asked(system, quick, QUESTIONS[:1])
        told.append(quick.again)
    assert told == [1, 2, 2, 2]  # one wide batch is no reason to expect more


@pytest.mark.parametrize("short", [4, 20])
def test_facts_that_left_the_arena_or_were_forgotten_are_read_once_more(
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    short: int,
) -> None:
    """In an arena that holds the facts of some questions, and a device that knows as many facts or three."""
    monkeypatch.setattr(ahead, "SHORT", short)
    system = trained(world, lm, encoder, fact_cache=60)
    quick = fast(system, questions=1, facts=[160])
    texts = [example.text for example in some_examples(system, 8)]
    for text in texts:
        asked(system, quick, [text])
    once = quick.again
    assert once > 3
    asked(system, quick, texts[-1:])
    assert quick.again == once
    for text in texts:
        asked(system, quick, [text])
    assert quick.again > once + 3


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("refused", [False, True])
def test_a_reply_is_told_piece_by_piece(system: OurSystem, refused: bool) -> None:
    system.null.threshold.fill_(-1.0 if refused else 2.0)
    system.asking.limit.fill_(torch.inf)
    quick = fast(system, questions=1)
    for question in (*QUESTIONS, "and " * 60):
        expected = quick.reply([question])
        reply, pieces = quick.spoken(question)
        told = list(pieces)
        assert "".join(told) == expected.texts[0]
        assert (len(told) > 1) == (not refused and question in QUESTIONS)
        assert replace(reply, texts=expected.texts) == expected


@pytest.mark.usefixtures("either")
def test_a_compiled_path_gives_the_same_replies(system: OurSystem) -> None:
    compiled = 0

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    quick = fast(system, backend=counting)
    texts = [example.text for example in some_examples(system, 6)]
    for start in (0, 2, 4, 0):
        asked(system, quick, texts[start : start + 2])
    assert 0 < compiled <= 8


@pytest.mark.usefixtures("either")
def test_what_changes_is_found_by_the_next_question(system: OurSystem) -> None:
    quick = fast(system)
    memory = system.memory
    first = asked(system, quick, QUESTIONS)
    gone = [memory.fact(row) for row in first.facts[0]]
    memory.delete([fact.key for fact in gone])
    assert not set(asked(system, quick, QUESTIONS).facts[0]) & set(first.facts[0])
    memory.upsert([Fact("N1", "P36", "N2", "Newland", "capital", "Newland City")])
    memory.upsert(gone)
    replies = [
        asked(system, quick, [f"What is the capital of {name}?", QUESTIONS[1]])
        for name in ("Newland", "Aland")
    ]
    assert any("Newland" in memory.text(row) for reply in replies for row in reply.candidates[0])
    memory.delete([memory.fact(row).key for row, alive in enumerate(memory.alive) if alive])
    assert asked(system, quick, QUESTIONS).refused == [True, True]
    assert quick.current


@pytest.mark.usefixtures("either")
def test_what_does_not_fit_is_left_to_the_system(system: OurSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = fast(system)
    memory = system.memory
    asked(system, quick, QUESTIONS[:1])
    asked(system, quick, [*QUESTIONS, "Why?"])
    asked(system, quick, [QUESTIONS[0], "and " * 60])
    asked(system, fast(system, facts=[8]), QUESTIONS)
    monkeypatch.setattr(tables, "WIDTH", 2)
    asked(system, fast(system), QUESTIONS)
    monkeypatch.undo()
    for module in (ahead, finder):
        monkeypatch.setattr(module, "LATE", 1)
    quick = fast(system)
    late = [Fact(f"N{n}", "P36", "N9", f"Newland {n}", "capital", "City") for n in range(3)]
    memory.upsert(late)
    assert not quick.current
    asked(system, quick, QUESTIONS)
    memory.arrangement.drop()
    quick.renew()
    assert quick.current
    asked(system, quick, QUESTIONS)
    system.memory = memory.as_of("2020")
    assert not quick.current
    asked(system, quick, QUESTIONS)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ({"question": "states"}, {}),
        ({"hops": 2}, {}),
        ({"hops": 2}, {"beam": 0}),
        ({"isolate": True}, {}),
        ({"shift": False}, {}),
        ({"letters": True}, {"layout": "slot"}),
        ({"letters": True}, {"backend": "hikvp"}),
    ],
)
def test_every_kind_of_system_gives_its_own_replies(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, method: dict[str, Any], settings: dict[str, Any]
) -> None:
    system: OurSystem = opened(ours(**method), world, lm, encoder, **settings)
    shaken(system, 0.1)
    quick = fast(system)
    asked(system, quick, QUESTIONS)
    assert quick.current == (
        not settings.keys() & {"layout", "backend"}
        and "question" not in method
        and (method.get("hops") != 2 or settings.get("beam") == 0)
    )


@pytest.mark.usefixtures("either")
def test_everything_can_be_computed_ahead(system: OurSystem) -> None:
    quick = fast(system)
    quick.warm()
    asked(system, quick, QUESTIONS)
    found = quick.first(QUESTIONS)
    quick.forget()
    again = quick.first(QUESTIONS)
    assert found is not None
    assert again is not None
    assert torch.equal(found[1], again[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("reads_ahead", [False, True])
def test_on_a_gpu_what_is_recorded_gives_the_same_replies(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, count: int, reads_ahead: bool
) -> None:
    """Two hundred questions and more, over a memory that changes in between, in too small an arena."""
    system = trained(world, lm, encoder, device=torch.device("cuda"), fact_cache=1000)
    memory = system.memory
    quick = fast(system, questions=count, backend="eager", ahead=reads_ahead)
    texts = [example.text for example in some_examples(system, 30)]
    for turn in range(-(-208 // count)):
        asked(system, quick, [texts[(turn * count + place) % 30] for place in range(count)])
        if turn % 5 == 4:
            gone = memory.fact(turn % 30)
            memory.delete([gone.key])
            asked(system, quick, [f"What is the capital of {gone.head_label}?"] * count)
            memory.upsert([gone])
    assert quick.current
    assert 0 < quick.again < 300 // count if reads_ahead else quick.again == 0
