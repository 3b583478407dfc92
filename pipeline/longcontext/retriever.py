r"""The learned retriever: two towers that meet in a dot product, of blocks and of what asks for them.

States enter whitened, x̂ = W (norm(x − μ)), with μ and W of calibration texts, cut to the P directions of
largest variance: in raw states a few directions drown all others, so that towers which start on them learn
nothing from a hundred questions. Each tower is a pooling by learned weights and a rotation,

    t = normalise(R Σ_i softmax_i(w · x̂_i) x̂_i),

of each of `parts` stretches of a block (a needle of ten words fills only one of them), or of all tokens that
ask. The score of a block is that of its best part,

    s = e^τ max_j t_query · t_block,j − θ,

and the stop action's score is 0: a block above it is worth its tokens.
"""

from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import UserError

SMALLEST = 0.02
"""Of the mean variance: what is added to each before it is divided by, so that noise isn't blown up."""


class Tower(nn.Module):
    """Pools whitened states by learned weights and turns the sum; see the module."""

    def __init__(self, kept: int, size: int, turn: Float[Tensor, "D P"]) -> None:
        super().__init__()
        self.weight = nn.Linear(kept, 1)
        nn.init.zeros_(self.weight.weight)
        self.turn = nn.Linear(kept, size, bias=False)
        self.turn.weight = nn.Parameter(turn.clone())

    def forward(self, whitened: Float[Tensor, "*n T P"]) -> Float[Tensor, "*n D"]:
        """Return the unit vectors of stretches of T tokens."""
        weights = self.weight(whitened).softmax(dim=-2)
        return F.normalize(self.turn((weights * whitened).sum(dim=-2)), dim=-1)


class Retriever(nn.Module):
    """See the module.

    Args:
        width: C, numbers of a state.
        kept: P, directions that are kept of it, at least `size`.
        parts: stretches of a block.
        size: D, numbers of a stretch; a block's summary has S = parts · D.

    Raises:
        ValueError: `kept` is not between `size` and `width`.
    """

    centre: Tensor
    whitening: Tensor

    def __init__(self, width: int, kept: int, parts: int, size: int) -> None:
        super().__init__()
        if not 0 < size <= kept <= width or parts < 1:
            raise ValueError(f"kept must lie between size and {width}, not {kept} with size {size}")
        self.parts = parts
        # Both towers begin with one turn: a word in the question then finds the same word in a block.
        turn = torch.linalg.qr(torch.randn(kept, kept))[0][:size]
        self.blocks, self.asks = Tower(kept, size, turn), Tower(kept, size, turn)
        self.sharpness = nn.Parameter(torch.tensor(2.5))
        """τ."""
        self.threshold = nn.Parameter(torch.tensor(6.0))
        """θ, in nats."""
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("whitening", torch.eye(width)[:, :kept].contiguous())

    @torch.no_grad()
    def calibrate(self, states: Float[Tensor, "n C"]) -> None:
        """Set μ and W from states of texts."""
        states = states.float()
        self.centre.copy_(states.mean(dim=0))
        rows = self._levelled(states)
        variances, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
        kept = self.whitening.shape[1]
        scale = (variances[-kept:] + SMALLEST * variances.mean()).rsqrt()
        self.whitening.copy_(directions[:, -kept:] * scale)

    def whitened(self, states: Shaped[Tensor, "*n C"]) -> Float[Tensor, "*n P"]:
        """Return x̂, of equal length for every token."""
        rows = self._levelled(states.float()) @ self.whitening
        levelled: Tensor = F.normalize(rows, dim=-1) * rows.shape[-1] ** 0.5
        return levelled

    def summaries(self, states: Shaped[Tensor, "B N T C"]) -> Float[Tensor, "B N S"]:
        """Return the summary of each block, from the states of its tokens."""
        return self.pooled(self.whitened(states))

    def pooled(self, whitened: Float[Tensor, "*n T P"]) -> Float[Tensor, "*n S"]:
        """Return what `summaries` returns, from states that are whitened already.

        Raises:
            ValueError: blocks can't be cut into `parts`.
        """
        if whitened.shape[-2] % self.parts:
            raise ValueError(f"a block of {whitened.shape[-2]} tokens can't be cut into {self.parts} parts")
        pooled: Tensor = self.blocks(whitened.unflatten(-2, (self.parts, -1)))  # type: ignore[no-untyped-call]
        return pooled.flatten(-2)

    def query(self, states: Shaped[Tensor, "B T C"]) -> Float[Tensor, "B D"]:
        """Return what summaries are compared with, from the states of the tokens that ask."""
        asked: Tensor = self.asks(self.whitened(states))
        return asked

    def scores(self, query: Float[Tensor, "B D"], summaries: Float[Tensor, "B N S"]) -> Float[Tensor, "B N"]:
        """Return logits: above 0 a block is worth its tokens."""
        alike = torch.einsum("bd,bnjd->bnj", query, summaries.unflatten(-1, (self.parts, -1)))  # type: ignore[no-untyped-call]
        return self.logits(alike)

    def logits(self, alike: Float[Tensor, "*n J"]) -> Float[Tensor, "*n"]:
        """Return the scores of blocks from the products of their parts."""
        return alike.amax(dim=-1) * self.sharpness.exp() - self.threshold

    def _levelled(self, states: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
        rows = states - self.centre
        levelled: Tensor = F.normalize(rows, dim=-1) * rows.shape[-1] ** 0.5
        return levelled

    def save(self, file: Path) -> None:
        """Write all of it to one safetensors file."""
        parts = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(parts | {"parts": torch.tensor(self.parts)}, file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged or another one.
        """
        try:
            state = load_file(file)
            parts = int(state.pop("parts"))
            size, kept = state["blocks.turn.weight"].shape
            made = cls(len(state["centre"]), kept, parts, size)
            made.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{file}: holds no retriever ({type(error).__name__}: {error}); the stage longcontext_train "
                "makes it"
            ) from error
        return made
