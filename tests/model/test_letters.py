"""What letters say: slow figures, no facts, the correction that starts at zero, and what fitting it finds."""

import re

import pytest
import torch

from pipeline.memory.facts import Candidates, Fact
from pipeline.model.judging import fit_letters
from pipeline.model.letters import OVERLAPS, LetterCorrection, nearest_letters, overlaps
from pipeline.model.system import Example
from pipeline.weights import Encoder, LanguageModel
from tests.model.test_retrieval import quiet
from tests.model.tiny_systems import opened, ours, retrieval, shaken, some_examples
from tests.tiny import SmallWorld


def trigrams(text: str) -> set[str]:
    found = set()
    for word in re.findall(r"\w+", text.casefold()):
        padded = "<" + word + ">"
        found |= {padded[i : i + 3] for i in range(len(padded) - 2)}
    return found


def slow(question: str, name: str, noun: str) -> list[float]:
    words, asked = re.findall(r"\w+", name.casefold()), re.findall(r"\w+", question.casefold())
    found = "".join(word for word in words if word in asked)
    both = trigrams(question) & trigrams(name)
    whole = any(asked[i : i + len(words)] == words for i in range(len(asked)))
    return [
        len(found) / len("".join(words)),
        len(both) / len(trigrams(name)),
        len(both) / len(trigrams(question)),
        float(whole),
        len(words) / 10,
        len(found) / 20,
        len(trigrams(question) & trigrams(noun)) / len(trigrams(question)),
        len(trigrams(question) & trigrams(noun)) / len(trigrams(noun)),
    ]


def test_overlaps_are_what_they_are_said_to_be(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    memory = opened(ours(), world, lm, encoder).memory
    names = ["Mick Thomson", "The Crossing", "Paris"]
    ids = memory.upsert([Fact(f"Z{i}", "P36", "Z0", name, "", "Z") for i, name in enumerate(names)]).facts
    ids += memory.upsert([Fact("Z1", "P37", "Z0")]).facts
    questions = ["What is the capital of MICK thomson?", "what language, in the crossing-point?", "?"]
    facts = torch.tensor([[*ids, -1]] * 3)
    found = overlaps(memory, questions, facts, torch.full_like(facts, -1))
    assert found.shape == (3, 5, OVERLAPS)
    assert found[:, 4].abs().sum() == 0
    for row, question in enumerate(questions[:2]):
        for place, fact in enumerate(map(memory.fact, ids)):
            expected = slow(question, fact.head_label, fact.relation_noun)
            assert found[row, place, :-1].tolist() == pytest.approx([*expected, 0.0, 0.0]), (question, fact)
    assert found[2, :, :4].abs().sum() == 0
    headed = torch.tensor([1.0, 2.0, 1.0, 2.0]).log1p() / 5
    torch.testing.assert_close(found[0, :4, -1], headed)
    led = overlaps(memory, questions, facts[:, 1:2], torch.full_like(facts[:, :1], ids[3]))
    for row, question in enumerate(questions[:2]):
        first, last = memory.fact(ids[3]), memory.fact(ids[1])
        expected = slow(question, first.head_label, first.relation_noun)
        later = trigrams(last.relation_noun) - trigrams(first.relation_noun)
        second = len(trigrams(question) & later) / len(trigrams(question))
        assert led[row, 0, :-1].tolist() == pytest.approx([*expected, second, 1.0])


def test_a_second_noun_counts_by_what_the_first_one_does_not_say(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """A noun that both hops have is asked for twice only where it stands twice."""
    memory = opened(ours(), world, lm, encoder).memory
    [first] = memory.upsert([Fact("Z1", "P36", "Z2", "Alm", "", "Berg")]).facts
    noun = memory.fact(first).relation_noun
    same, other = memory.upsert(
        [Fact("Z2", relation, "Z3", "Berg", "", "Dorf") for relation in ("P36", "P37")]
    ).facts
    questions = [f"What is the {noun} of Alm?", f"The {noun} of the {noun} of Alm", f"{noun} {noun} Alm"]
    facts = torch.tensor([[same, other]] * 3)
    found = overlaps(memory, questions, facts, torch.full_like(facts, first))[..., 8]
    assert found[0, 0] == 0
    for row in (1, 2):
        share = len(trigrams(noun)) / len(trigrams(questions[row]))
        assert found[row, 0].item() == pytest.approx(share)
    later = memory.fact(other).relation_noun
    rest = (trigrams(later) - trigrams(noun)) & trigrams(questions[0])
    assert found[0, 1].item() == pytest.approx(len(rest) / len(trigrams(questions[0])))


def test_an_empty_memory_has_no_overlap(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system = opened(ours(letters=True), world, lm, encoder)
    system.memory.delete([system.memory.fact(row).key for row in range(len(system.memory))])
    with system.attached():
        reply = system.reply(["Why?"])
    assert reply.refused == [True]
    none = Candidates.none(1, 3, torch.device("cpu"))
    assert (
        nearest_letters(overlaps(system.memory, ["Why?"], none.facts, none.via), none.scores).abs().sum() == 0
    )


def test_the_correction_starts_at_zero_and_hands_no_gradient_on(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    without, system = (opened(ours(letters=letters), world, lm, encoder) for letters in (False, True))
    questions = [example.text for example in some_examples(system)]
    assert torch.equal(system.found(questions).scores, without.found(questions).scores)
    shaken(system)
    query = system.query(questions)
    found = system.memory.search(query)
    letters = overlaps(system.memory, questions, found.facts, found.via)
    added = system.letters(found, letters)
    assert added.abs().max() > 0.1
    torch.autograd.backward(added[found.facts >= 0].sum())
    assert all(p.grad is None for p in system.heads.parameters())
    assert all(p.grad is not None for p in system.letters.parameters())
    corrected = system.scored(questions, query, found.facts, found.via).scores
    torch.testing.assert_close(corrected, found.scores + added)


def test_fitting_it_finds_the_name_that_the_vectors_do_not(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(letters=True, letters_width=8), world, lm, encoder, N=60)
    examples = some_examples(system, 20)
    texts = [example.text for example in examples]

    def right() -> float:
        found = system.found(texts)
        best = found.facts.gather(1, found.scores.argmax(dim=-1, keepdim=True))[:, 0].tolist()
        slots = [system.memory.slot(*system.memory.triples[e.gold[0]][:2].tolist()) for e in examples]
        return sum(fact in slot for fact, slot in zip(best, slots, strict=True)) / len(examples)

    before = right()
    heads = {name: value.clone() for name, value in system.heads.state_dict().items()}
    curve = fit_letters(system, [(system.heads, examples)], retrieval(letters_steps=150), quiet)
    assert curve[-1]["aux_loss"] < 0.5 * curve[0]["aux_loss"]
    assert right() > max(before, 0.6)
    assert all(torch.equal(value, heads[name]) for name, value in system.heads.state_dict().items())
    assert fit_letters(system, [(system.heads, [Example("Why?", (), ())])], retrieval(), quiet) == []


def test_a_row_without_facts_stays_finite() -> None:
    correction = LetterCorrection(4)
    torch.nn.init.normal_(correction.outer.weight)
    found = Candidates.none(2, 3, torch.device("cpu"))
    assert correction(found, torch.zeros(2, 3, OVERLAPS)).isfinite().all()
