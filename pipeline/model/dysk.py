r"""DySK-Attn (arXiv 2508.07185) as we reconstruct it: sparse attention over embedded facts, fused by a gate.

The paper publishes no code and no tables, so the following is our reading of it. A frozen bi-encoder finds
N candidate facts through their entities. A fact is f = [e_h ; r ; e_t]. At each chosen layer with state h:

.. math:: s_i = (W_Q h) \cdot (W_K f_i) / \sqrt{d},\quad T = \mathrm{top}_k(s),\quad
          k_{final} = \sum_{i \in T} \mathrm{softmax}_T(s)_i\, W_V f_i,\quad
          \lambda = \sigma(w \cdot [h ; k_{final}] + b)

and h' = h + λ·k_final (`fusion: residual`) or the paper's LN(h + λ·k_final) (`fusion: norm`).
Scores are computed in the space of f, as (W_Kᵀ W_Q h)·f, and values are averaged before W_V is applied.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Candidates, Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.facts import FactVectors
from pipeline.model.losses import auxiliary_loss
from pipeline.model.lowrank import decoder_layers
from pipeline.model.reader import Reader
from pipeline.model.sharing import weighed
from pipeline.model.system import Example, Reply, System, gold_mask, share_right, with_gold
from pipeline.shapes import CandidateFacts, CandidateScores

FUSIONS = ("residual", "norm")


@dataclass(frozen=True, kw_only=True)
class Dysk:
    """DySK-Attn, our reconstruction."""

    layers: list[int]
    """Layers after which facts are fused in."""
    width: int
    """d: dimensions of the projected query and key."""
    space: str
    """What f is made of: `rotate`, `text` or `fused` (both)."""
    fusion: str
    """`residual` or `norm`."""
    gate: float
    """λ at the start."""
    k: int
    """Facts that the attention keeps of the candidates (DySK-Attn: 5)."""
    dense: bool
    """Whether all candidates are attended to in place of the k best: the paper's ablation."""
    scale: float
    """Nats a unit of cosine of the coarse search."""
    answer_tokens: int
    """Longest answer."""
    alpha: float
    """α of L_Aux."""

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(f"method.fusion must be one of {', '.join(FUSIONS)}, not {self.fusion!r}")
        if not 0 < self.gate < 1:
            raise ValueError(f"method.gate must be between 0 and 1, not {self.gate}")
        if not self.layers or min(self.layers) < 0:
            raise ValueError(f"method.layers must name at least one layer, counted from 0, not {self.layers}")
        if self.width < 1 or self.answer_tokens < 1 or self.k < 1:
            raise ValueError("method.width, answer_tokens and k must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DyskDense(Dysk):
    """The paper's ablation as a method of its own: all N candidates are attended to, in training too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dense:
            raise ValueError("method.dense must be true: dysk_dense is dysk that attends to all candidates")


class SparseFusion(nn.Module):
    """Attention of one layer's states over candidate facts, and the gate that adds what it found.

    Args:
        hidden: C.
        fact: length of f.
        method: width, gate and kind of fusion.
    """

    def __init__(self, hidden: int, fact: int, method: Dysk) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, method.width, bias=False)
        self.key = nn.Linear(fact, method.width, bias=False)
        self.value = nn.Linear(fact, hidden, bias=False)
        self.gate = nn.Linear(2 * hidden, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, torch.logit(torch.tensor(method.gate)).item())
        self.norm = nn.LayerNorm(hidden) if method.fusion == "norm" else None
        self.scale = method.width**-0.5

    def scores(self, states: Float[Tensor, "B T C"], facts: Float[Tensor, "B N F"]) -> Float[Tensor, "B T N"]:
        """Return s before selection; the key map is folded into the query."""
        folded = self.query(states) @ self.key.weight
        scores: Tensor = torch.einsum("btf,bnf->btn", folded, facts) * self.scale
        return scores

    def forward(
        self,
        states: Float[Tensor, "B T C"],
        facts: Float[Tensor, "B N F"],
        scores: Float[Tensor, "B T N"],
        k: int,
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T 1"]]:
        """Return the fused states and λ, attending to the k facts with the best scores."""
        k = min(k, scores.shape[-1])
        best, places = scores.topk(k, dim=-1)
        share = torch.zeros_like(scores).scatter(-1, places, torch.softmax(best, dim=-1))
        found = self.value(torch.einsum("btn,bnf->btf", share, facts))
        gate = torch.sigmoid(self.gate(torch.cat([states, found], dim=-1)))
        fused = states + gate * found
        return (self.norm(fused) if self.norm else fused), gate


class DyskSystem(System):
    """DySK-Attn as an adapter.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: the frozen sentence encoder.
        memory: the facts, in the factored layout.
        vectors: what a fact is embedded as.

    Raises:
        UserError: the language model has no layer that `method` names.
    """

    def __init__(
        self,
        method: Dysk,
        reader: Reader,
        encoder: TextEncoder,
        memory: KnowledgeMemory,
        vectors: FactVectors,
    ) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        if max(method.layers) >= reader.layers:
            raise UserError(
                f"conf/method: method.layers names {max(method.layers)}, "
                f"but the model has layers 0 to {reader.layers - 1}"
            )
        self.method = method
        self.vectors = vectors
        self.fusions = nn.ModuleList(
            SparseFusion(reader.hidden, vectors.width, method) for _ in method.layers
        )
        self._facts: Tensor | None = None
        self._valid: Tensor | None = None
        self._scores: list[Tensor] = []
        self._gates: list[Tensor] = []
        self.to(reader.device)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Fuse facts into the states of the chosen layers inside this block."""
        layers = decoder_layers(self.reader.lm)
        handles = [
            layers[number].register_forward_hook(self._hook(fusion))
            for number, fusion in zip(self.method.layers, self.fusions, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, fusion: nn.Module) -> Any:
        def fuse(module: nn.Module, inputs: Any, output: Any) -> Any:
            if self._facts is None:
                return None
            states = output[0] if isinstance(output, tuple) else output
            wide = states.float()
            scores = fusion.scores(wide, self._facts).masked_fill(~self._valid[:, None], -1e4)  # type: ignore
            k = self._facts.shape[1] if self.method.dense else self.method.k
            fused, gate = fusion(wide, self._facts, scores, k)
            self._scores.append(scores)
            self._gates.append(gate)
            fused = fused.to(states.dtype)
            return (fused, *output[1:]) if isinstance(output, tuple) else fused

        return fuse

    @contextmanager
    def _candidates(self, found: Tensor) -> Iterator[None]:
        self._facts, self._valid = self.vectors(found), found >= 0
        self._scores, self._gates = [], []
        try:
            yield
        finally:
            self._facts = self._valid = None

    def _narrow(self, rows: Int[Tensor, " R"]) -> None:
        if self._facts is not None and self._valid is not None:
            self._facts, self._valid = self._facts[rows], self._valid[rows]

    @torch.no_grad()
    def _search(self, questions: Sequence[str]) -> Candidates:
        text = self.encoder.encode(questions)
        return self.memory.search(Query(text * self.method.scale, text * self.method.scale))

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return L = L_LM + α·L_Aux; L_Aux supervises the scores from the last prompt token on."""
        found = with_gold(self._search([example.text for example in batch]).facts, batch)
        gold = gold_mask(found, batch)
        targets = [self.target(example, example.gold) for example in batch]
        tokens = self.reader.tokens([example.text for example in batch], targets)
        with self._candidates(found):
            lm_loss = self.reader.loss(tokens)
        asks = F.pad(tokens.labels != -100, (0, 1))[:, 1:]  # the position before each answer token
        scores = torch.stack(self._scores).mean(dim=0)[asks]
        owner = torch.arange(len(batch), device=asks.device)[:, None].expand_as(asks)[asks]
        known = gold.any(dim=-1)
        aux = auxiliary_loss(scores, gold[owner]) if known.any() else weighed(torch.zeros_like(lm_loss), 0)
        first = asks & (asks.cumsum(dim=-1) == 1)
        right = gold.gather(1, torch.stack(self._scores).mean(dim=0)[first].argmax(dim=-1, keepdim=True))
        right = right[known]
        gates = torch.stack(self._gates)[..., 0]
        return {
            "loss": lm_loss + self.method.alpha * aux,
            "lm_loss": lm_loss.detach(),
            "aux_loss": aux.detach(),
            "retrieval_accuracy": share_right(right),
            "gate": weighed(gates.mean().detach(), gates.numel()),
        }

    @torch.no_grad()
    def ground(self, questions: Sequence[str], n: int) -> CandidateFacts:
        """Return the n candidates that the last prompt token attends to most, before selection."""
        found, scores, _ = self._attended(questions, 1)
        return found.gather(1, scores.argsort(dim=-1, descending=True, stable=True))[:, :n]

    def _attended(
        self, questions: Sequence[str], limit: int
    ) -> tuple[CandidateFacts, CandidateScores, list[str]]:
        """Return the candidates, how the last prompt token scores them, and answers of `limit` tokens."""
        found = self._search(questions).facts
        prompts = self.reader.tokens(questions)
        with self._candidates(found):
            texts = self.reader.generate(prompts, limit, narrow=self._narrow)
            scores = torch.stack(self._scores[: len(self.fusions)]).mean(dim=0)[:, -1]
        return found, scores, texts

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers and the k facts that the last prompt token attends to most."""
        found, prefill, texts = self._attended(questions, self.answer_tokens)
        k = min(self.method.k, found.shape[1])
        share, order = torch.softmax(prefill, dim=-1).topk(k, dim=-1)
        read = found.gather(1, order).tolist()
        kept = [[place for place, fact in enumerate(row) if fact >= 0] for row in read]
        return Reply(
            texts,
            [[row[p] for p in places] for row, places in zip(read, kept, strict=True)],
            [[row[p] for p in places] for row, places in zip(share.tolist(), kept, strict=True)],
            [[fact for fact in row if fact >= 0] for row in found.tolist()],
            (1.0 - share[:, 0]).tolist(),
            [False] * len(questions),
        )
