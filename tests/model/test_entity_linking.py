"""Entity linking: the score of a fact word by word, several entities of a name, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.memory.facts import Fact
from pipeline.model.linking import NONE, rest
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import linking, opened
from tests.tiny import SmallWorld

Make = Callable[..., Any]


@pytest.fixture
def make(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> Make:
    return lambda **changes: opened(linking(**changes), world, lm, encoder)


def test_a_fact_scores_by_the_letters_of_its_name_and_the_nearness_of_its_relation(make: Make) -> None:
    system = make(mention_weight=0.5, relation_scale=7.0)
    question = "Has Aland or Borland a capital?"
    found = system.found([question])
    listed = [row for row in found.facts[0].tolist() if row >= 0]
    assert {system.memory.fact(row).head_label for row in listed} == {"Aland", "Borland"}
    relations = system.memory.relations.vectors
    for row, score in zip(listed, found.scores[0].tolist(), strict=False):
        name = system.memory.fact(row).head_label
        left = system.encoder.encode([" ".join(question.replace(name, "", 1).split())])[0]
        relation = system.memory.triples[row, 1]
        assert score == pytest.approx(0.5 * len(name) + 7.0 * float(left @ relations[relation]), rel=1e-4)
    scores = found.scores[0][: len(listed)].tolist()
    assert scores == sorted(scores, reverse=True)
    best = listed[0]
    left = rest(question, system.mentions.of(question)[0])
    shares = torch.softmax(7.0 * (system.encoder.encode([left])[0] @ relations.T), dim=-1)
    assert float(found.doubt[0]) == pytest.approx(1 - float(shares[system.memory.triples[best, 1]]), rel=1e-4)


def test_all_entities_of_a_name_are_looked_at(make: Make) -> None:
    system = make()
    system.memory.upsert([Fact("other", "P36", "X", "Aland", "", "Otherville")])
    [facts] = system.ground(["What is the capital of Aland?"], 12).tolist()
    heads = {system.memory.fact(row).head for row in facts if row >= 0}
    assert heads == {"Q0", "other"}


def test_a_question_that_names_nothing_is_refused(make: Make) -> None:
    system = make()
    system.limit = 99.0
    with system.attached():
        reply = system.reply(["Why?", "What is the capital of Aland?"])
    assert reply.refused == [True, False]
    assert reply.refusal[0] == NONE > 1 >= reply.refusal[1]
    assert reply.facts[0] == reply.candidates[0] == []
    assert reply.texts[0] == ""


def test_fewer_are_refused_as_more_doubt_is_allowed(make: Make) -> None:
    asked = [f"What is the {noun} of Aland?" for noun in ("capital", "currency", "anthem", "mayor", "king")]
    refused = []
    system = make(relation_scale=2.0)
    for above in (0.0, 0.3, 0.6, 0.9, 1.0):
        system.limit = above
        doubt = system.found(asked).doubt
        assert system.refused(doubt) == [value > above for value in doubt.tolist()]
        refused.append(sum(system.refused(doubt)))
    assert refused == sorted(refused, reverse=True)
    assert (refused[0], refused[-1]) == (5, 0)


def test_the_next_question_sees_a_new_name_and_not_a_deleted_fact(make: Make) -> None:
    system = make()
    asked = ["What is the capital of Newland?"]
    assert system.ground(asked, 1).tolist() == [[-1]]
    [row] = system.memory.upsert([Fact("new", "P36", "X", "Newland", "", "Newtown")]).facts
    assert system.ground(asked, 1).tolist() == [[row]]
    system.memory.delete([("new", "P36", "X")])
    assert system.ground(asked, 1).tolist() == [[-1]]


def test_an_empty_memory_and_no_questions(make: Make) -> None:
    system = make()
    assert system.found([]).facts.shape == (0, 12)
    system.memory.delete([system.memory.fact(row).key for row in range(len(system.memory))])
    with system.attached():
        reply = system.reply(["What is the capital of Aland?"])
    assert (reply.refused, reply.facts, reply.texts) == ([True], [[]], [""])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"mention_weight": -1.0},
            r"at least 0 and relation_scale above 0, not -1\.0",
        ),
        ({"relation_scale": 0.0}, r"relation_scale above 0, not 1\.0 and 0\.0"),
        ({"refuse_answerable": 1.0}, r"method\.refuse_answerable must be in \[0, 1\), not 1\.0"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(linking(), **changes)
