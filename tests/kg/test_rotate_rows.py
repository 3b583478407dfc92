"""Optimisers that change rows alone, against plain arithmetic and against torch's own."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.kg.rotate_rows import EPSILON, ROW_OPTIMIZERS

ENTITIES, WIDTH, RATE = 7, 4, 0.1
NAMES = tuple(ROW_OPTIMIZERS)


def table(seed: int = 0) -> Tensor:
    return torch.randn(ENTITIES, WIDTH, generator=torch.Generator().manual_seed(seed))


def gradients_of(rows: Tensor, seed: int) -> Tensor:
    return torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(seed))


def slow(name: str, weights: Tensor, steps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the weights after some steps, a row and a number at a time, in double precision."""
    held: list[list[float]] = weights.double().tolist()
    first = [[0.0] * WIDTH for _ in held]
    second = [[0.0] * WIDTH for _ in held]
    for number, (rows, gradients) in enumerate(steps, start=1):
        for row in set(rows.tolist()):
            total = gradients.double()[rows == row].sum(dim=0).tolist()
            mean = sum(value**2 for value in total) / WIDTH
            for column, value in enumerate(total):
                if name == "adam":
                    first[row][column] = 0.9 * first[row][column] + 0.1 * value
                    second[row][column] = 0.999 * second[row][column] + 0.001 * value**2
                    descent = first[row][column] / (1 - 0.9**number)
                    root = (second[row][column] / (1 - 0.999**number)) ** 0.5
                else:
                    second[row][column] += value**2 if name == "adagrad" else mean
                    descent, root = value, second[row][column] ** 0.5
                held[row][column] -= (
                    RATE * descent / (root + EPSILON["adam" if name == "adam" else "adagrad"])
                )
    return torch.tensor(held, dtype=torch.float32)


some_rows = st.lists(st.integers(0, ENTITIES - 1), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(some_steps=st.lists(some_rows, min_size=1, max_size=5), seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_slow_arithmetic_and_leave_other_rows_as_they_were(
    name: str, some_steps: list[list[int]], seed: int
) -> None:
    weights = table(seed)
    start, optimizer = weights.clone(), ROW_OPTIMIZERS[name](weights, RATE)
    steps = [
        (rows, gradients_of(rows, seed + number)) for number, rows in enumerate(map(torch.tensor, some_steps))
    ]
    for rows, gradients in steps:
        optimizer.step(rows, gradients)
    assert torch.allclose(weights, slow(name, start, steps), atol=2e-5)
    touched = {row for rows in some_steps for row in rows}
    for row in set(range(ENTITIES)) - touched:
        assert torch.equal(weights[row], start[row])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_occurs_many_times_counts_once_with_its_sum(name: str) -> None:
    parts, whole = table(), table()
    rows = torch.tensor([3, 1, 3, 3, 1])
    gradients = gradients_of(rows, 1)
    ROW_OPTIMIZERS[name](parts, RATE).step(rows, gradients)
    sums = torch.stack([gradients[rows == 1].sum(dim=0), gradients[rows == 3].sum(dim=0)])
    ROW_OPTIMIZERS[name](whole, RATE).step(torch.tensor([1, 3]), sums)
    assert torch.allclose(parts, whole, atol=1e-6)


def dense_step(optimizer: torch.optim.Optimizer, weights: Tensor, rows: Tensor, gradients: Tensor) -> None:
    weights.grad = torch.zeros_like(weights).index_add_(0, rows, gradients)
    optimizer.step()


def sparse_step(optimizer: torch.optim.Optimizer, weights: Tensor, rows: Tensor, gradients: Tensor) -> None:
    weights.grad = torch.sparse_coo_tensor(rows[None], gradients, weights.shape, check_invariants=True)
    optimizer.step()


@pytest.mark.parametrize(
    ("name", "kind", "step", "all_rows"),
    [
        ("adagrad", torch.optim.Adagrad, dense_step, False),
        ("adam", torch.optim.SparseAdam, sparse_step, False),
        ("adam", torch.optim.Adam, dense_step, True),
    ],
)
def test_steps_are_those_of_torch(
    name: str, kind: type[torch.optim.Optimizer], step: Callable[..., None], all_rows: bool
) -> None:
    ours, theirs = table(), torch.nn.Parameter(table())
    row_optimizer, optimizer = ROW_OPTIMIZERS[name](ours, RATE), kind([theirs], lr=RATE)  # type: ignore[call-arg]
    random = torch.Generator().manual_seed(2)
    for number in range(8):
        rows = torch.randint(ENTITIES, (9,), generator=random)
        if all_rows:
            rows = torch.cat([rows, torch.arange(ENTITIES)])
        gradients = gradients_of(rows, number)
        row_optimizer.step(rows, gradients)
        step(optimizer, theirs, rows, gradients)
    assert torch.allclose(ours, theirs.detach(), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_goes_on_in_another_optimizer_to_the_same_bytes(name: str) -> None:
    weights = table()
    first = ROW_OPTIMIZERS[name](weights, RATE)
    rows = torch.tensor([0, 2, 2, 5])
    for number in range(3):
        first.step(rows, gradients_of(rows, number))
    copy = weights.clone()
    second, fresh = ROW_OPTIMIZERS[name](copy, RATE), ROW_OPTIMIZERS[name](weights.clone(), RATE)
    second.load_state_dict({key: held.clone() for key, held in first.state_dict().items()})
    for optimizer in (first, second, fresh):
        optimizer.step(rows, gradients_of(rows, 9))
    assert torch.equal(weights, copy)
    assert not torch.equal(weights, fresh.table)


def test_the_rowwise_state_is_a_number_an_entity() -> None:
    state = ROW_OPTIMIZERS["rowwise_adagrad"](table(), RATE).state_dict()
    assert {key: held.shape for key, held in state.items()} == {"squares": (ENTITIES,)}


@pytest.mark.parametrize(("own", "other"), [("adagrad", "rowwise_adagrad"), ("adam", "adagrad")])
def test_the_state_of_another_kind_or_table_is_refused(own: str, other: str) -> None:
    optimizer = ROW_OPTIMIZERS[own](table(), RATE)
    before = {key: held.clone() for key, held in optimizer.state_dict().items()}
    larger = ROW_OPTIMIZERS[own](torch.zeros(ENTITIES + 1, WIDTH), RATE)
    for state in (ROW_OPTIMIZERS[other](table(), RATE).state_dict(), larger.state_dict()):
        with pytest.raises(ValueError, match=r"state must hold .*squares.* of the table's shape"):
            optimizer.load_state_dict(state)
    assert all(torch.equal(held, before[key]) for key, held in optimizer.state_dict().items())
