"""Chunks of the past that a landmark each finds: GCA (Hu et al., arXiv 2410.01651), without its training."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.longcontext.baselines.buffers import Growing, blocks
from pipeline.longcontext.baselines.evicting import Lengths
from pipeline.longcontext.baselines.settings import Landmarks
from pipeline.longcontext.baselines.windows import Fetched, Tokens, Windowed
from pipeline.longcontext.context import Held


class ChunkLandmarks(Windowed):
    """Sinks, a window, and the k chunks of 64 tokens whose landmarks the queries point at most.

    The published method is **trained**: its landmarks are learned tokens, its upper layers share one
    retrieval and attend to each chunk on its own, weighted by the retrieval's softmax. Here nothing is
    learned: a landmark is the mean of a chunk's keys before rotation, each layer and key-value head fetches
    its own chunks, and these stand before the window, in the text's order, in one softmax with it. It shows
    what chunk retrieval gives a model that was not trained for it, and costs what GCA costs.

    A chunk's score is Σ softmax over the chunks of q · landmark / √D, over queries and heads of the group.
    While the text is read a chunk of queries fetches by the queries before it (as GCA does: causally), the
    question by its own, each token of the answer by its own. Queries that are read at once see each other
    and at least `window` tokens before them: at most a chunk more, as chunks leave whole.

    Args:
        layers: of the model.
        sinks: first tokens that are kept, which GCA's own models don't need.
        lengths: of the text.
        landmarks: sizes.
    """

    def __init__(self, layers: int, sinks: int, lengths: Lengths, landmarks: Landmarks) -> None:
        super().__init__(layers, sinks, landmarks.window)
        self.settings = landmarks
        room = max(0, lengths.prompt + lengths.answer - sinks - landmarks.window) // landmarks.chunk
        self.marks = [Growing(room) for _ in range(layers)]
        self.chunks = [Growing(room * landmarks.chunk, pinned=landmarks.offload) for _ in range(layers)]
        self.coming: list[Tensor | None] = [None] * layers
        self.answering = False

    def visible(self, back: Tensor) -> Bool[Tensor, "T S"]:
        """See `Windowed.visible`; what is kept is seen."""
        return back >= 0

    def ready(self) -> None:
        """See `Context.ready`."""
        self.answering = True

    def leaving(self, latest: int) -> int:
        """See `Windowed.leaving`; only whole chunks leave."""
        return super().leaving(latest) // self.settings.chunk * self.settings.chunk

    def left(self, layer: int, tokens: Tokens) -> None:
        """See `Windowed.left`."""
        self.chunks[layer].append(*tokens)
        means = blocks(tokens.keys, self.settings.chunk).mean(dim=3)
        self.marks[layer].append(means)

    def seen_again(self, layer: int, queries: Float[Tensor, "B H T D"]) -> None:
        """See `Windowed.seen_again`."""
        if not self.asking and self.marks[layer].length:
            self.coming[layer] = self.selected(layer, queries[:, :, -self.settings.chunk :])

    def fetched(self, layer: int, queries: Float[Tensor, "B H T D"]) -> Fetched | None:
        """See `Windowed.fetched`."""
        if not self.marks[layer].length:
            return None
        ids = self.selected(layer, queries) if self.asking else self.coming[layer]
        assert ids is not None
        parts = []
        for part in (self.chunks[layer].keys, self.chunks[layer].values):
            chunked = blocks(part, self.settings.chunk)
            at = ids.to(part.device)
            rows, groups = (torch.arange(size, device=part.device) for size in at.shape[:2])
            taken = chunked[rows[:, None, None, None], groups[:, None, None], at]  # B G R k 64 D
            parts.append(taken.flatten(2, 4).to(queries.device))
        return Fetched(Tokens(*parts), turns=ids.shape[2])

    def selected(self, layer: int, queries: Float[Tensor, "B H T D"]) -> Int[Tensor, "B G R k"]:
        """Return the chunks that queries point at most, in order: R = T sets for an answer, else one."""
        marks = self.marks[layer].keys
        rows, groups, count, size = marks.shape
        stacked = queries.reshape(rows, groups, -1, size)
        shares = (stacked @ marks.transpose(2, 3)).float().mul(size**-0.5).softmax(dim=-1)
        votes = shares.view(rows, groups, -1, queries.shape[2], count).sum(dim=2)
        if not self.answering:
            votes = votes.sum(dim=2, keepdim=True)
        return votes.topk(min(self.settings.chunks, count), dim=-1).indices.sort(dim=-1).values

    def held(self) -> Held:
        """See `Context.held`."""
        ids = sum(part.nbytes for part in self.coming if part is not None)
        near = super().held().device + sum(marks.nbytes for marks in self.marks) + ids
        far = sum(chunks.nbytes for chunks in self.chunks)
        return Held(near, host=far) if self.settings.offload else Held(near + far)
