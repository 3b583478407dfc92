r"""What a module shall give at the subject's last token, so that the model answers with the target.

For each edit, δ is added to the module's output m at that token, and Adam minimises, over N texts x_j + p,

.. math:: \frac1N \sum_j -\log P(o^* \mid x_j + p; m + δ)
    + λ_{KL} D_{KL}(P(\cdot \mid p'; m + δ) \,\|\, P(\cdot \mid p')) + λ_w \|δ\| / \|m\|^2

with p' = "{subject} is a" (ROME, arXiv 2202.05262, eq. 4; MEMIT, arXiv 2210.07229, eq. 16). As in the
published
code δ is held to a multiple of |m|, and an edit stops where its loss is small; the penalty is that code's
too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import UserError
from pipeline.model.editing.places import state, watched
from pipeline.model.editing.prompts import Batch, Row
from pipeline.model.editing.request import Edit
from pipeline.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How the wanted output is found."""

    steps: int
    """Steps of Adam at most."""
    learning_rate: float
    """Of Adam."""
    weight_decay: float
    """λ_w, of |δ|/|m|²."""
    kl_weight: float
    """λ_KL: how firmly what the subject is stays."""
    clamp: float
    """Longest δ, in lengths of m."""
    enough: float
    """Loss in nats at which an edit is done."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"method.optimisation.steps must be at least 1, not {self.steps}")
        for name in ("learning_rate", "clamp"):
            if getattr(self, name) <= 0:
                raise ValueError(f"method.optimisation.{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "kl_weight", "enough"):
            if getattr(self, name) < 0:
                raise ValueError(f"method.optimisation.{name} must be at least 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class Found:
    """What was found for E edits."""

    delta: Float[Tensor, "E C"]
    """δ."""
    start: Float[Tensor, "E C"]
    """m, in the first text of each edit."""
    loss: list[float]
    """Loss of each edit where it stopped, in nats."""
    steps: list[int]
    """Steps that each edit took."""


def wanted(
    reader: Reader, edits: Sequence[Edit], rows: Sequence[Row], module: nn.Module, settings: Optimisation
) -> Found:
    """Return δ of each edit for the output of `module`; edits don't see each other.

    Args:
        reader: the language model.
        edits: what is asked for.
        rows: their texts, those of an edit side by side.
        module: whose output is moved: a down projection (ROME) or a layer (MEMIT).
        settings: how.

    Raises:
        UserError: a loss is not a number; the text names the fact.
    """
    batch = Batch(reader, rows)
    every = torch.arange(len(rows), device=reader.device)
    seen: list[Tensor] = []
    with torch.no_grad(), watched(module, lambda _, output: seen.append(state(output))):
        bare = _last(batch, batch.states(), every)
    first = torch.tensor([_first(rows, edit) for edit in range(len(edits))], device=reader.device)
    start = seen[-1][first, batch.at[first]].float()
    delta = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.learning_rate)
    going = torch.ones(len(edits), dtype=torch.bool, device=reader.device)
    losses, taken = [float("nan")] * len(edits), [0] * len(edits)
    for step in range(settings.steps + 1):
        chosen = every[going[batch.edit]]

        def add(_: object, output: Tensor, chosen: Tensor = chosen) -> object:
            states = state(output).clone()
            places = torch.arange(len(chosen), device=states.device), batch.at[chosen]
            states[places] = states[places] + delta[batch.edit[chosen]].to(states.dtype)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        with torch.enable_grad(), watched(module, add):
            states = batch.states(chosen)
            parts = losses_of(batch, states, chosen, len(edits), bare, settings.kl_weight)
            lengths = delta.square().sum(dim=1).clamp(min=1e-24).sqrt()
            lost = parts + settings.weight_decay * lengths / start.square().sum(dim=1)
        for edit in torch.nonzero(going)[:, 0].tolist():
            losses[edit], taken[edit] = float(lost[edit].detach()), step
            if not math.isfinite(losses[edit]):
                raise UserError(
                    f"the edit {edits[edit].name!r}: the loss at step {step} is {losses[edit]}; lower "
                    "method.optimisation.learning_rate or method.optimisation.clamp"
                )
        going &= lost.detach() >= settings.enough
        if step == settings.steps or not bool(going.any()):
            break
        _step(optimizer, delta, lost[going].sum(), going, settings.clamp * start.norm(dim=1))
    return Found(delta.detach(), start, losses, taken)


def _first(rows: Sequence[Row], edit: int) -> int:
    return next(place for place, row in enumerate(rows) if row.edit == edit)


def _step(
    optimizer: torch.optim.Optimizer,
    delta: Float[Tensor, "E C"],
    loss: Tensor,
    going: Bool[Tensor, " E"],
    longest: Float[Tensor, " E"],
) -> None:
    """Take one step with those edits that go on, and shorten what is too long."""
    former = delta.detach().clone()
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=[delta])
    optimizer.step()
    with torch.no_grad():
        shrunk = (longest / delta.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)
        delta.copy_(torch.where(going[:, None], delta * shrunk[:, None], former))


def _last(
    batch: Batch, states: Float[Tensor, "K T C"], chosen: Int[Tensor, " K"]
) -> dict[int, Float[Tensor, " V"]]:
    """Return the log-probabilities of what follows each text without a target, by its row."""
    kept = [(place, row) for place, row in enumerate(chosen.tolist()) if not batch.rows[row].target]
    return {row: _logits(batch, states[place, _end(batch, row)]).log_softmax(dim=-1) for place, row in kept}


def _end(batch: Batch, row: int) -> int:
    """Return where the last token before the target stands in the row."""
    return int(batch.at[row]) + len(batch.rows[row].after) - 1


def _logits(batch: Batch, states: Float[Tensor, "... C"]) -> Float[Tensor, "... V"]:
    lm = batch.reader.lm
    found: Tensor = lm.get_output_embeddings()(states).float()
    cap = getattr(lm.config, "final_logit_softcapping", None)
    return found if cap is None else cap * torch.tanh(found / cap)


def losses_of(
    batch: Batch,
    states: Float[Tensor, "K T C"],
    chosen: Int[Tensor, " K"],
    edits: int,
    bare: dict[int, Float[Tensor, " V"]] | None = None,
    kl_weight: float = 0.0,
) -> Float[Tensor, " E"]:
    """Return the loss of each edit without its penalty: the mean over its texts, and the divergence.

    Args:
        batch: the rows.
        states: their last states.
        chosen: which rows those are.
        edits: E.
        bare: log-probabilities that are to stay, by row.
        kl_weight: λ_KL.
    """
    device = states.device
    texts = [(place, row) for place, row in enumerate(chosen.tolist()) if batch.rows[row].target]
    counts = torch.zeros(edits)
    places: list[int] = []
    positions: list[int] = []
    tokens: list[int] = []
    owners: list[int] = []
    shares: list[float] = []
    for place, row in texts:
        target, end = batch.rows[row].target, _end(batch, row)
        counts[batch.rows[row].edit] += 1
        places += [place] * len(target)
        positions += range(end, end + len(target))
        tokens += target
        owners += [batch.rows[row].edit] * len(target)
        shares += [1 / len(target)] * len(target)
    logits = _logits(batch, states[torch.tensor(places), torch.tensor(positions)])
    nats = F.cross_entropy(logits, torch.tensor(tokens, device=device), reduction="none")
    weights = torch.tensor(shares) / counts[torch.tensor(owners)]
    lost = torch.zeros(edits, device=device).index_add(
        0, torch.tensor(owners, device=device), nats * weights.to(device)
    )
    if kl_weight and bare:
        moved = _last(batch, states, chosen)
        for row, now in moved.items():
            owner = torch.tensor([batch.rows[row].edit], device=device)
            apart = F.kl_div(bare[row], now, log_target=True, reduction="sum")
            lost = lost.index_add(0, owner, kl_weight * apart[None])
    return lost
