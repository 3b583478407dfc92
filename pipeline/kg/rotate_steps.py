"""One step of RotatE's training: dense, by the gradient of all entities, or of the rows of the batch alone.

Both take PyKEEN's model and change its weights in place; both draw the same negatives from the same random
state (unless there is dropout, which is drawn in between or after), and with Adagrad they agree.
"""

from typing import Any, Protocol

import torch
from jaxtyping import Complex, Float, Int
from pykeen.losses import NSSALoss
from pykeen.models import ERModel
from torch import Tensor

from pipeline.kg.rotate import SIDES, Rotate
from pipeline.kg.rotate_loss import ANSWER, GIVEN, batch_loss, drawn, full_loss, sampled_loss
from pipeline.kg.rotate_rows import ROW_OPTIMIZERS

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": torch.optim.Adagrad,
}
"""Of dense gradients: of everything, or of the relations where entities are changed by row."""


class Steps(Protocol):
    """Changes a model a batch at a time."""

    def step(self, batch: Int[Tensor, "B 3"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Take a step and return the loss before it, without waiting for the device."""

    def set_rate(self, learning_rate: float) -> None:
        """Take steps of this size from now on."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimisers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""


def steps_of(rotate: Rotate, model: ERModel) -> Steps:
    """Return the steps that `rotate.updates` names."""
    return DenseSteps(rotate, model) if rotate.updates == "dense" else RowSteps(rotate, model)


def relation_rows(rotate: Rotate, relations: Int[Tensor, " B"], rows: int, side: str) -> Int[Tensor, " B"]:
    """Return which of the `rows` rotations answer a side; with inverse relations half are for heads."""
    own = rotate.inverse_relations and side == "head"
    return relations + (rows // 2 if own else 0)


class WholeTable:
    """The vectors of a batch, each gathered out of the whole table, so that gradients reach all of it."""

    def __init__(self, rotate: Rotate, model: ERModel, batch: Int[Tensor, "B 3"]) -> None:
        self.rotate = rotate
        self.batch = batch
        self.entities = model.entity_representations[0](None)
        self.relations = model.relation_representations[0](None)

    def given(self, side: str) -> Complex[Tensor, "B d"]:
        """Return the entities that the questions of a side give."""
        given: Tensor = self.entities[self.batch[:, GIVEN[side]]]
        return given

    def turns(self, side: str) -> Complex[Tensor, "B d"]:
        """Return the rotations of the questions of a side."""
        rows = relation_rows(self.rotate, self.batch[:, 1], len(self.relations), side)
        turns: Tensor = self.relations[rows]
        return turns


class DenseSteps:
    """Steps of torch's optimisers on all weights."""

    def __init__(self, rotate: Rotate, model: ERModel) -> None:
        self.rotate = rotate
        self.model = model
        self.optimizer = OPTIMIZERS[rotate.optimizer](model.parameters(), lr=rotate.learning_rate)

    def loss(self, batch: Int[Tensor, "B 3"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        rotate, vectors = self.rotate, WholeTable(self.rotate, self.model, batch)

        def side_loss(side: str, queries: Complex[Tensor, "B d"]) -> Float[Tensor, ""]:
            answers = batch[:, ANSWER[side]]
            if rotate.trainer == "one_vs_all":
                return full_loss(rotate, queries, vectors.entities, answers)
            negatives = drawn(rotate, len(vectors.entities), len(batch), generator)
            right, wrong = vectors.entities[answers[:, None]], vectors.entities[negatives]
            return sampled_loss(rotate, self.model.loss, queries, right, wrong)

        return batch_loss(rotate, vectors, side_loss, generator)

    def step(self, batch: Int[Tensor, "B 3"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Take a step and return the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.model.post_parameter_update()
        return loss.detach()

    def set_rate(self, learning_rate: float) -> None:
        """Take steps of this size from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimiser."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.optimizer.load_state_dict(state)


class CopiedRows:
    """The vectors of a batch as a copy of their rows, one after the other: gradients reach the copy alone.

    Rows are those of heads, tails, negatives of the tail side and of the head side; one that a batch names
    many times is there as often.
    """

    def __init__(
        self,
        rotate: Rotate,
        model: ERModel,
        table: Float[Tensor, "E w"],
        batch: Int[Tensor, "B 3"],
        generator: torch.Generator,
    ) -> None:
        self.rotate, self.model, self.batch = rotate, model, batch
        count = len(batch)
        negatives = [drawn(rotate, len(table), count, generator) for _ in SIDES]
        self.rows = torch.cat([batch[:, 0], batch[:, 2], *(ids.flatten() for ids in negatives)])
        self.copy = table.index_select(0, self.rows).requires_grad_()
        wrong = negatives[0].numel()
        heads, tails, *others = torch.split_with_sizes(
            torch.view_as_complex(self.copy.view(len(self.rows), -1, 2)), [count, count, wrong, wrong]
        )
        self.ends = {0: heads, 2: tails}
        self.negatives = {
            side: vectors.view(*negatives[0].shape, -1) for side, vectors in zip(SIDES, others, strict=True)
        }

    def given(self, side: str) -> Complex[Tensor, "B d"]:
        """Return the entities that the questions of a side give."""
        return self.ends[GIVEN[side]]

    def turns(self, side: str) -> Complex[Tensor, "B d"]:
        """Return the rotations of the questions of a side."""
        relations = self.model.relation_representations[0]
        turns: Tensor = relations(relation_rows(self.rotate, self.batch[:, 1], relations.max_id, side))
        return turns

    def side_loss(self, side: str, queries: Complex[Tensor, "B d"]) -> Float[Tensor, ""]:
        """Return the loss of a side."""
        loss: NSSALoss = self.model.loss
        right = self.ends[ANSWER[side]][:, None]
        return sampled_loss(self.rotate, loss, queries, right, self.negatives[side])


class RowSteps:
    """Steps on the rows of the batch's entities and negatives; relations, which are few, take dense ones."""

    def __init__(self, rotate: Rotate, model: ERModel) -> None:
        self.rotate = rotate
        self.model = model
        [weight] = model.entity_representations.parameters()
        self.table: Tensor = weight.detach()
        self.entities = ROW_OPTIMIZERS[rotate.optimizer](self.table, rotate.learning_rate)
        self.relations = OPTIMIZERS[rotate.optimizer](
            model.relation_representations.parameters(), lr=rotate.learning_rate
        )

    def step(self, batch: Int[Tensor, "B 3"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Take a step and return the loss before it."""
        self.relations.zero_grad(set_to_none=True)
        vectors = CopiedRows(self.rotate, self.model, self.table, batch, generator)
        loss = batch_loss(self.rotate, vectors, vectors.side_loss, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        assert vectors.copy.grad is not None
        self.entities.step(vectors.rows, vectors.copy.grad)
        self.relations.step()
        self.model.relation_representations[0].post_parameter_update()
        return loss.detach()

    def set_rate(self, learning_rate: float) -> None:
        """Take steps of this size from now on."""
        self.entities.learning_rate = learning_rate
        for group in self.relations.param_groups:
            group["lr"] = learning_rate

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimisers."""
        return {"entities": self.entities.state_dict(), "relations": self.relations.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.entities.load_state_dict(state["entities"])
        self.relations.load_state_dict(state["relations"])
