"""What holds for every system: losses, replies and updates; see test_invariants.py for the rest."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.config import UserError
from pipeline.evaluation.systems import Method, SystemAnswerer
from pipeline.memory.facts import Fact
from pipeline.memory.graph import Correspondence
from pipeline.model.attention import reading
from pipeline.model.isolation import weighed
from pipeline.model.selection import training_selection
from pipeline.model.system import Example, System, gold_mask, with_gold
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import (
    bm25,
    closed_book,
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
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Why?", "Tell me the currency of Cland, please."]
SEARCHING = {
    "ours": ours(),
    "rag": rag(),
    "rag_tuned": rag_tuned(),
    "bm25": bm25(),
    "linking": linking(),
    "dysk": dysk(),
    "dysk_dense": dysk_dense(),
}
"""Methods that read candidates of a search."""
TRAINED = {name: SEARCHING[name] for name in ("ours", "rag", "rag_tuned", "dysk", "dysk_dense")}
TRAINED |= {"vector": vector()}
RANKING = {name: method for name, method in SEARCHING.items() if name != "linking"}
"""Those of them that rank any fact; to `linking` most are none of the question's."""
SEEING = SEARCHING | TRAINED
Opened = Callable[..., Any]


@pytest.fixture
def make(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> Opened:
    def made(method: Method, **memory: Any) -> Any:
        return opened(method, world, lm, encoder, **memory)

    return made


def step(system: System, optimizer: torch.optim.Optimizer, examples: list[Example]) -> float:
    random.seed(0)
    optimizer.zero_grad()
    parts = system.losses(examples)
    parts["loss"].backward()
    return parts["loss"].item()


@pytest.mark.parametrize("method", TRAINED.values(), ids=TRAINED)
def test_a_few_steps_lower_the_loss(method: Method, make: Opened) -> None:
    system = make(method)
    optimizer = torch.optim.Adam(system.parameters(), lr=0.01)
    losses = []
    with system.attached():
        for _ in range(6):
            losses.append(step(system, optimizer, some_examples(system)))
            optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("layout", ["factored", "slot"])
@pytest.mark.parametrize("method", RANKING.values(), ids=RANKING)
def test_a_reply_reads_the_heaviest_candidates(method: Method, layout: str, make: Opened) -> None:
    system = make(method, layout=layout)
    with system.attached():
        reply = system.reply(QUESTIONS)
    for facts, weights, candidates in zip(reply.facts, reply.weights, reply.candidates, strict=True):
        assert 1 <= len(facts) <= 3
        assert len(candidates) == len(set(candidates)) == 12
        assert weights == sorted(weights, reverse=True)
        assert set(facts) <= set(candidates)
        assert 0 < sum(weights) <= 1 + 1e-5


def test_k_above_the_number_of_facts_reads_what_there_is(make: Opened) -> None:
    for method in (ours(mass=1.0), rag(), dysk(k=100)):
        system = make(method, N=100, k=100)
        with system.attached():
            reply = system.reply(QUESTIONS[:1])
            assert set(system.losses(some_examples(system))) >= {"loss", "lm_loss", "retrieval_accuracy"}
        assert len(reply.facts[0]) == len(system.memory)


def test_a_refused_question_gets_no_answer(make: Opened) -> None:
    system = make(ours())
    with torch.no_grad():
        system.null.outer.bias.fill_(50.0)
    with system.attached():
        reply = system.reply(QUESTIONS)
    assert reply.refused == [True] * 3
    assert reply.texts == [""] * 3
    assert all(share > 0.99 for share in reply.refusal)


def test_an_empty_memory_is_refused(make: Opened) -> None:
    system = make(ours())
    system.memory.delete([system.memory.fact(row).key for row in range(len(system.memory))])
    with system.attached():
        reply = system.reply(QUESTIONS)
    assert reply.refused == [True] * 3
    assert reply.facts == reply.candidates == [[], [], []]
    assert reply.refusal == pytest.approx([1.0] * 3)


@pytest.mark.parametrize("name", ["rag", "rag_tuned", "bm25", "linking"])
def test_a_prompt_without_facts_is_answered_or_refused(name: str, make: Opened) -> None:
    system = make(SEARCHING[name])
    system.memory.delete([system.memory.fact(row).key for row in range(len(system.memory))])
    with system.attached():
        reply = system.reply(QUESTIONS)
    assert reply.facts == reply.candidates == reply.weights == [[], [], []]
    assert all(no or text for no, text in zip(reply.refused, reply.texts, strict=True))
    assert all(doubt >= 1.0 for doubt in reply.refusal)


def test_facts_are_read_until_their_shares_hold_the_mass(make: Opened) -> None:
    system = make(ours(mass=1.0))
    with system.attached():
        everything = system.reply(QUESTIONS)
        for mass in (0.3, 0.6, 0.999):
            system.method = replace(system.method, mass=mass)
            reply = system.reply(QUESTIONS)
            for all_, some in zip(everything.weights, reply.weights, strict=True):
                assert some == pytest.approx(all_[: len(some)])
                assert sum(some[:-1]) < mass
                assert sum(some) >= mass or len(some) == len(all_)
    assert {len(weights) for weights in everything.weights} == {3}


def test_the_correction_changes_scores_only_where_it_has_weight(make: Opened) -> None:
    system = make(ours())
    shaken(system)
    query = system.query(QUESTIONS)
    facts = system.memory.search(query).facts
    bare = system.memory.score(query, facts).scores
    assert torch.equal(system.scored(QUESTIONS, query, facts, facts.clone().fill_(-1)).scores, bare)
    system.correction.beta.fill_(1.0)
    once = system.scored(QUESTIONS, query, facts, facts.clone().fill_(-1)).scores - bare
    system.correction.beta.fill_(2.0)
    twice = system.scored(QUESTIONS, query, facts, facts.clone().fill_(-1)).scores - bare
    assert once.abs().max() > 0
    torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-3)


def test_batches_without_an_answer_train_the_null_fact_alone(make: Opened) -> None:
    system = make(ours())
    examples = [Example("Why?", (), ()), Example("Who?", (), ())]
    with system.attached():
        parts = system.losses(examples)
    assert parts["lm_loss"] == 0
    assert parts["retrieval_accuracy"] == 0
    parts["loss"].backward()
    assert system.null.outer.bias.grad is not None
    assert all(p.grad is None for p in system.lowrank.parameters())


def test_the_selection_of_training_always_holds_a_gold_fact() -> None:
    scores = torch.arange(12.0).expand(2, 12)
    gold = torch.zeros(2, 12, dtype=torch.bool)
    gold[0, 1] = gold[0, 3] = True
    for seed in range(8):
        random.seed(seed)
        selected = training_selection(scores, gold, 3)
        assert 3 in selected[0].tolist()
        assert selected[1].tolist() == list(range(11, 11 - selected.shape[1], -1))
        assert 1 <= selected.shape[1] <= 3


def test_a_gold_fact_that_was_not_found_comes_last() -> None:
    found = torch.tensor([[4, 5, -1], [4, 5, 6], [4, 5, 6]])
    batch = [Example("a", ("x",), (9, 8)), Example("b", ("y",), (5, 7)), Example("c", (), ())]
    facts = with_gold(found, batch)
    assert facts.tolist() == [[4, 5, 9], [4, 5, 6], [4, 5, 6]]
    assert found[0, 2] == -1
    assert gold_mask(facts, batch).tolist() == [[False, False, True], [False, True, False], [False] * 3]


def test_the_target_is_the_tail_that_was_read(make: Opened) -> None:
    system = make(rag())
    example = Example("a", ("first", "second"), (1, 2))
    assert system.target(example, [0, 2, 1]) == f" {system.memory.fact(2).tail_label}"
    assert system.target(example, [0]) == " first"
    spoiled = Example("a", ("first", "second"), (2,), right=(1,))
    assert system.target(spoiled, [0, 2, 1]) == " first"


def test_the_prompt_of_rag_has_the_best_fact_next_to_the_question(make: Opened) -> None:
    system = make(rag())
    first, second = system.memory.text(0), system.memory.text(1)
    assert system._shown([0, 1]) == f"{second}\n{first}\n"
    assert make(rag(fact_tokens=2))._shown([0]) != f"{first}\n"


def test_closed_book_reads_nothing_and_can_not_be_trained(make: Opened) -> None:
    system = make(closed_book())
    with system.attached():
        reply = system.reply(QUESTIONS)
    assert reply.facts == reply.candidates == [[], [], []]
    assert not list(system.parameters())
    assert all("\n" not in text for text in reply.texts)
    with pytest.raises(NotImplementedError, match="closed_book has no parameters"):
        system.losses(some_examples(system))


def test_an_answer_of_one_line_is_the_first_line_of_the_whole_answer(make: Opened) -> None:
    reader = make(closed_book()).reader
    prompts = reader.tokens(QUESTIONS, form="{question}")
    newline = reader.tokenizer.encode("\n", add_special_tokens=False)[-1]
    calls = 0

    def prefer(module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return logits.index_fill(-1, torch.tensor(newline), 1e4) if calls == 4 else logits

    hook = reader.lm.get_output_embeddings().register_forward_hook(prefer)
    full = reader.generate(prompts, 12)
    calls = 0
    line = reader.generate(prompts, 12, one_line=True)
    hook.remove()
    assert [text.split("\n")[0].strip() for text in full] == line
    assert full != line


@pytest.mark.parametrize("method", SEEING.values(), ids=SEEING)
def test_the_next_question_sees_what_the_memory_was_told(method: Method, make: Opened) -> None:
    system = make(method, N=100)
    shaken(system, 0.05)
    old = system.memory.fact(0)
    new = Fact(old.head, old.relation, "NEW", tail_label="Newtown")
    with system.attached():
        assert 0 in system.reply(QUESTIONS[:1]).candidates[0]
        receipt = system.memory.upsert([new], replace=True)
        after = system.reply(QUESTIONS[:1]).candidates[0]
    assert 0 in receipt.superseded
    assert 0 not in after
    assert receipt.facts[0] in after
    assert "Newtown" in system.memory.text(receipt.facts[0])


def test_without_the_shift_all_facts_are_read_alike(make: Opened) -> None:
    shifted, even = make(ours()), make(ours(shift=False))
    for system in (shifted, even):
        with system.attached():
            chosen, log_shares = system.select(QUESTIONS[:1])
            shift = system.fact_tokens([0], chosen, log_shares).shift
        read = shift[shift > torch.finfo(shift.dtype).min]
        assert len(set(read.tolist())) == (1 if system is even else len(chosen.facts[0])) > 0
    assert not read.any(), "the logits of the last system's facts are as they are"


def test_facts_read_apart_answer_as_each_does_alone(make: Opened) -> None:
    apart, together = make(ours(isolate=True, mass=1.0)), make(ours(mass=1.0))
    shaken(apart, 0.05)
    together.load_state_dict(apart.state_dict())
    with apart.attached():
        reply = apart.reply(QUESTIONS)
    for row, (facts, weights) in enumerate(zip(reply.facts, reply.weights, strict=True)):
        assert len(facts) > 1
        alone = []
        for fact in facts:
            tokens = together.facts.facts([[together.memory.text(fact)]], torch.zeros(1, 1))
            with together.attached(), reading(tokens), together.lowrank.attached(together.reader.lm):
                prompt = together.reader.tokens([QUESTIONS[row]])
                alone += together.reader.generate(prompt, together.answer_tokens)
        assert reply.texts[row] == weighed(alone, weights)


def test_what_most_of_the_weight_says_is_answered() -> None:
    assert weighed(["a", "b", "A "], [0.3, 0.4, 0.2]) == "a"
    assert weighed(["a", "b"], [0.5, 0.5]) == "a"
    assert weighed([], []) == ""


def test_an_answerer_speaks_of_facts_by_their_ids_in_the_tables(make: Opened, world: SmallWorld) -> None:
    system = make(ours())
    answerer = SystemAnswerer("ours", system, world.graph)
    same = Correspondence(world.graph, system.memory)
    before = answerer.answer(QUESTIONS)
    with system.attached():
        reply = system.reply(QUESTIONS)
    assert before.facts == [[same.fact(row) for row in rows] for rows in reply.facts]
    assert all(world.graph.live(0)[fact] for facts in before.candidates for fact in facts)
    answerer.update(world.graph, 1)
    after = answerer.answer(QUESTIONS)
    assert all(world.graph.live(1)[fact] for facts in after.candidates for fact in facts)
    answerer.update(world.graph, 1)
    assert answerer.answer(QUESTIONS) == after, "an update that was made is not made again"


@pytest.mark.parametrize(
    ("method", "changes", "text"),
    [
        (ours(), {"mass": 0.0}, r"method.mass must be in \(0, 1\], not 0.0"),
        (ours(), {"slot_gap": -1.0}, "method.slot_gap must be at least 0, not -1.0"),
        (ours(), {"refuse_answerable": 1.0}, r"method.refuse_answerable must be in \[0, 1\), not 1.0"),
        (ours(), {"rank": 0}, "method.rank, answer_tokens, fact_window and state_layer must be at least 1"),
        (ours(), {"head_width": 0}, "method.head_width must be at least 1"),
        (ours(), {"relation_scale": 0.0}, "entity_scale and relation_scale above 0"),
        (rag(), {"fact_tokens": 0}, "method.rank, fact_tokens and answer_tokens must be at least 1"),
        (closed_book(), {"answer_tokens": 0}, "method.answer_tokens must be at least 1, not 0"),
        (closed_book(), {"prompt": "Answer:"}, r"method.prompt must hold \{question\} once and no \{facts\}"),
    ],
)
def test_values_out_of_range_are_errors(method: Method, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(method, **changes)


def test_a_layer_that_the_model_lacks_is_an_error(make: Opened) -> None:
    with pytest.raises(UserError, match=r"method\.state_layer is 5, but the model has 4 layers"):
        make(ours(state_layer=5))
    with pytest.raises(UserError, match="first_layer is 7, but the model has layers 0 to 3"):
        make(ours(first_layer=7))
