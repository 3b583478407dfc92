"""The training loop: it learns, it resumes to the same bytes, and its losses are the direct ones."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import UserError
from pipeline.kg.linkprediction import hold_out
from pipeline.kg.rotate import build
from pipeline.kg.rotate_rows import ROW_OPTIMIZERS
from pipeline.kg.rotate_training import Facts, batches, fingerprint, pick_device, rank, train
from tests.rotations import laptop, ring

SAMPLED = ("self_adversarial", "shared")
TRAINERS = (*SAMPLED, "one_vs_all")


def small(**changes: object):
    settings = {
        "dimension": 16,
        "norm": "l1",
        "trainer": "self_adversarial",
        "margin": 4.0,
        "negatives": 8,
        "initial_scale": 0.3,
        "inverse_relations": False,
        "optimizer": "adam",
        "learning_rate": 0.05,
        "final_learning_rate": 0.05,
        "batch_size": 16,
        "epochs": 30,
        "evaluate_every": 5,
        "patience": 100,
        "device": "cpu",
    }
    return laptop(**(settings | changes))


def graph() -> Facts:
    facts = ring()
    held = hold_out(facts, 0.2, 0)
    outside = facts[held]
    return Facts(facts[~held], outside[::2], outside[1::2], 24, 3)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("norm", ["l1", "squared"])
def test_training_finds_facts_that_follow_by_composition(trainer: str, norm: str) -> None:
    facts, rotate = graph(), small(trainer=trainer, norm=norm)
    start = build(rotate, facts.entities, facts.relations, seed=0)
    before = rank(
        rotate,
        (start.entity_representations[0](None), start.relation_representations[0](None)),
        facts,
        facts.test,
    )
    trained = train(rotate, facts, seed=0)
    after = rank(rotate, (trained.entities, trained.relations), facts, facts.test)
    assert trained.progress.losses[-1] < trained.progress.losses[0]
    assert after["filtered"]["mrr"] > 0.6 > 0.4 > before["filtered"]["mrr"]
    assert torch.allclose(trained.relations.abs(), torch.ones(1), atol=1e-5)


@pytest.mark.parametrize(
    ("trainer", "updates", "optimizer"),
    [
        *itertools.product(TRAINERS, ["dense"], ["adam", "adagrad"]),
        *itertools.product(SAMPLED, ["rows"], ROW_OPTIMIZERS),
    ],
)
def test_a_killed_run_resumes_to_the_bytes_of_one_that_was_not(
    tmp_path: Path, trainer: str, updates: str, optimizer: str
) -> None:
    kind = {"trainer": trainer, "updates": updates, "optimizer": optimizer, "dropout": 0.1}
    facts, rotate = graph(), small(epochs=6, evaluate_every=2, **kind)
    whole = train(rotate, facts, seed=3)
    checkpoint = tmp_path / "run.pt"

    class KilledError(Exception):
        pass

    def kill(progress) -> None:
        if progress.epoch == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(rotate, facts, seed=3, checkpoint=checkpoint, report=kill)
    epochs: list[int] = []
    resumed = train(rotate, facts, seed=3, checkpoint=checkpoint, report=lambda at: epochs.append(at.epoch))
    assert epochs == [5, 6]
    assert torch.equal(resumed.entities, whole.entities)
    assert torch.equal(resumed.relations, whole.relations)
    assert resumed.progress.losses == whole.progress.losses
    assert resumed.progress.validation == whole.progress.validation


@pytest.mark.parametrize("trainer", SAMPLED)
def test_training_by_rows_is_training_by_all_entities(trainer: str) -> None:
    by_row, dense = (
        train(small(trainer=trainer, optimizer="adagrad", epochs=4, updates=updates), graph(), seed=0)
        for updates in ("rows", "dense")
    )
    assert torch.allclose(by_row.entities, dense.entities, atol=1e-3)
    assert torch.allclose(by_row.relations, dense.relations, atol=1e-3)
    assert by_row.progress.losses == pytest.approx(dense.progress.losses, rel=1e-3)


def test_an_epoch_holds_every_fact_once_in_an_order_of_its_own() -> None:
    triples = torch.from_numpy(ring())
    parts = [list(batches(triples, 10, seed, epoch)) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert [len(part) for part in parts[0]] == [10] * 7 + [2]
    first, again, *others = (torch.cat(part) for part in parts)
    assert torch.equal(first, again)
    for other in others:
        assert not torch.equal(first, other)
        assert sorted(other.tolist()) == sorted(triples.tolist())


def test_another_seed_gives_other_vectors() -> None:
    first, second = (train(small(epochs=1), graph(), seed=seed) for seed in (0, 1))
    assert not torch.equal(first.entities, second.entities)


def test_the_best_epoch_is_kept_and_patience_ends_training() -> None:
    facts, rotate = graph(), small(epochs=200, evaluate_every=1, patience=3)
    trained = train(rotate, facts, seed=0)
    history = dict(trained.progress.validation)
    assert trained.progress.best_mrr == max(history.values()) == history[trained.progress.best_epoch]
    assert trained.progress.epoch == trained.progress.best_epoch + 3 < 200
    figures = rank(rotate, (trained.entities, trained.relations), facts, facts.valid)
    assert figures["filtered"]["mrr"] == pytest.approx(trained.progress.best_mrr)


def test_without_validation_facts_the_last_epoch_is_kept() -> None:
    facts = Facts(ring(), ring()[:0], ring()[:0], 24, 3)
    trained = train(small(epochs=7), facts, seed=0)
    assert trained.progress.best_epoch == trained.progress.epoch == 7
    assert trained.progress.validation == []


def test_a_budget_of_seconds_stops_training() -> None:
    trained = train(small(epochs=10**6, evaluate_every=10**6), graph(), seed=0, seconds=0.3)
    assert 0.3 <= trained.progress.seconds < 5
    assert trained.progress.epoch < 10**6
    assert len(trained.progress.validation) == 1


def test_the_fingerprint_changes_with_the_configuration_the_facts_and_the_seed() -> None:
    facts = graph()
    fewer = Facts(facts.train[:-1], facts.valid, facts.test, facts.entities, facts.relations)
    prints = [
        fingerprint(small(), facts, 0),
        fingerprint(small(margin=5.0), facts, 0),
        fingerprint(small(), fewer, 0),
        fingerprint(small(), facts, 1),
    ]
    assert len(set(prints)) == 4
    assert prints[0] == fingerprint(small(), graph(), 0)


def test_no_facts_say_where_to_look() -> None:
    with pytest.raises(UserError, match=r"no facts to train on; check the data choice"):
        train(small(), Facts(ring()[:0], ring()[:0], ring()[:0], 0, 0), seed=0)


def test_a_diverging_loss_says_what_to_lower() -> None:
    with pytest.raises(UserError, match=r"loss is (nan|inf).* lower rotate.learning_rate \(now 1e\+30\)"):
        train(small(norm="squared", learning_rate=1e30, epochs=5), graph(), seed=0)


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"run.pt: damaged checkpoint .* delete it"):
        train(small(), graph(), seed=0, checkpoint=tmp_path / "run.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_names_the_remedy() -> None:
    with pytest.raises(UserError, match=r"rotate.device is cuda.*set rotate.device=auto or cpu"):
        train(small(device="cuda"), graph(), seed=0)
    assert pick_device("auto") == torch.device("cpu")


def test_the_matmul_precision_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    train(small(precision="medium", epochs=1), graph(), seed=0)
    assert torch.get_float32_matmul_precision() == before
    assert math.isfinite(float(np.mean(train(small(epochs=2), graph(), seed=0).progress.losses)))
