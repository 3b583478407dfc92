"""KBLaM and AtlasKV: facts of one vector each, read by an attention of their own in every third layer."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.config import UserError
from pipeline.memory.adjacency import Adjacency
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.memory.tree import Tree, build_tree
from pipeline.model.beside import FactsBeside, attentions, inject, query_weight, reading
from pipeline.model.knowledge import KnowledgeMaps, size_shift
from pipeline.model.losses import auxiliary_loss
from pipeline.model.reader import Reader
from pipeline.model.system import Example, Reply, System


@dataclass(frozen=True, kw_only=True)
class Vector:
    """KBLaM (arXiv 2410.10450) and AtlasKV (arXiv 2510.17934), which part by these values alone."""

    every: int
    """Layers from one that sees facts to the next one that does, beginning with the first (both: 3)."""
    normalised: bool
    """Whether keys are normalised without learned scale (both do)."""
    size_weight: float
    """C of the shift log C - log M while answering; 0 for no shift (KBLaM: 100, AtlasKV: 0)."""
    roots: int
    """k_R of HiKVP while answering; 0 reads all facts (AtlasKV: 128, KBLaM: 0)."""
    inner: int
    """k_I of HiKVP (AtlasKV: 64)."""
    leaves: int
    """k_L of HiKVP (AtlasKV: 16)."""
    block: int
    """Facts that are read at a time where all are."""
    grounding: int
    """Which of the layers that see facts tells what is read, and takes L_Aux; 0 is the lowest."""
    negatives: int
    """Random facts beside the right ones grow by so many (AtlasKV: 4) …"""
    negatives_every: int
    """… every so many steps (AtlasKV: 100) …"""
    negatives_most: int
    """… up to so many (AtlasKV: 120)."""
    answer_tokens: int
    """Longest answer."""
    alpha: float
    """α of L_Aux; 0 trains as the papers do."""

    def __post_init__(self) -> None:
        for name in ("every", "inner", "leaves", "block", "negatives", "negatives_every", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"method.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("size_weight", "roots", "grounding", "alpha", "negatives_most"):
            if getattr(self, name) < 0:
                raise ValueError(f"method.{name} must be at least 0, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Kblam(Vector):
    """KBLaM: every fact is read, and their number is weighed against C while answering."""


@dataclass(frozen=True, kw_only=True)
class AtlasKv(Vector):
    """AtlasKV: facts are pruned by HiKVP while answering."""


@dataclass(frozen=True, kw_only=True)
class AtlasKvFlat(Vector):
    """AtlasKV without HiKVP: every fact is read."""


@dataclass(frozen=True)
class Bank:
    """Facts as vectors: the key of their slot and the value of their tail."""

    ids: Int[Tensor, " M"]
    """Ids in the memory."""
    keys: Float[Tensor, "M P"]
    values: Float[Tensor, "M P"]


class VectorSystem(System):
    """KBLaM or AtlasKV as an adapter.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: the frozen sentence encoder.
        memory: the facts, in the slot layout.

    Raises:
        UserError: the language model has no projection `q_proj` to start from, or too few layers.
    """

    def __init__(self, method: Vector, reader: Reader, encoder: TextEncoder, memory: KnowledgeMemory) -> None:
        super().__init__(reader, encoder, memory, method.answer_tokens)
        self.method = method
        modules = attentions(reader.lm, method.every)
        if method.grounding >= len(modules):
            raise UserError(
                f"conf/method: method.grounding is {method.grounding}, but only {len(modules)} of the model's "
                f"{reader.layers} layers see facts"
            )
        heads = reader.lm.config.num_attention_heads
        starts = [query_weight(module, heads).float() for module in modules]
        width = len(starts[0]) // heads
        self.maps = KnowledgeMaps(encoder.dimension, len(starts), heads, width, method.normalised)
        self.queries = nn.ParameterList(nn.Parameter(start.clone()) for start in starts)
        self.steps: Tensor
        self.register_buffer("steps", torch.tensor(0))
        self._known: tuple[Adjacency, Bank] | None = None
        self._tree: Tree | None = None
        self.to(reader.device)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the language model attend to facts inside this block."""
        with inject(self.reader.lm, self.method.every):
            yield

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return L = L_LM + α·L_Aux over the right facts of the batch and random ones beside them."""
        ids = self._beside(batch)
        bank = self._of(torch.tensor(ids, device=self.reader.device))
        gold = torch.tensor([[fact in example.gold for fact in ids] for example in batch])
        targets = [self.target(example, example.gold) for example in batch]
        tokens = self.reader.tokens([example.text for example in batch], targets)
        asks = tokens.mask.bool() & (tokens.labels == -100)
        facts = FactsBeside(self.maps, list(self.queries), bank.keys, bank.values, asks)
        with reading(facts):
            lm_loss = self.reader.loss(tokens)
        scores = facts.scores(self.method.grounding)
        aux = auxiliary_loss(scores, gold.to(scores.device))
        self.steps += 1
        self._tree = None  # the scale of keys moves with W_K
        best = scores.argmax(dim=-1, keepdim=True).cpu()
        return {
            "loss": lm_loss + self.method.alpha * aux,
            "lm_loss": lm_loss.detach(),
            "aux_loss": aux.detach(),
            "retrieval_accuracy": gold.gather(1, best).float().mean(),
        }

    def _beside(self, batch: Sequence[Example]) -> list[int]:
        """Return the facts of a step: the right ones, and as many random ones as the schedule says."""
        right = {fact for example in batch for fact in example.gold}
        rounds = int(self.steps) // self.method.negatives_every + 1
        wanted = min(self.method.negatives * rounds, self.method.negatives_most)
        live = self._bank().ids
        drawn = [int(live[random.randrange(len(live))]) for _ in range(wanted)]
        return sorted(right | set(drawn))

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers, and the facts that the grounding layer scores best for the question's tokens."""
        bank, count = self._bank(), len(questions)
        if not len(bank.ids):
            none: list[list[int]] = [[] for _ in questions]
            return Reply([""] * count, none, [[] for _ in questions], none, [1.0] * count, [True] * count)
        shift = size_shift(len(bank.ids), self.method.size_weight) if self.method.size_weight else 0.0
        prompts = self.reader.tokens(questions)
        facts = FactsBeside(
            self.maps,
            list(self.queries),
            bank.keys,
            bank.values,
            prompts.mask.bool(),
            shift,
            self.method.block,
            self._pruning(bank),
            self.method.leaves,
        )
        with reading(facts):
            texts = self.reader.generate(prompts, self.answer_tokens)
        scores = facts.scores(self.method.grounding)
        best, order = scores.topk(min(self.memory.settings.N, scores.shape[1]), dim=-1)
        found = bank.ids[order].tolist()
        k = min(self.memory.settings.k, best.shape[1])
        weights = torch.softmax(best[:, :k], dim=-1).tolist()
        doubt = [1.0 - row[0] for row in weights]
        return Reply(texts, [row[:k] for row in found], weights, found, doubt, [False] * count)

    def _pruning(self, bank: Bank) -> Tree | None:
        """Return HiKVP's tree over the normalised keys, or None where all facts are read."""
        if not self.method.roots:
            return None
        if self._tree is None:
            keys = bank.keys * self.maps.scale(bank.keys)[:, None]
            self._tree = build_tree(keys, self.method.roots, self.method.inner)
        return self._tree

    def _bank(self) -> Bank:
        """Return all live facts, gathered anew after a change."""
        adjacency = self.memory.adjacency
        if self._known is None or self._known[0] is not adjacency:
            live = adjacency.by_head.members.sort().values
            self._known, self._tree = (adjacency, self._of(live)), None
        return self._known[1]

    def _of(self, ids: Int[Tensor, " M"]) -> Bank:
        adjacency = self.memory.adjacency
        keys = self.memory.slots.vectors[adjacency.slot[ids]].float()
        return Bank(ids, keys, self.memory.entities.vectors[adjacency.tail[ids]].float())
