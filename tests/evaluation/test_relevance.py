"""BERTScore against its definition, pair by pair, and what a judge's reply is taken for."""

from copy import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.evaluation.relevance import Opinion, TokenStates, bertscores, best, judged, parsed
from pipeline.weights import Encoder
from tests.kg.services import ANSWER, Server

TEXTS = ["the capital of Aland", "euro", "Aland City", "the official language of Borland is Bish"]


@pytest.fixture(scope="module")
def states(encoder: Encoder) -> TokenStates:
    made = TokenStates(encoder, torch.device("cpu"))
    made.add([*TEXTS, ""])
    return made


def plain(states: TokenStates, said: str, right: str) -> tuple[float, float, float]:
    """The formulas of the paper, without any padding."""
    alike = states[said] @ states[right].T
    precision, recall = alike.max(dim=1).values.mean(), alike.max(dim=0).values.mean()
    return precision.item(), recall.item(), (2 * precision * recall / (precision + recall)).item()


def test_scores_are_those_of_the_paper_whatever_stands_beside(states: TokenStates) -> None:
    pairs = [(one, other) for one in TEXTS for other in TEXTS]
    found = bertscores(states, [one for one, _ in pairs], [other for _, other in pairs])
    for (one, other), scores in zip(pairs, found, strict=True):
        assert scores == pytest.approx(plain(states, one, other), abs=1e-5)
        mirrored = found[pairs.index((other, one))]
        assert scores == pytest.approx((mirrored[1], mirrored[0], mirrored[2]), abs=1e-5)
        if one == other:
            assert scores == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)
        else:
            assert scores[2] < 0.999


def test_states_are_those_of_the_text_alone_without_what_the_tokenizer_adds(
    states: TokenStates, encoder: Encoder
) -> None:
    alone = TokenStates(encoder, torch.device("cpu"))
    alone.add(["euro"])
    torch.testing.assert_close(alone["euro"], states["euro"], rtol=1e-4, atol=1e-5)
    tokens = states._tokenizer("euro", add_special_tokens=False)["input_ids"]
    assert len(states["euro"]) == len(tokens)
    torch.testing.assert_close(states["euro"].norm(dim=-1), torch.ones(len(tokens)))


def test_nothing_said_is_worth_nothing(states: TokenStates) -> None:
    assert bertscores(states, ["", "euro"], ["euro", ""]) == [(0.0, 0.0, 0.0)] * 2


@given(seed=st.integers(0, 10**6), said=st.integers(1, 3), right=st.integers(1, 3))
def test_the_mean_lies_between_its_parts_and_is_0_where_one_is_not_positive(
    states: TokenStates, seed: int, said: int, right: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = [F.normalize(torch.randn(n, 2, generator=draw), dim=-1) for n in (said, right)]
    drawn = copy(states)
    drawn._known = dict(zip(("said", "right"), rows, strict=True))
    [(precision, recall, mean)] = bertscores(drawn, ["said"], ["right"])
    if min(precision, recall) > 0:
        assert min(precision, recall) - 1e-6 <= mean <= max(precision, recall) + 1e-6
    else:
        assert mean == 0.0


def test_the_best_of_the_right_answers_counts(states: TokenStates) -> None:
    [both] = best(states, ["euro"], [["the capital of Aland", "euro"]])
    assert both == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)
    wrong, none = best(states, ["euro", ""], [TEXTS[2:], ["euro"]])
    one, other = bertscores(states, ["euro", "euro"], TEXTS[2:])
    assert wrong == max(one, other, key=lambda scores: scores[2])
    assert none == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("0.75", 0.75),
        (" 1\n", 1.0),
        ("0", 0.0),
        (".5 because", 0.5),
        ("1.0.", 1.0),
        ("Score: 0.2", 0.2),
        ("10", None),
        ("1/10", None),
        ("1.5", None),
        ("0 %", None),
        ("It is right.", None),
        ("", None),
        ("-1", None),
    ],
)
def test_a_reply_begins_with_its_score_or_has_none(reply: str, score: float | None) -> None:
    assert parsed(reply) == score


def test_a_judge_is_told_question_answers_and_what_was_said() -> None:
    right = {"choices": [{"message": {"content": "0.5"}}], "usage": ANSWER["usage"]}
    with Server([(200, right), (200, ANSWER)]) as server:
        asked = (server.endpoint, "{question} / {answers} / {said}", "Where?", ["Aland", "Bland"], "Cland")
        assert judged(*asked) == Opinion(0.5, 42)
        assert judged(*asked) == Opinion(None, 42)
    assert server.seen[0][1]["messages"] == [{"role": "user", "content": "Where? / Aland | Bland / Cland"}]
