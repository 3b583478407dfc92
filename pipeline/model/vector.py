"""KBLaM and AtlasKV: facts of one vector each, read by an attention of their own in every third layer."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import UserError
from pipeline.memory.adjacency import Adjacency
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.store import KnowledgeMemory
from pipeline.memory.tree import Tree, build_tree
from pipeline.model.beside import Bank, FactsBeside, Pruning, attentions, inject, query_weight, reading
from pipeline.model.knowledge import KnowledgeMaps, size_shift
from pipeline.model.losses import auxiliary_loss
from pipeline.model.reader import Reader, Tokens
from pipeline.model.settings import Vector
from pipeline.model.sharing import weighed, whole
from pipeline.model.system import Example, Reply, System, share_right
from pipeline.shapes import CandidateFacts

REFUSAL_START = 12
"""Characters of the refusal by which an answer is known as one."""
SCALE_RATE = 10.0
"""How many times as fast as the other parameters the logarithm of the scale is learned."""


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
                f"conf/method: method.grounding is {method.grounding}, but only {len(modules)} of the "
                f"model's {reader.layers} layers see facts"
            )
        # Below a shared selection no layer reads: what sees facts begins with the grounding layer.
        self._first = method.grounding if method.selection == "shared" else 0
        heads = reader.lm.config.num_attention_heads
        starts = [query_weight(module, heads).float() for module in modules[self._first :]]
        width = len(starts[0]) // heads
        self.maps = KnowledgeMaps(encoder.dimension, len(starts), heads, width, method.normalised)
        self.queries = nn.ParameterList(nn.Parameter(start.clone()) for start in starts)
        start = math.log(method.logit_scale) / SCALE_RATE if method.logit_scale else None
        self.log_scale = None if start is None else nn.Parameter(torch.tensor(start))
        self.steps: Tensor
        self.register_buffer("steps", torch.tensor(0))
        self._known: tuple[Adjacency, Bank] | None = None
        self._scale: tuple[Bank, int, Float[Tensor, " M"]] | None = None
        self._tree: tuple[Float[Tensor, " M"], Tree] | None = None
        self.to(reader.device)

    @property
    def learns_refusal(self) -> bool:
        """Whether `method.refuses` says so."""
        return self.method.refuses

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the language model attend to facts inside this block."""
        with inject(self.reader.lm, self.method.every, self._first):
            yield

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Return L = L_LM + α·L_Aux over the right facts of the batch and random ones beside them.

        The right facts are there whether or not the batch tells which question they answer: a sample of the
        memory without them would have no answer to read. Only L_Aux learns from what it tells.
        """
        every_question = whole(batch)
        ids = self._beside(every_question)
        read = set(ids)
        targets = [self.target(e, e.gold) if e.answers else self.method.refusal for e in batch]
        tokens = self.reader.tokens([example.text for example in batch], targets)
        asks = tokens.mask.bool() & (tokens.labels == -100)
        facts = self._facts(self._of(torch.tensor(ids, device=self.reader.device)), asks)
        with reading(facts):
            lm_loss = self.reader.loss(tokens)
        self.steps += 1
        wrong = sorted({fact for example in every_question for fact in example.gold} - read)
        read |= set(wrong)
        every = [*ids, *wrong, *(fact for fact in self._random(self.method.scored) if fact not in read)]
        gold = self._gold(batch, every)
        bank = self._of(torch.tensor(every, device=self.reader.device))
        scores, answerable = facts.scores(bank) * self.sharpness, gold.any(dim=-1)
        aux = auxiliary_loss(scores, gold) if answerable.any() else weighed(torch.zeros_like(lm_loss), 0)
        right = gold.gather(1, scores.argmax(dim=-1, keepdim=True))[answerable]
        return {
            "loss": lm_loss + self.method.alpha * aux,
            "lm_loss": lm_loss.detach(),
            "aux_loss": aux.detach(),
            "retrieval_accuracy": share_right(right),
        }

    @property
    def sharpness(self) -> Float[Tensor, ""] | float:
        """What scores are multiplied by, where a loss or a weight is made of them."""
        return 1.0 if self.log_scale is None else (SCALE_RATE * self.log_scale).exp()

    def _beside(self, batch: Sequence[Example]) -> list[int]:
        """Return the facts of a step: the right ones, and as many random ones as the schedule says."""
        right = {fact for example in batch for fact in example.right or example.gold}
        rounds = int(self.steps) // self.method.negatives_every + 1
        wanted = min(self.method.negatives * rounds, self.method.negatives_most)
        return sorted(right | set(self._random(wanted)))

    def _random(self, count: int) -> list[int]:
        live = self.bank.ids
        rows = torch.tensor([random.randrange(len(live)) for _ in range(count)], dtype=torch.long)
        return list(dict.fromkeys(live[rows.to(live.device)].tolist()))

    def _gold(self, batch: Sequence[Example], ids: Sequence[int]) -> Bool[Tensor, "B M"]:
        """Return which facts answer which question."""
        place = {fact: column for column, fact in enumerate(ids)}
        gold = torch.zeros(len(batch), len(ids), dtype=torch.bool)
        for row, example in enumerate(batch):
            gold[row, [place[fact] for fact in example.gold]] = True
        return gold.to(self.reader.device)

    @torch.no_grad()
    def ground(self, questions: Sequence[str], n: int) -> CandidateFacts:
        """Return the n facts that the grounding layer scores best; -1 where it saw fewer."""
        facts, prompts = self._ask(questions)
        with reading(facts):
            self.reader.generate(prompts, 1)
        best, rows = facts.ranking(n)
        found = self.bank.ids[rows].masked_fill(best == -torch.inf, -1)
        return F.pad(found, (0, n - found.shape[1]), value=-1)

    @torch.no_grad()
    def reply(self, questions: Sequence[str]) -> Reply:
        """Return answers, and the facts that the grounding layer scores best for the question's tokens."""
        count = len(questions)
        if not len(self.bank.ids):
            none: list[list[int]] = [[] for _ in questions]
            return Reply([""] * count, none, [[] for _ in questions], none, [1.0] * count, [True] * count)
        facts, prompts = self._ask(questions)
        with reading(facts):
            texts = self.reader.generate(prompts, self.answer_tokens, narrow=facts.narrow)
        best, rows = facts.ranking(self.memory.settings.N)
        found = [
            [fact for fact, score in zip(ids, scores, strict=True) if score > -torch.inf]
            for ids, scores in zip(self.bank.ids[rows].tolist(), best.tolist(), strict=True)
        ]
        k = self.memory.settings.k
        weights = [
            row[: min(k, len(ids))]
            for row, ids in zip(
                torch.softmax(best[:, :k] * self.sharpness, dim=-1).tolist(), found, strict=True
            )
        ]
        refused = [text.startswith(self.method.refusal[:REFUSAL_START]) for text in texts]
        said = ["" if no else text for text, no in zip(texts, refused, strict=True)]
        doubt = [1.0 - row[0] for row in weights]
        return Reply(said, [ids[:k] for ids in found], weights, found, doubt, refused)

    def _ask(self, questions: Sequence[str]) -> tuple[FactsBeside, Tokens]:
        """Return all facts, ready to be read beside the prompts of `questions`, and those."""
        prompts = self.reader.tokens(questions)
        weight = self.method.size_weight
        shift = size_shift(len(self.bank.ids), weight) if weight else 0.0
        return self._facts(self.bank, prompts.mask.bool(), shift, self.pruning, self.scale), prompts

    def _facts(
        self,
        bank: Bank,
        asks: Bool[Tensor, "B T"],
        shift: float = 0.0,
        pruning: Pruning | None = None,
        scale: Float[Tensor, " M"] | None = None,
    ) -> FactsBeside:
        method = self.method
        return FactsBeside(
            self.maps,
            list(self.queries),
            bank,
            asks,
            method.grounding - self._first,
            method.pooling,
            method.block,
            shift,
            pruning,
            scale,
            method.leaves if method.selection == "shared" else 0,
        )

    @property
    def pruning(self) -> Pruning | None:
        """HiKVP's tree over the normalised keys, built anew after a change; None where all facts are read."""
        method, scale = self.method, self.scale
        if not method.roots:
            return None
        if self._tree is None or self._tree[0] is not scale:
            self._tree = scale, build_tree(self.bank.keys * scale[:, None], method.roots, method.inner)
        tree = replace(self._tree[1], roots_kept=method.roots, inner_kept=method.inner)
        return Pruning(tree, method.leaves)

    @property
    def scale(self) -> Float[Tensor, " M"]:
        """1/σ of every fact's key, computed anew where the facts or W_K have changed."""
        bank, version = self.bank, self.maps.keys._version
        if self._scale is None or self._scale[0] is not bank or self._scale[1] != version:
            self._scale = bank, version, self.maps.scale(bank.keys)
        return self._scale[2]

    @property
    def bank(self) -> Bank:
        """All live facts, gathered anew after a change."""
        adjacency = self.memory.adjacency
        if self._known is None or self._known[0] is not adjacency:
            self._known = adjacency, self._of(adjacency.by_head.members.sort().values)
        return self._known[1]

    def _of(self, ids: Int[Tensor, " M"]) -> Bank:
        adjacency = self.memory.adjacency
        keys = self.memory.slots.vectors[adjacency.slot[ids]].float()
        return Bank(ids, keys, self.memory.entities.vectors[adjacency.tail[ids]].float())
