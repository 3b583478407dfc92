"""What of the found passages a reader is given: a few as they are, long units, or what attention keeps.

`units` follows LongRAG (arXiv 2406.15319): neighbouring passages make units of some thousand tokens, a unit
scores as its best passage does, and a few units are read whole. `pruned` follows AttentionRAG (arXiv
2503.10720): the reader first reads many passages with the question and the beginning of an answer behind
them, and keeps the sentences that its last token attends to most. Every way counts the tokens it reads.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.longcontext.context import FullKV, Seen
from pipeline.longcontext.corpora import sentences
from pipeline.longcontext.passagesearch import PassageSearch
from pipeline.longcontext.ragqa import HEAD, prompt, shown
from pipeline.longcontext.running import Rotation, Runner
from pipeline.longcontext.samples import encoded


@dataclass(frozen=True)
class Prompt:
    """What a question's answer is generated from."""

    ids: list[int]
    before: int
    """Tokens that were read to make it."""


class Way(ABC):
    """A way from a question to a prompt; how much it finds is its argument."""

    def __init__(self, search: PassageSearch, runner: Runner, tokenizer: Any) -> None:
        self.search, self.runner, self.tokenizer = search, runner, tokenizer

    @abstractmethod
    def prompt(self, question: str) -> Prompt:
        """Return what is read of a question."""


class Passages(Way):
    """The best passages, the best one last, next to the question.

    Args:
        count: of them.
    """

    def __init__(self, *given: Any, count: int) -> None:
        super().__init__(*given)
        self.count = count

    def texts(self, question: str) -> list[str]:
        """Return the passages as they stand in a prompt."""
        places = reversed(self.search.best(question, self.count))
        return [shown(self.search.passages[place]) for place in places]

    def prompt(self, question: str) -> Prompt:
        """See `Way.prompt`."""
        return Prompt(prompt(self.tokenizer, self.texts(question), question), 0)


class Units(Way):
    """The best long units.

    Args:
        tokens: of a unit, at least, unless one passage more would exceed them.
        count: of units.
    """

    def __init__(self, *given: Any, tokens: int, count: int) -> None:
        super().__init__(*given)
        self.count = count
        self.first = [0]
        """First passage of each unit, and the one behind the last."""
        held = 0
        texts = [shown(passage) for passage in self.search.passages]
        sizes = map(len, self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        for place, size in enumerate(sizes):
            if held and held + size > tokens:
                self.first.append(place)
                held = 0
            held += size
        self.first.append(len(self.search.passages))

    def prompt(self, question: str) -> Prompt:
        """See `Way.prompt`."""
        scores = torch.from_numpy(self.search.scores(question))
        of = torch.repeat_interleave(torch.tensor(self.first).diff())
        best = torch.full((len(self.first) - 1,), -torch.inf).scatter_reduce(0, of, scores, "amax")
        units = best.topk(min(self.count, len(best))).indices.tolist()[::-1]
        texts = [
            shown(self.search.passages[place])
            for unit in units
            for place in range(self.first[unit], self.first[unit + 1])
        ]
        return Prompt(prompt(self.tokenizer, texts, question), 0)


class Pruned(Passages):
    """Of the best passages the sentences that hold one of the tokens most attended to.

    Args:
        count: of passages.
        tokens: that count as most attended to.
    """

    def __init__(self, *given: Any, count: int, tokens: int) -> None:
        super().__init__(*given, count=count)
        self.tokens = tokens

    @torch.no_grad()
    def prompt(self, question: str) -> Prompt:
        """See `Way.prompt`."""
        texts = self.texts(question)
        first = prompt(self.tokenizer, texts, question)
        parts = [(place, part) for place, text in enumerate(texts) for part in sentences(text)]
        sizes = [len(encoded(self.tokenizer, part)) for _, part in parts]
        head = len(encoded(self.tokenizer, HEAD))
        context = Attending(self.runner)
        self.runner.prompt(torch.tensor([first], device=self.runner.lm.device), context, asked=1)
        of = torch.repeat_interleave(torch.tensor(sizes))
        weights = context.weights()[0, head : head + len(of)].cpu()
        kept = set(of[weights.topk(min(self.tokens, len(weights))).indices].tolist())
        held = ["" for _ in texts]
        for number, (place, part) in enumerate(parts):
            if number in kept:
                held[place] += part if part.startswith("\n") or held[place] else f"\n\n{part.strip()}"
        return Prompt(prompt(self.tokenizer, [text for text in held if text], question), len(first))


class Attending(FullKV):
    """Sees everything, and notes what a prompt's last token attends to: means over heads, in all layers."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.layers)
        self._rotation = Rotation(runner.rotary)
        self._summed: Float[Tensor, "B S"] | None = None

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        seen = super().read(layer, queries, keys, values)
        if self.asking:
            known = seen.keys if seen.positions is None else self._rotation.turned(seen.keys, seen.positions)
            last = self._rotation.turned(queries[:, :, -1:], seen.queries_at[-1:])
            known = known.repeat_interleave(last.shape[1] // known.shape[1], dim=1)
            weights = torch.softmax((last @ known.mT).float() / last.shape[-1] ** 0.5, dim=-1)
            mean = weights[:, :, 0].mean(dim=1)
            self._summed = mean if self._summed is None else self._summed + mean
        return seen

    def weights(self) -> Float[Tensor, "B S"]:
        """Return the attention, summed over layers."""
        assert self._summed is not None
        return self._summed


WAYS: dict[str, type[Way]] = {"passages": Passages, "units": Units, "pruned": Pruned}
