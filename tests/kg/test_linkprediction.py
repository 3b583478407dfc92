"""Held-out facts, and ranks against brute force and against PyKEEN's own evaluator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pykeen.evaluation import RankBasedEvaluator

from pipeline.kg.linkprediction import (
    EVALUATORS,
    Groups,
    chunked_distances,
    evaluate,
    figures,
    hold_out,
    realistic_ranks,
)
from pipeline.kg.rotate import NORMS, SIDES, build, distances, rotated
from tests.rotations import laptop

triples = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 6)), min_size=3, max_size=40, unique=True
)


def dense(rows: list[tuple[int, int, int]]) -> np.ndarray:
    facts = np.array(rows, dtype=np.int64)
    _, ends = np.unique(facts[:, [0, 2]], return_inverse=True)
    _, kinds = np.unique(facts[:, 1], return_inverse=True)
    ends = ends.reshape(-1, 2)
    return np.stack([ends[:, 0], kinds.ravel(), ends[:, 1]], axis=1)


@settings(max_examples=50, deadline=None)
@given(triples, st.sampled_from([0.0, 0.2, 0.9]), st.integers(0, 3))
def test_held_out_facts_never_take_the_last_of_an_entity_or_relation(rows, share, seed) -> None:
    facts = dense(rows)
    held = hold_out(facts, share, seed)
    kept = facts[~held]
    assert set(kept[:, [0, 2]].ravel()) == set(facts[:, [0, 2]].ravel())
    assert set(kept[:, 1]) == set(facts[:, 1])
    assert held.sum() <= share * len(facts)
    assert np.array_equal(held, hold_out(facts, share, seed))


def test_as_many_facts_are_held_out_as_asked_where_the_graph_can_spare_them() -> None:
    facts = np.array([[h, 0, t] for h in range(10) for t in range(10)])
    assert hold_out(facts, 0.1, 0).sum() == 10


def brute_ranks(scores, facts, train, known, side, typed) -> list[float]:
    """Rank by looping over candidates, as the definition has it."""
    ranks = []
    where = 2 if side == "tail" else 0
    for number, fact in enumerate(facts.tolist()):
        better, ties, reachable = 0, 0, False
        for candidate in range(scores.shape[1]):
            other = list(fact)
            other[where] = candidate
            allowed = not typed or any(
                row[1] == fact[1] and row[where] == candidate for row in train.tolist()
            )
            if candidate == fact[where]:
                reachable = allowed
            elif allowed and other not in known.tolist():
                better += bool(scores[number, candidate] > scores[number, fact[where]])
                ties += bool(scores[number, candidate] == scores[number, fact[where]])
        ranks.append(1 + better + ties / 2 if reachable else float("inf"))
    return ranks


@settings(max_examples=25, deadline=None)
@given(triples, st.sampled_from(sorted(NORMS)), st.booleans())
def test_ranks_equal_brute_force_ties_included(rows, norm, inverse) -> None:
    facts = dense(rows)
    held = hold_out(facts, 0.3, 0)
    asked = facts[held] if held.any() else facts[:2]
    generator = torch.Generator().manual_seed(0)
    count, kinds = facts[:, [0, 2]].max() + 1, facts[:, 1].max() + 1
    # Whole numbers and quarter turns make exact ties, which real vectors hardly ever do.
    entities = torch.complex(*torch.randint(-1, 2, (2, count, 2), generator=generator).float())
    turns = torch.tensor([1, 1j, -1, -1j])
    relations = turns[torch.randint(4, (kinds * (2 if inverse else 1), 2), generator=generator)]
    found = evaluate(entities, relations, asked, facts[~held], facts, norm, inverse, batch_size=2)
    for name in EVALUATORS:
        expected = {}
        for side in SIDES:
            given, rows_of = asked[:, 0 if side == "tail" else 2], asked[:, 1]
            own = inverse and side == "head"
            queries = rotated(
                entities[given], relations[rows_of + (kinds if own else 0)], "tail" if inverse else side
            )
            scores = -distances(queries, entities, norm)
            ranks = brute_ranks(scores, asked, facts[~held], facts, side, name == "type_filtered")
            expected[side] = torch.tensor(ranks)
        assert found[name] == pytest.approx(figures(expected))


@pytest.mark.parametrize("norm", NORMS)
def test_the_filtered_figures_are_those_of_pykeens_evaluator(norm: str) -> None:
    generator = np.random.default_rng(0)
    facts = np.unique(generator.integers(0, [30, 4, 30], (200, 3)), axis=0)
    facts = dense([tuple(row) for row in facts.tolist()])
    held = hold_out(facts, 0.2, 0)
    model = build(laptop(norm=norm), int(facts[:, [0, 2]].max()) + 1, 4, seed=0)
    model.eval()
    with torch.no_grad():
        library = RankBasedEvaluator(clear_on_finalize=False).evaluate(
            model,
            torch.from_numpy(facts[held]),
            additional_filter_triples=[torch.from_numpy(facts[~held])],
            batch_size=16,
            use_tqdm=False,
        )
        ours = evaluate(
            model.entity_representations[0](None),
            model.relation_representations[0](None),
            facts[held],
            facts[~held],
            facts,
            norm,
            inverse=False,
            batch_size=16,
        )["filtered"]
    assert ours["mrr"] == pytest.approx(
        library.get_metric("both.realistic.inverse_harmonic_mean_rank"), abs=1e-4
    )
    assert ours["hits@10"] == pytest.approx(library.get_metric("both.realistic.hits_at_10"), abs=1e-4)
    assert ours["ranks"] == 2 * held.sum()


def test_realistic_ranks_of_ties() -> None:
    scores = torch.tensor(
        [[3.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, -torch.inf, -torch.inf, -torch.inf]]
    )
    assert realistic_ranks(scores, torch.tensor([1, 0, 0])).tolist() == [2.5, 2.5, 1.0]


def test_groups_give_each_value_of_each_key_once() -> None:
    groups = Groups.of(np.array([5, 3, 5, 5]), np.array([1, 2, 9, 1]))
    rows, values = groups.cells(np.array([5, 4, 3, 5]))
    assert list(zip(rows.tolist(), values.tolist(), strict=True)) == [(0, 1), (0, 9), (2, 2), (3, 1), (3, 9)]


def test_chunks_of_the_l1_norm_change_nothing() -> None:
    vectors = torch.randn(9, 4, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        chunked_distances(vectors[:3], vectors, "l1", budget=1), distances(vectors[:3], vectors, "l1")
    )
