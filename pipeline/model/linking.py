r"""Entity linking: the names in the question, then the relation that the rest of it is nearest to.

A question's mentions are the longest names of the memory in it. For each mention m with the entities E_m, the
rest of the question x_m is the question without it. A fact (h, r, t) of an entity h ∈ E_m scores

.. math:: ω \cdot |m| + σ \cdot \cos(x_m, r)

with |m| letters of the mention, so that of several names in a question the longer one is rather meant.
Its doubt is 1 - P(r), with the softmax of σ·cos(x_m, ·) over all relations of the memory: a question whose
relation the entity lacks is doubted, and one without any name is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.mentions import Mention, Mentions
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.prompt import Prompt, PromptSystem, Ranked, check_share, filled
from pipeline.model.reader import Reader

NONE = 2.0
"""Doubt of a question that names no entity, above any other."""


@dataclass(frozen=True, kw_only=True)
class Linking(Prompt):
    """Facts of the entities that the question names, in the prompt of `rag`'s reader."""

    mention_weight: float
    """ω: nats a letter of the mention."""
    relation_scale: float
    """σ: nats a unit of cosine between the rest of the question and a relation."""
    refuse_answerable: float
    """Share of validation questions whose first fact answers that may be refused; with 0 only those are that
    name no entity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.refuse_answerable)
        if self.mention_weight < 0 or self.relation_scale <= 0:
            raise ValueError(
                "method.mention_weight must be at least 0 and relation_scale above 0, "
                f"not {self.mention_weight} and {self.relation_scale}"
            )


class LinkingSystem(PromptSystem):
    """Linking in place of a search by vectors; nothing of it is trained.

    Args:
        method: its values.
        reader: the frozen language model.
        encoder: the frozen sentence encoder, which compares relations.
        memory: the facts, in either layout.
        aliases: further names of entities, by their stable keys.
    """

    method: Linking

    def __init__(
        self,
        method: Linking,
        reader: Reader,
        encoder: TextEncoder,
        memory: KnowledgeMemory,
        aliases: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__(method, reader, encoder, memory)
        self.mentions = Mentions(memory, aliases)

    def found(self, questions: Sequence[str]) -> Ranked:
        """Return the facts of the entities that the questions name."""
        asked = [self.mentions.of(question) for question in questions]
        rests = [rest(q, m) for q, mentions in zip(questions, asked, strict=True) for m in mentions]
        logits = iter(self._relations(rests))
        rows, doubt, n = [], [], self.memory.settings.N
        for mentions in asked:
            scored = [pair for mention in mentions for pair in self._scored(mention, next(logits))]
            scored.sort(key=lambda pair: (-pair[1], self.memory.text(pair[0])))
            rows.append(([fact for fact, _, _ in scored[:n]], [score for _, score, _ in scored[:n]]))
            doubt.append(1.0 - scored[0][2] if scored else NONE)
        facts, scores = filled(rows, n, self.reader.device)
        return Ranked(facts, scores, torch.tensor(doubt, device=scores.device))

    def refused(self, doubt: Float[Tensor, " B"]) -> list[bool]:
        """Return which questions name no entity, or ask for a relation that it seems to lack."""
        return (doubt > min(self.limit, 1.0)).tolist()

    def _relations(self, rests: Sequence[str]) -> Float[Tensor, "m R"]:
        """Return σ·cos of what is left of the questions and each relation, in nats."""
        if not rests:
            return torch.empty(0, len(self.memory.relations))
        vectors = self.memory.relations.vectors.float()
        return (self.method.relation_scale * self.encoder.encode(rests) @ vectors.T).cpu()

    def _scored(self, mention: Mention, logits: Float[Tensor, " R"]) -> list[tuple[int, float, float]]:
        """Return the facts of a mention's entities with their scores and the relation's probability."""
        shares = torch.softmax(logits, dim=-1).tolist()
        values, length = logits.tolist(), self.method.mention_weight * (mention.end - mention.start)
        facts = [fact for entity in mention.entities for fact in self.memory.facts_of(entity)]
        relations = self.memory.columns(torch.tensor(facts))[1].tolist()
        return [(f, length + values[r], shares[r]) for f, r in zip(facts, relations, strict=True)]


def rest(question: str, mention: Mention) -> str:
    """Return the question without a mention, and without the blanks that it leaves."""
    return " ".join((question[: mention.start] + question[mention.end :]).split())
