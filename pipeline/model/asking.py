r"""Whether a text asks for a fact at all.

The null fact is taught by questions that no fact answers. A text that asks nothing is another thing: its
names may be in the memory, and nothing should be read. How a text is worded tells: with the language model's
token embeddings h⁰ and its states h¹ after the first layer, each part brought to unit length,

.. math:: x = [\overline{h}^ℓ; h^ℓ_T; h^ℓ_1]_{ℓ = 0, 1}, \qquad b = w^\top x + c

tells how much it looks like one that asks nothing. Above a limit, set by validation questions, it is refused.
"""

import random
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.memory.store import KnowledgeMemory
from pipeline.model.number import Number
from pipeline.model.reader import Reader

OPENINGS = ("The", "In", "A", "It", "On", "He", "She", "They", "We", "I", "This", "After", "But", "For", "As")
"""Words that texts begin with."""
SHORTEST, LONGEST = 4, 24
"""Tokens of the texts that are written."""
PENALTY = 1e-4
"""Of |w|², so that texts and questions that a line parts don't send it to infinity."""


class Asking(nn.Module):
    """Whether a text asks for anything, by a line through how it is worded.

    Args:
        hidden: C of the language model.
    """

    weight: Tensor
    bias: Tensor
    limit: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(2 * 3 * hidden))
        self.register_buffer("bias", torch.tensor(0.0))
        self.register_buffer("limit", torch.tensor(torch.inf))
        self._limit = Number()

    @property
    def fitted(self) -> bool:
        """Whether it has been, and may refuse."""
        return self._limit(self.limit) < torch.inf

    def forward(self, worded: Float[Tensor, "B 6C"]) -> Float[Tensor, " B"]:
        """Return b of each text, in nats."""
        logit: Float[Tensor, " B"] = worded @ self.weight + self.bias
        return logit

    def asks_nothing(self, reader: Reader, texts: Sequence[str]) -> Bool[Tensor, " B"]:
        """Return which texts are above the limit."""
        if not self.fitted:
            return torch.zeros(len(texts), dtype=torch.bool, device=self.limit.device)
        above: Bool[Tensor, " B"] = self(worded(reader, texts)) > self.limit
        return above

    def fit(self, asks: Float[Tensor, "Q 6C"], tells: Float[Tensor, "T 6C"]) -> None:
        """Fit it by logistic regression, questions and texts weighing the same.

        Args:
            asks: how questions are worded.
            tells: how texts are worded that ask nothing.
        """
        inputs = torch.cat([asks, tells])
        target = torch.cat([asks.new_zeros(len(asks)), asks.new_ones(len(tells))])
        shares = torch.where(target > 0, 0.5 / len(tells), 0.5 / len(asks))
        weight = torch.zeros_like(self.weight, requires_grad=True)
        bias = torch.zeros_like(self.bias, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            lost = F.binary_cross_entropy_with_logits(inputs @ weight + bias, target, shares, reduction="sum")
            total = lost + PENALTY * weight.square().sum()
            torch.autograd.backward(total)
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        self.weight.copy_(weight.detach())
        self.bias.copy_(bias.detach())


@torch.no_grad()
def worded(reader: Reader, texts: Sequence[str]) -> Float[Tensor, "B 6C"]:
    """Return x of each text: the mean, the last and the first of its tokens, before and after layer 1."""
    return torch.cat([told(states, mask) for states, mask in reader.first_states(texts)], dim=-1)


def told(states: Float[Tensor, "B T C"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B 3C"]:
    """Return the mean, the last and the first of each row's states, at unit length.

    Args:
        states: of tokens.
        mask: which are no padding, on either side.
    """
    rows = torch.arange(len(states), device=states.device)
    mean = (states * mask[..., None]).sum(dim=1)  # its length goes
    first, behind = mask.int().argmax(dim=1), mask.flip(1).int().argmax(dim=1)
    parts = mean, states[rows, -1 - behind], states[rows, first]
    return torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)


def written(reader: Reader, memory: KnowledgeMemory, count: int, draw: random.Random) -> list[str]:
    """Return texts that the language model writes by itself, half of them from the name of an entity on.

    What has a question mark in it is left out, so there may be fewer.

    Args:
        reader: the language model; it draws by torch's own generator.
        memory: gives the names.
        count: texts to write.
        draw: of openings and lengths.
    """
    names = memory.entities.texts
    known = count // 2 if names else 0
    starts = [draw.choice(names) for _ in range(known)]
    starts += [draw.choice(OPENINGS) for _ in range(count - known)]
    texts = reader.cut(reader.write(starts, LONGEST), LONGEST)
    cut = [reader.cut([text], draw.randint(SHORTEST, LONGEST))[0] for text in texts]
    return [text for text in cut if "?" not in text and text.strip()]


def keys(memory: KnowledgeMemory, facts: Sequence[int]) -> list[str]:
    """Return the slots of `facts` as a person might type them for a question: "capital of France"."""
    told = map(memory.fact, facts)
    return [f"{fact.relation_noun} of {fact.head_label}" for fact in told]
