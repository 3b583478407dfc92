"""Steps on the rows of a batch: they are the dense ones, touch nothing else, and make nothing large."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.kg.rotate import SIDES, Rotate, build
from pipeline.kg.rotate_loss import drawn
from pipeline.kg.rotate_rows import ROW_OPTIMIZERS
from pipeline.kg.rotate_steps import DenseSteps, RowSteps, steps_of
from tests.rotations import laptop

ENTITIES, RELATIONS = 40, 5


def small(**changes: Any) -> Rotate:
    """Return a setting whose batches of 20 facts make groups of 8, 8 and 4 where negatives are shared."""
    values: dict[str, Any] = {"dimension": 6, "norm": "squared", "trainer": "shared", "margin": 3.0}
    values |= {"negatives": 7, "sharing": 8, "inverse_relations": False, "initial_scale": 0.4}
    values |= {"updates": "rows", "optimizer": "adagrad", "learning_rate": 0.1, "device": "cpu"}
    return laptop(**(values | changes))


def batches(count: int = 6, size: int = 20, seed: int = 0) -> list[Tensor]:
    """Return batches in which entities occur many times: the ends of all facts are 6 of the 40."""
    random = np.random.default_rng(seed)
    return [
        torch.from_numpy(random.integers(0, [6, RELATIONS, 6], (size, 3)).astype(np.int64))
        for _ in range(count)
    ]


def run(rotate: Rotate, parts: list[Tensor], seed: int = 0) -> tuple[RowSteps | DenseSteps, list[Tensor]]:
    model = build(rotate, ENTITIES, RELATIONS, seed=seed)
    steps = steps_of(rotate, model)
    generator = torch.Generator().manual_seed(4)
    losses = [steps.step(batch, generator) for batch in parts]
    assert isinstance(steps, RowSteps | DenseSteps)
    return steps, losses


def weights(steps: RowSteps | DenseSteps) -> tuple[Tensor, Tensor]:
    entities, relations = (parameter.detach() for parameter in steps.model.parameters())
    return entities, relations


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("norm", ["l1", "l2", "squared"])
@pytest.mark.parametrize("trainer", ["self_adversarial", "shared"])
def test_row_steps_with_adagrad_are_dense_steps(trainer: str, norm: str, inverse: bool) -> None:
    rotate = small(trainer=trainer, norm=norm, inverse_relations=inverse, regularisation=0.05)
    start = weights(run(rotate, [])[0])
    rows, row_losses = run(rotate, batches())
    dense, dense_losses = run(small(**(vars(rotate) | {"updates": "dense"})), batches())
    assert isinstance(rows, RowSteps)
    assert isinstance(dense, DenseSteps)
    assert torch.allclose(torch.stack(row_losses), torch.stack(dense_losses), rtol=1e-4)
    for by_row, whole, before in zip(weights(rows), weights(dense), start, strict=True):
        assert torch.allclose(by_row, whole, atol=1e-4)
        assert (by_row - before).abs().max() > 0.1


def test_row_steps_with_adam_are_dense_steps_where_each_touches_all_entities() -> None:
    every = torch.arange(ENTITIES)
    facts = torch.stack([every, every % RELATIONS, every.roll(3)], dim=1)
    rows, dense = (
        run(small(optimizer="adam", learning_rate=0.01, updates=updates), [facts] * 5)[0]
        for updates in ("rows", "dense")
    )
    for by_row, whole in zip(weights(rows), weights(dense), strict=True):
        assert torch.allclose(by_row, whole, atol=1e-4)


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
@pytest.mark.parametrize("trainer", ["self_adversarial", "shared"])
def test_rows_outside_the_batch_keep_their_bytes_and_all_of_its_own_change(
    trainer: str, optimizer: str
) -> None:
    rotate = small(trainer=trainer, optimizer=optimizer, negatives=2)
    [batch] = batches(1, size=5)
    [before, relations], [after, turned] = (weights(run(rotate, part)[0]) for part in ([], [batch]))
    generator = torch.Generator().manual_seed(4)
    negatives = [drawn(rotate, ENTITIES, len(batch), generator) for _ in SIDES]
    touched = torch.zeros(ENTITIES, dtype=torch.bool)
    touched[torch.cat([batch[:, [0, 2]].flatten(), *(ids.flatten() for ids in negatives)])] = True
    assert 0 < touched.sum() < ENTITIES
    assert torch.equal(after[~touched], before[~touched])
    assert (after != before)[touched].any(dim=1).all()
    assert not torch.equal(turned, relations)


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_relations_stay_rotations_and_the_loss_falls(optimizer: str) -> None:
    steps, losses = run(small(optimizer=optimizer), batches(1) * 30)
    turns = torch.view_as_complex(weights(steps)[1].unflatten(1, (-1, 2)))
    assert torch.allclose(turns.abs(), torch.ones(1), atol=1e-5)
    assert torch.stack(losses[-5:]).mean() < torch.stack(losses[:5]).mean()


@pytest.mark.parametrize("updates", ["rows", "dense"])
@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_the_state_goes_on_in_another_model_to_the_same_bytes(updates: str, optimizer: str) -> None:
    rotate = small(updates=updates, optimizer=optimizer)
    steps, _ = run(rotate, batches())
    model = build(rotate, ENTITIES, RELATIONS, seed=1)
    others = steps_of(rotate, model)
    model.load_state_dict(steps.model.state_dict())
    others.load_state_dict(deepcopy(steps.state_dict()))
    for batch in batches(3, seed=1):
        first, second = (part.step(batch, torch.Generator().manual_seed(8)) for part in (steps, others))
        assert torch.equal(first, second)
    for left, right in zip(steps.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("updates", ["rows", "dense"])
def test_a_rate_of_zero_changes_nothing(updates: str) -> None:
    steps, _ = run(small(updates=updates), batches(1))
    entities, relations = (tensor.clone() for tensor in weights(steps))
    steps.set_rate(0.0)
    steps.step(batches(1)[0], torch.Generator().manual_seed(0))
    assert torch.equal(weights(steps)[0], entities)
    assert torch.allclose(weights(steps)[1], relations, atol=1e-6)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation makes, forward or backward."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
@pytest.mark.parametrize("trainer", ["self_adversarial", "shared"])
def test_a_row_step_makes_nothing_of_the_size_of_the_entity_table(trainer: str, optimizer: str) -> None:
    entities, largest = 20_000, {}
    for updates in ("rows", "dense"):
        dense = optimizer if optimizer in ("adam", "adagrad") else "adagrad"
        kind = optimizer if updates == "rows" else dense
        rotate = small(trainer=trainer, optimizer=kind, updates=updates)
        model = build(rotate, entities, RELATIONS, seed=0)
        steps = steps_of(rotate, model)
        state = steps.entities.state_dict().values() if isinstance(steps, RowSteps) else []
        [weight] = model.entity_representations.parameters()
        place = [steps.entities._place] if isinstance(steps, RowSteps) else []
        with Largest([weight, *state, *place]) as made:
            steps.step(batches(1)[0], torch.Generator().manual_seed(0))
        largest[updates] = made.bytes
        assert (weight.grad is None) == (updates == "rows")
    table = entities * 2 * 6 * 4
    assert largest["rows"] < table / 20
    assert largest["dense"] >= table


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_a_row_step_never_waits_for_the_gpu(optimizer: str) -> None:
    device = torch.device("cuda")
    rotate = small(optimizer=optimizer, device="cuda")
    model = build(rotate, ENTITIES, RELATIONS, seed=0, device=device)
    steps, generator = steps_of(rotate, model), torch.Generator(device).manual_seed(0)
    parts = [batch.to(device) for batch in batches()]
    steps.step(parts[0], generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [steps.step(batch, generator) for batch in parts]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(torch.stack(losses)).all()
