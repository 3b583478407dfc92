from dataclasses import dataclass

import pytest

from pipeline.evaluation.majority import CommonestAnswer, Majority
from pipeline.evaluation.methods import Answers, build, register
from tests.evaluation.toys import graph


def answers(**changes):
    fields = {
        "texts": ["a"],
        "facts": [[1, 2]],
        "weights": [[0.6, 0.4]],
        "candidates": [[]],
        "refusal": [0.0],
        "refused": [False],
    }
    return Answers(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"refusal": []}, "Answers.refusal has 0 items for 1 texts"),
        ({"weights": [[1.0]]}, r"Answers.weights\[0\] has 1 items for 2 facts"),
        ({"weights": [[0.4, 0.6]]}, r"Answers.facts\[0\] must stand in order of weight"),
        ({"weights": [[0.4, float("nan")]]}, "question 0 is not finite"),
        ({"refusal": [float("inf")]}, "question 0 is not finite"),
    ],
)
def test_answers_that_do_not_fit_are_named(changes, text):
    assert len(answers()) == 1
    with pytest.raises(ValueError, match=text):
        answers(**changes)


def test_build_gives_a_builder_what_it_names():
    built = build(Majority(), graph=graph(), lm="not asked for")
    assert isinstance(built, CommonestAnswer)


def test_build_names_what_is_missing():
    @dataclass(frozen=True)
    class Strange:
        depth: int

    with pytest.raises(LookupError, match=r"registered for Strange; there is .*Majority"):
        build(Strange(3))

    @register(Strange)
    def strange(method: Strange, graph: object) -> CommonestAnswer:
        assert method.depth == 3
        return CommonestAnswer(graph)

    with pytest.raises(TypeError, match="the method Strange needs 'graph'"):
        build(Strange(3))
    assert build(Strange(3), graph=graph()).name == "majority"


def test_majority_guesses_by_the_longest_noun():
    given = CommonestAnswer(graph()).answer(
        [
            "The capital of Cland?",
            "What is the OFFICIAL language of Cland?",
            "Whose capitals are these?",
            "Is the official language of the capital known?",
        ]
    )
    # Dutch and French are equally common, so the first in the alphabet; Paris is the commonest of all
    assert given.texts == ["Paris", "Dutch", "Paris", "Dutch"]
    assert not any(given.refused)


def test_majority_sees_training_facts_of_the_base_alone():
    toy = graph()
    guesser = CommonestAnswer(toy)
    before = guesser.answer(["capital?"]).texts
    guesser.update(toy, 1)
    assert guesser.answer(["capital?"]).texts == before == ["Paris"]
    assert "Lyon" not in guesser.commonest.values()
