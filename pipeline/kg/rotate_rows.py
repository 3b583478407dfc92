"""Optimisers that change only the rows of a table that a step has touched, and so cost what a batch costs.

A dense step on 4.6 million entities of 256 complex dimensions writes 9.4 GB of gradients and reads and writes
weights and moments as large, for some ten thousand rows that a batch touches. Here the gradients of those
rows alone are summed by row and applied in place. How many rows differ is never asked, since a GPU would be
waited for: of the places that name the same row one takes the sum; the others take zeros, which change
nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = {"adagrad": 1e-10, "adam": 1e-8}
"""Added to roots of squares, as torch's own optimisers do by default."""
BETAS = (0.9, 0.999)
"""Of Adam's first and second moment, torch's defaults."""


class RowOptimizer(ABC):
    """Changes rows of `table`, [E, w] float32, in place.

    On the CPU the same steps give the same bytes. On a GPU the gradients of a row that occurs three times or
    more are added up in any order, so last bits differ unless torch.use_deterministic_algorithms is on.
    """

    def __init__(self, table: Float[Tensor, "E w"], learning_rate: float) -> None:
        self.table = table
        self.learning_rate = learning_rate
        self._place = torch.zeros(len(table), dtype=torch.long, device=table.device)

    @torch.no_grad()
    def step(self, rows: Int[Tensor, " n"], gradients: Float[Tensor, "n w"]) -> None:
        """Apply the gradients of `rows`, which may name a row many times; their sum counts."""
        sums, taken = self.summed(rows, gradients)
        # Added, not copied: a place that isn't taken adds zero to a row that another place changes.
        self.table.index_add_(0, rows, self.changes(rows, sums, taken), alpha=-self.learning_rate)

    def summed(
        self, rows: Int[Tensor, " n"], gradients: Float[Tensor, "n w"]
    ) -> tuple[Float[Tensor, "n w"], Bool[Tensor, "n 1"]]:
        """Return the sum of the gradients of each row at one of its places, and which places these are.

        All others hold zeros. Which one is taken is open, and changes nothing.
        """
        places = torch.arange(len(rows), device=rows.device)
        # All places of a row write to the same number; whichever stays is read again by all of them.
        chosen = self._place.scatter_(0, rows, places)[rows]
        sums = torch.zeros_like(gradients).index_add_(0, chosen, gradients)
        return sums, (chosen == places)[:, None]

    @abstractmethod
    def changes(
        self, rows: Int[Tensor, " n"], sums: Float[Tensor, "n w"], taken: Bool[Tensor, "n 1"]
    ) -> Float[Tensor, "n w"]:
        """Note the gradients in the state; return the descent of each place for a learning rate of 1.

        It must be zero where a place isn't taken, as the sums are.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, by name; it is not copied."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: it is the state of another kind of optimiser or another table.
        """
        own = self.state_dict()
        if {name: held.shape for name, held in own.items()} != {n: held.shape for n, held in state.items()}:
            raise ValueError(f"the optimiser's state must hold {', '.join(own)} of the table's shape")
        for name, held in own.items():
            held.copy_(state[name])


class RowAdagrad(RowOptimizer):
    """Adagrad (Duchi et al. 2011): equal to torch's dense one, which leaves rows without gradient alone too.

    Its state is as large as the table.
    """

    def __init__(self, table: Float[Tensor, "E w"], learning_rate: float) -> None:
        super().__init__(table, learning_rate)
        self.squares = torch.zeros_like(table)

    def changes(
        self, rows: Int[Tensor, " n"], sums: Float[Tensor, "n w"], taken: Bool[Tensor, "n 1"]
    ) -> Float[Tensor, "n w"]:
        """Return g / √Σg², element by element."""
        self.squares.index_add_(0, rows, sums.square())
        return sums / (self.squares[rows].sqrt() + EPSILON["adagrad"])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums of squares, [E, w]."""
        return {"squares": self.squares}


class RowwiseAdagrad(RowOptimizer):
    """Adagrad with one sum a row, of the mean squares of its gradients: 4 bytes an entity.

    As in PyTorch-BigGraph (Lerer et al. 2019, arXiv 1903.12287, section 3.1).
    """

    def __init__(self, table: Float[Tensor, "E w"], learning_rate: float) -> None:
        super().__init__(table, learning_rate)
        self.squares = table.new_zeros(len(table))

    def changes(
        self, rows: Int[Tensor, " n"], sums: Float[Tensor, "n w"], taken: Bool[Tensor, "n 1"]
    ) -> Float[Tensor, "n w"]:
        """Return g / √Σ mean(g²)."""
        self.squares.index_add_(0, rows, sums.square().mean(dim=1))
        return sums / (self.squares[rows].sqrt() + EPSILON["adagrad"])[:, None]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums of mean squares, [E]."""
        return {"squares": self.squares}


class RowAdam(RowOptimizer):
    """Adam (Kingma and Ba 2015) whose moments of a row decay only in steps that touch it, as SparseAdam's.

    Its state is twice as large as the table. Where each step touches all rows it is the dense one.
    """

    def __init__(self, table: Float[Tensor, "E w"], learning_rate: float) -> None:
        super().__init__(table, learning_rate)
        self.means = torch.zeros_like(table)
        self.squares = torch.zeros_like(table)
        self.steps = torch.zeros((), dtype=torch.long)

    def changes(
        self, rows: Int[Tensor, " n"], sums: Float[Tensor, "n w"], taken: Bool[Tensor, "n 1"]
    ) -> Float[Tensor, "n w"]:
        """Return m̂ / (√v̂ + ε)."""
        self.steps += 1
        for moment, beta, now in (
            (self.means, BETAS[0], sums),
            (self.squares, BETAS[1], sums.square()),
        ):
            moment.index_add_(0, rows, (now - moment[rows]) * taken, alpha=1 - beta)
        # On the CPU, so asking for its value waits for nothing.
        one, two = (1 - beta ** int(self.steps) for beta in BETAS)
        root = (self.squares[rows] / two).sqrt() + EPSILON["adam"]
        return self.means[rows] / one / root * taken

    def state_dict(self) -> dict[str, Tensor]:
        """Return both moments, [E, w], and the number of steps."""
        return {"means": self.means, "squares": self.squares, "steps": self.steps}


ROW_OPTIMIZERS: dict[str, Callable[[Tensor, float], RowOptimizer]] = {
    "adagrad": RowAdagrad,
    "rowwise_adagrad": RowwiseAdagrad,
    "adam": RowAdam,
}
"""Optimisers by the name that `rotate.optimizer` gives."""
