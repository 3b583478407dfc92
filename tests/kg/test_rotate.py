"""The arithmetic of RotatE against slow complex arithmetic, fold-in, and the ranges of its keys."""

import cmath
import dataclasses

import pytest
import torch
import yaml

from pipeline.config import ConfigError, section
from pipeline.kg.foldin import fold_in
from pipeline.kg.rotate import (
    NORMS,
    SIDES,
    Rotate,
    as_complex,
    build,
    candidate_scores,
    distances,
    real_then_imaginary,
    rotated,
    shared_distances,
)
from tests.rotations import CONF, laptop


def slow_distance(h: list[complex], r: list[complex], t: list[complex], norm: str) -> float:
    moduli = [abs(a * b - c) for a, b, c in zip(h, r, t, strict=True)]
    if norm == "l1":
        return sum(moduli)
    squared = sum(modulus**2 for modulus in moduli)
    return squared if norm == "squared" else squared**0.5


def some_vectors(rows: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dimension, dtype=torch.cfloat, generator=torch.Generator().manual_seed(seed))


def some_rotations(rows: int, dimension: int, seed: int = 1) -> torch.Tensor:
    vectors = some_vectors(rows, dimension, seed)
    return vectors / vectors.abs()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("side", SIDES)
def test_every_form_of_the_score_is_slow_complex_arithmetic(norm: str, side: str) -> None:
    entities, relations = some_vectors(6, 5), some_rotations(3, 5)
    facts = torch.tensor([[0, 0, 1], [2, 1, 3], [4, 2, 4]])
    model = build(laptop(norm=norm, dimension=5), 6, 3, seed=0)
    model.entity_representations[0]._embeddings.weight.data = torch.view_as_real(entities).flatten(1)
    model.relation_representations[0]._embeddings.weight.data = torch.view_as_real(relations).flatten(1)
    given = entities[facts[:, 0 if side == "tail" else 2]]
    queries = rotated(given, relations[facts[:, 1]], side)
    matrix = distances(queries, entities, norm)
    own = candidate_scores(queries, entities.expand(3, 6, 5), norm)
    library = (model.score_t(facts[:, :2]) if side == "tail" else model.score_h(facts[:, 1:])).detach()
    for row, (head, relation, tail) in enumerate(facts.tolist()):
        for candidate in range(6):
            ends = (head, candidate) if side == "tail" else (candidate, tail)
            slow = slow_distance(
                entities[ends[0]].tolist(), relations[relation].tolist(), entities[ends[1]].tolist(), norm
            )
            assert matrix[row, candidate].item() == pytest.approx(slow, abs=1e-4)
            assert -own[row, candidate].item() == pytest.approx(slow, abs=1e-4)
            assert -library[row, candidate].item() == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sharing", [1, 3, 4, 8, 20])
def test_the_distances_of_groups_are_those_to_the_candidates_of_each(norm: str, sharing: int) -> None:
    queries = some_vectors(8, 5)
    groups = -(-8 // sharing)
    candidates = some_vectors(groups * 6, 5, seed=2).view(groups, 6, 5)
    found = shared_distances(queries, candidates, sharing, norm)
    assert found.shape == (8, 6)
    for row, query in enumerate(queries):
        expected = distances(query[None], candidates[row // sharing], norm)[0]
        assert torch.allclose(found[row], expected, atol=1e-4)


def test_the_l1_norm_is_not_what_pykeen_computes_by_default() -> None:
    h, r, t = some_vectors(3, 8), some_rotations(3, 8), some_vectors(3, 8, seed=2)
    l1, l2 = (build(laptop(norm=norm), 3, 3, seed=0).interaction(h, r, t) for norm in ("l1", "l2"))
    assert (l1 < l2 - 0.1).all()


def test_the_same_seed_gives_the_same_first_weights_and_leaves_the_global_state() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (build(laptop(), 4, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    weights = [model.entity_representations[0](None) for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].real.abs().max() <= laptop().initial_scale


def test_inverse_relations_have_rows_of_their_own() -> None:
    assert build(laptop(inverse_relations=True), 4, 3, seed=0).relation_representations[0](None).shape == (
        6,
        32,
    )


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 1.0])])
def test_fold_in_recovers_a_vector_whose_facts_hold_exactly(weights: torch.Tensor | None) -> None:
    new, relations = some_vectors(1, 16)[0], some_rotations(4, 16)
    incoming = torch.tensor([True, False, True, False])
    neighbours = torch.where(incoming[:, None], new * relations.conj(), new * relations)
    assert torch.allclose(fold_in(neighbours, relations, incoming, weights), new, atol=1e-6)


def test_fold_in_minimises_the_weighted_squared_distance() -> None:
    neighbours, relations = some_vectors(5, 8), some_rotations(5, 8)
    incoming, weights = (
        torch.tensor([True, True, False, False, True]),
        torch.tensor([1.0, 3.0, 0.2, 1.0, 2.0]),
    )
    found = fold_in(neighbours, relations, incoming, weights)

    def cost(vector: torch.Tensor) -> float:
        points = neighbours * torch.where(incoming[:, None], relations, relations.conj())
        return float((weights * (points - vector).abs().square().sum(dim=1)).sum())

    for seed in range(5):
        assert cost(found) < cost(found + 0.1 * some_vectors(1, 8, seed=seed + 10)[0])


@pytest.mark.parametrize("weights", [torch.tensor([0.0]), torch.tensor([-1.0]), torch.tensor([torch.nan])])
def test_fold_in_refuses_weights_without_a_mean(weights: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="needs a fact with a weight above 0"):
        fold_in(some_vectors(1, 4), some_rotations(1, 4), torch.tensor([True]), weights)
    with pytest.raises(ValueError, match="needs a fact"):
        fold_in(some_vectors(0, 4), some_rotations(0, 4), torch.zeros(0, dtype=torch.bool))


def test_vectors_are_written_real_parts_first() -> None:
    vectors = torch.tensor([[1 + 2j, 3 + 4j]])
    assert real_then_imaginary(vectors).tolist() == [[1, 3, 2, 4]]
    assert torch.equal(as_complex(real_then_imaginary(vectors)), vectors)


def test_a_rotation_turns_and_does_not_stretch() -> None:
    quarter = torch.tensor([[cmath.rect(1, cmath.pi / 2)]])
    assert rotated(torch.tensor([[2 + 0j]]), quarter, "tail").item() == pytest.approx(2j, abs=1e-6)
    assert rotated(torch.tensor([[0 + 2j]]), quarter, "head").item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("choice", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_choice_is_complete(choice: str) -> None:
    values = yaml.safe_load((CONF / f"{choice}.yaml").read_text())
    rotate = section(Rotate, values, "rotate")
    assert [field.name for field in dataclasses.fields(rotate)] == list(values)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"optimizer": "sgdd"}, "rotate.optimizer must be one of adam, adagrad, rowwise_adagrad, not 'sgdd'"),
        ({"updates": "row"}, "rotate.updates must be one of dense, rows, not 'row'"),
        ({"sharing": 0}, "rotate.sharing must be at least 1, not 0"),
        (
            {"updates": "rows", "trainer": "one_vs_all"},
            "rotate.updates must be dense for rotate.trainer one_vs_all.*choose shared or self_adversarial",
        ),
        (
            {"optimizer": "rowwise_adagrad"},
            "rowwise_adagrad needs rotate.updates rows; for dense take adagrad",
        ),
        ({"norm": "l3"}, "rotate.norm must be one of l1, l2, squared, not 'l3'"),
        ({"device": "tpu"}, "rotate.device must be one of auto, cpu, cuda, not 'tpu'"),
        ({"dimension": 0}, "rotate.dimension must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "rotate.learning_rate must be above 0, not 0.0"),
        ({"regularisation": float("nan")}, "rotate.regularisation must be at least 0, not nan"),
        ({"dropout": 1.0}, r"rotate.dropout must be in \[0, 1\), not 1.0"),
        ({"validation": 0.5, "test": 0.5}, r"rotate.validation \+ rotate.test must be below 1, not 1.0"),
        ({"epochs": "many"}, "rotate.epochs"),
    ],
)
def test_a_bad_value_names_its_key(changes: dict[str, object], text: str) -> None:
    values = yaml.safe_load((CONF / "laptop.yaml").read_text()) | changes
    with pytest.raises(ConfigError, match=text):
        section(Rotate, values, "rotate")
