"""Training of what finds facts: the two heads, and the correction by the language model's early states."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.memory.facts import Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.hops import gold_paths, with_gold_paths
from pipeline.model.losses import auxiliary_loss
from pipeline.model.ours import OurSystem
from pipeline.model.system import Example

Steps = Callable[[Iterable[int], str], Iterable[int]]
Ask = Callable[[Int[Tensor, " B"]], Query]

LEAST = {
    0: (
        *("steps", "hard_negatives", "random_negatives", "examples", "correction_steps", "texts"),
        "rerank_steps",
    ),
    1: ("batch_size", "rerank_batch", "k_validation"),
    2: ("rerank_slots",),
}
"""Settings of `Retrieval` by the least value that they may have."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How the retrieval is trained before the reader."""

    steps: int
    """Steps of the two heads."""
    batch_size: int
    """Questions a step."""
    learning_rate: float
    """At the start; it falls to zero as a cosine."""
    weight_decay: float
    """Of AdamW."""
    hard_negatives: int
    """Nearest wrong entities of each question, found anew at each step."""
    random_negatives: int
    """Entities drawn for the whole batch."""
    examples: int
    """Training questions that are encoded; 0 is all."""
    relation_folds: int
    """Folds of the relations that are kept from heads in turn, to learn what to do with relations that
    training doesn't ask for (`pipeline.model.rehearsal`); 0, for ablation, learns from known ones alone."""
    trusts: list[float]
    """Shares of the way from the encoder's own similarity to the fitted relation head that are tried on
    validation questions whose relation the heads don't know; 1 is always among them."""
    joint_rate: float
    """Learning rate of the retrieval while the reader is fitted, as a share of the reader's. What it learns
    then is kept where validation finds more with it; 0, for ablation, leaves it as it was fitted."""
    held: float
    """Share of those that the heads are not fitted to, all about entities that they don't know, so that what
    judges their finds can be."""
    letters_steps: int
    """Steps of the correction by letters over all those questions at once."""
    letters_learning_rate: float
    """Of the correction by letters."""
    correction_steps: int
    """Steps of the correction by early states; 0 leaves it out."""
    correction_weights: list[float]
    """Weights β that are tried on validation questions; 0 is always among them."""
    validation: int
    """Validation questions that choose β, and the bias below."""
    stop_biases: list[float]
    """Nats for one hop rather than two that are tried on as many, for two hops; 0 is always among them."""
    null_steps: int
    """Steps of the null fact over all its questions at once."""
    null_examples: int
    """Training questions of either kind, with and without an answer, that fit the null fact."""
    null_learning_rate: float
    """Of the null fact."""
    texts: int
    """Texts that the language model writes to tell questions from what asks nothing; 0 leaves that out."""
    rerank_steps: int
    """Steps of the reranker of `rag_tuned`."""
    rerank_batch: int
    """Questions a step of it."""
    rerank_slots: int
    """Slots that it tells apart for each of them."""
    rerank_learning_rate: float
    """Of it, at the start; it falls to zero as a cosine."""
    rerank_weights: list[float]
    """Weights β of it that are tried on validation questions; 0 is always among them."""
    k_validation: int
    """Validation questions that choose k of `rag_tuned`."""

    def __post_init__(self) -> None:
        for least, names in LEAST.items():
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(
                        f"train.retrieval.{name} must be at least {least}, not {getattr(self, name)}"
                    )
        if not 0 <= self.held < 1:
            raise ValueError(f"train.retrieval.held must be in [0, 1), not {self.held}")
        if self.relation_folds < 0 or self.relation_folds == 1:
            raise ValueError(
                f"train.retrieval.relation_folds must be 0 or at least 2, not {self.relation_folds}"
            )
        if not all(0 <= trust <= 1 for trust in self.trusts):
            raise ValueError(f"train.retrieval.trusts must be in [0, 1], not {self.trusts}")
        if not 0 <= self.joint_rate <= 1:
            raise ValueError(f"train.retrieval.joint_rate must be in [0, 1], not {self.joint_rate}")


def fit_heads(
    heads: nn.Module,
    memory: KnowledgeMemory,
    ask: Ask,
    slots: Int[Tensor, "B 3"],
    settings: Retrieval,
    steps: Steps,
    entities: bool = True,
) -> list[dict[str, float]]:
    """Fit the heads to questions with known slots, by InfoNCE over entities and cross-entropy over relations.

    Args:
        heads: what is fitted, in place.
        memory: gives the vectors of entities (or slots) and relations; they stay as they are.
        ask: gives the query of the questions whose numbers it is given, with gradients into the heads.
        slots: the row of the entity (of the slot, in the slot layout), of the relation and of the second
            relation of each question, -1 where it asks for one hop.
        settings: steps, negatives, learning rate.
        steps: wraps the iteration, for a progress bar.
        entities: whether entities are learned; where not, what asks for them stays, and the share below is
            not known.

    Returns:
        One row a step: step, aux_loss and the share of questions whose entity comes first in the batch.
    """
    keys = (memory.slots if memory.settings.layout == "slot" else memory.entities).vectors.float()
    # A relation that no training question asks for must not be learned as one that nobody ever means.
    asked, place = torch.unique(slots[:, 1], return_inverse=True)
    vectors = memory.relations.vectors.float()
    relations = vectors[asked]
    later, after = torch.unique(slots[:, 2], return_inverse=True)
    after = after + int(later[0] >= 0)  # the first class is: no second relation
    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    size = min(settings.batch_size, len(slots))
    curve = []
    for step in steps(range(settings.steps), "retrieval"):
        cool(optimizer, settings.learning_rate, step / settings.steps)
        drawn = torch.randint(len(slots), (size,), device=slots.device)
        query = ask(drawn)
        gold, relation = slots[drawn, 0], place[drawn]
        loss, first = query.key.new_zeros(()), math.nan
        if entities:
            loss, first = _contrast(query.key, keys, gold, settings)
        if memory.settings.layout == "factored":
            loss = loss + F.cross_entropy(query.relation @ relations.T, relation)
        if query.second is not None and query.stop is not None:
            logits = torch.cat([query.stop, query.second @ vectors[later[later >= 0]].T], dim=-1)
            loss = loss + F.cross_entropy(logits, after[drawn])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append({"step": step, "aux_loss": loss.item(), "retrieval_accuracy": first})
    return curve


def cool(optimizer: torch.optim.Optimizer, highest: float, done: float) -> None:
    """Set the learning rate to where a cosine from `highest` to zero stands after the share `done`."""
    for group in optimizer.param_groups:
        group["lr"] = highest * 0.5 * (1 + math.cos(math.pi * done))


def _contrast(
    query: Float[Tensor, "B P"], keys: Float[Tensor, "E P"], gold: Int[Tensor, " B"], settings: Retrieval
) -> tuple[Float[Tensor, ""], float]:
    """Return InfoNCE of `query` against its gold key, the batch's, hard and random negatives."""
    with torch.no_grad():
        near = (query @ keys.T).topk(min(settings.hard_negatives, len(keys)), dim=-1).indices.flatten()
        far = torch.randint(len(keys), (settings.random_negatives,), device=keys.device)
    columns = torch.cat([gold, near, far])
    logits = query @ keys[columns].T
    repeated = columns[None] == gold[:, None]
    repeated.fill_diagonal_(False)
    logits = logits.masked_fill(repeated, -torch.inf)
    place = torch.arange(len(gold), device=keys.device)
    accuracy = (logits.argmax(dim=-1) == place).float().mean().item()
    return F.cross_entropy(logits, place), accuracy


def fit_correction(
    system: OurSystem, examples: Sequence[Example], ask: Ask, settings: Retrieval, steps: Steps
) -> list[dict[str, float]]:
    """Fit the correction by early states to the candidates that the heads find, the heads held still.

    Args:
        system: its correction is fitted, in place.
        examples: questions with gold facts.
        ask: gives the query of those whose numbers it is given.
        settings: steps and learning rate.
        steps: wraps the iteration, for a progress bar.

    Returns:
        One row a step: step and aux_loss.
    """
    layer = system.method.state_layer
    correction = system.correction
    correction.beta.fill_(1.0)
    optimizer = torch.optim.AdamW(
        correction.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    size = min(settings.batch_size, len(examples))
    curve = []
    for step in steps(range(settings.correction_steps), "correction"):
        cool(optimizer, settings.learning_rate, step / settings.correction_steps)
        drawn = torch.randint(len(examples), (size,))
        batch = [examples[i] for i in drawn.tolist()]
        texts = [example.text for example in batch]
        with torch.no_grad():
            query = ask(drawn)
            facts, via = with_gold_paths(system.memory.search(query), batch)
            found = system.memory.score(query, facts, via)
            states = system.reader.early_states(texts, layer)
        corrected = found.scores + correction(states, system.memory.keys(found.asked))
        loss = auxiliary_loss(corrected, gold_paths(facts, via, batch))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append({"step": step, "aux_loss": loss.item()})
    return curve


@torch.no_grad()
def choose_weight(
    system: OurSystem, examples: Sequence[Example], weights: Sequence[float]
) -> dict[str, float]:
    """Set β to the weight with the best accuracy of the first fact on `examples`; the smallest on a tie.

    Returns:
        Accuracy by weight, and under `chosen` the weight.
    """
    accuracy: dict[float, float] = {}
    for weight in sorted({0.0, *weights}):
        system.correction.beta.fill_(weight)
        accuracy[weight] = _accuracy(system, examples)
    chosen = max(accuracy, key=lambda weight: (accuracy[weight], -weight))
    system.correction.beta.fill_(chosen)
    return {f"{weight:g}": share for weight, share in accuracy.items()} | {"chosen": chosen}


@torch.no_grad()
def keep_better(
    system: OurSystem, before: Mapping[str, Tensor], examples: Sequence[Example]
) -> dict[str, float]:
    """Undo what the retrieval learned along with the reader, unless it answers more of `examples` so.

    The reader's batches hold relations and wordings that training knows alone.

    Args:
        system: what is set back, or left as it is.
        before: values of what was fitted before the reader, by name.
        examples: validation questions with gold facts.

    Returns:
        Accuracy of the first fact `before` and `after`, and whether what came after is `kept`.
    """
    after = {name: value.clone() for name, value in system.state_dict().items() if name in before}
    late = _accuracy(system, examples)
    system.load_state_dict(system.state_dict() | dict(before))
    early = _accuracy(system, examples)
    if late > early:
        system.load_state_dict(system.state_dict() | after)
    return {"before": early, "after": late, "kept": float(late > early)}


def _accuracy(system: OurSystem, examples: Sequence[Example]) -> float:
    """Return the share of questions that the first fact answers."""
    right = 0.0
    for start in range(0, len(examples), 64):
        batch = examples[start : start + 64]
        found = system.found([example.text for example in batch])
        best = found.scores.argmax(dim=-1, keepdim=True)
        right += gold_paths(found.facts.gather(1, best), found.via.gather(1, best), batch).sum().item()
    return right / len(examples)
