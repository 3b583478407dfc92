"""Whether something is asked: the line between two kinds, both doubts together, texts that are written."""

import random

import pytest
import torch

from pipeline.model.asking import LONGEST, Asking, keys, worded, written
from pipeline.model.judging import CERTAIN, choose_threshold, fit_asking
from pipeline.weights import Encoder, LanguageModel
from tests.model.test_retrieval import quiet
from tests.model.tiny_systems import opened, ours, some_examples
from tests.tiny import SmallWorld


def wordings(count: int, along: int, seed: int) -> torch.Tensor:
    """Vectors of a width for C = 2 that lean to one coordinate."""
    vectors = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    vectors[:, along] += 4
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_two_kinds_are_told_apart_and_weigh_the_same_however_many_there_are() -> None:
    asking = Asking(2)
    assert not asking(wordings(5, 0, 0)).any()
    asking.fit(wordings(300, 0, 1), wordings(60, 1, 2))
    asks, tells = asking(wordings(100, 0, 3)), asking(wordings(100, 1, 4))
    assert (asks < 0).float().mean() > 0.95
    assert (tells > 0).float().mean() > 0.95
    asking.fit(wordings(300, 0, 1), wordings(300, 0, 5))
    assert asking(wordings(200, 0, 6)).sigmoid().mean() == pytest.approx(0.5, abs=0.1)


def test_a_text_is_worded_the_same_in_a_batch_and_alone_and_by_its_first_word_too(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    reader = opened(ours(), world, lm, encoder).reader
    texts = ["who?", "What is the capital of the country of the longest river?", "Rain fell."]
    both = worded(reader, texts)
    assert both.shape == (3, 6 * reader.hidden)
    alone = torch.cat([worded(reader, [text]) for text in texts])
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=0)
    parts = worded(reader, ["Who fell.", "Rain fell."]).view(2, 2, 3, reader.hidden)
    assert torch.equal(parts[0, 0, 1], parts[1, 0, 1])  # the last token, not yet mixed with the others
    assert not torch.equal(parts[0, 0, 2], parts[1, 0, 2])  # the first


def test_written_texts_differ_and_come_again_with_the_same_seed(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(), world, lm, encoder)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(written(system.reader, system.memory, 8, random.Random(seed)))
    assert found[0] == found[1] != found[2]
    assert len(set(found[0])) > 1
    assert all("?" not in text and len(system.reader.encode([text])[0]) <= LONGEST + 2 for text in found[0])
    fact = system.memory.fact(0)
    assert keys(system.memory, [0]) == [f"{fact.relation_noun} of {fact.head_label}"]


def test_texts_are_refused_and_questions_as_rarely_as_is_wished(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(), world, lm, encoder)
    examples = some_examples(system, 20)
    asked = [example.text for example in examples]
    before = {name: value.clone() for name, value in system.state_dict().items()}
    torch.manual_seed(0)
    fit_asking(system, examples[:10], 24, random.Random(0), quiet)
    doubted = system.doubt(asked)
    after = system.state_dict()
    assert all(torch.equal(v, after[n]) for n, v in before.items() if not n.startswith("asking."))
    system.asking.bias += 50  # every question seems to ask nothing
    told = choose_threshold(system, examples, 0.1)
    doubts = system.doubt(asked)
    assert all(now in (doubt, 1.0) for doubt, now in zip(doubted, doubts, strict=True))
    assert 0 < sum(doubt > told["threshold"] for doubt in doubts) <= 4  # a tenth for either reason
    assert told["template"] == sum(doubt > told["threshold"] for doubt in doubts) / len(doubts)
    texts = written(system.reader, system.memory, 24, random.Random(1))
    assert system.doubt(texts).count(1.0) > len(texts) / 2
    system.asking.bias -= 100  # no question does, so none comes near
    choose_threshold(system, examples, 0.1)
    assert float(system.asking.limit.sigmoid()) == pytest.approx(CERTAIN)


def test_what_never_learned_to_tell_refuses_nothing_for_it(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(ours(), world, lm, encoder)
    examples = some_examples(system, 20)
    assert choose_threshold(system, examples, 0.0)["template"] == 0.0
    assert not system.asking.asks_nothing(system.reader, ["Rain fell."]).any()
