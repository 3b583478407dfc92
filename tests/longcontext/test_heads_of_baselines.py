"""Heads that look things up are told from those that don't."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.longcontext.baselines import heads
from pipeline.longcontext.baselines.heads import head_scores, measured, retrieval_groups
from pipeline.longcontext.running import Runner
from tests.longcontext.baseline_settings import baselines, decoder

PERIOD, REPEATS = 12, 3


def planted(back: int) -> Any:
    """A decoder whose first layer's first head attends to the token `back` places ago, by rotation alone.

    Its queries and keys don't depend on the token: the model's biases hold them. Turned by the positions'
    difference, they match best there.
    """
    lm = decoder("qwen2")  # the family whose queries and keys have biases
    attention = lm.model.layers[0].self_attn
    size = attention.head_dim
    frequencies = lm.model.rotary_emb.inv_freq
    key = torch.ones(size)
    angles = -back * frequencies  # a query at position p matches the key at position p - back
    query = torch.cat([angles.cos() - angles.sin(), angles.sin() + angles.cos()])
    attention.q_proj.weight[:size] = 0
    attention.k_proj.weight[:size] = 0
    attention.q_proj.bias[:size] = 30 * query
    attention.k_proj.bias[:size] = key
    return lm


@pytest.mark.parametrize(("way", "back"), [("echo", PERIOD), ("induction", PERIOD - 1)])
def test_a_planted_head_is_found_by_its_score(way: str, back: int) -> None:
    scores = head_scores(Runner(planted(back), chunk=8), PERIOD, REPEATS, seed=0)
    assert scores[way][0, 0] > 0.9
    assert scores[way].flatten().argmax() == 0
    other = {"echo": "induction", "induction": "echo"}[way]
    assert scores[other][0, 0] < 0.1
    found = retrieval_groups(scores, groups=1, **{way: 0.25, other: 0.0})
    assert found.tolist() == [[True], [False], [False], [False]]


def test_scores_are_the_attention_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "QUERIES", 7)
    lm = decoder()
    scores = head_scores(Runner(lm, chunk=8), PERIOD, REPEATS, seed=3)
    drawn = torch.randint(97, (1, PERIOD), generator=torch.Generator().manual_seed(3)).repeat(1, REPEATS)
    lm.set_attn_implementation("eager")
    attention = torch.stack(lm(drawn, output_attentions=True).attentions)[:, 0]  # L H N N
    length = drawn.shape[1]

    def mean(offset: int) -> Tensor:
        given = sum(
            attention.diagonal(-back, dim1=2, dim2=3).sum(dim=-1)
            for back in range(PERIOD - offset, length, PERIOD)
        )
        return given / (length - PERIOD)

    torch.testing.assert_close(scores["echo"], mean(0), rtol=0, atol=1e-5)
    # the first copy's last query sees the first token, but has no former copy to look at
    extra = attention[:, :, PERIOD - 1, 0] / (length - PERIOD)
    torch.testing.assert_close(scores["induction"], mean(1) - extra, rtol=0, atol=1e-5)


def test_a_group_is_as_good_as_its_best_head_and_shares_are_of_groups() -> None:
    induction = torch.tensor([[0.1, 0.2, 0.9, 0.0], [0.5, 0.3, 0.3, 0.3]])
    echo = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.4]])
    scores = {"induction": induction, "echo": echo}
    assert retrieval_groups(scores, 2, 0.25, 0.0).tolist() == [[False, True], [False, False]]
    assert retrieval_groups(scores, 2, 0.5, 0.25).sum() == 3
    assert retrieval_groups(scores, 2, 0.25, 0.25).tolist() == [[False, True], [False, True]]


def test_a_model_is_measured_once(tmp_path: Path) -> None:
    lm, razor = decoder(), baselines().razor
    first = measured(Runner(lm, chunk=8), razor, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    right = head_scores(Runner(lm, chunk=8), razor.tokens, razor.repeats, 0)
    for way, scores in first.items():
        torch.testing.assert_close(scores, right[way])
    stored = json.loads(file.read_text())
    stored["echo"][0][0] = math.pi
    file.write_text(json.dumps(stored))
    again = measured(Runner(lm, chunk=8), razor, 0, tmp_path)
    assert again["echo"][0, 0] == pytest.approx(math.pi)
    measured(Runner(decoder("qwen2"), chunk=8), razor, 0, tmp_path)
    measured(Runner(lm, chunk=8), razor, 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # another model and another seed are measured anew
