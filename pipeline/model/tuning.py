"""Training of what `rag_tuned` finds facts by, and what it chooses on validation questions."""

import random
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.memory.facts import Query
from pipeline.model.judging import limit
from pipeline.model.losses import auxiliary_loss
from pipeline.model.ragtuned import DOUBTS, RagTunedSystem
from pipeline.model.reranker import regrouped
from pipeline.model.retrieval import Retrieval, Steps, cool, fit_heads
from pipeline.model.system import Example, gold_mask

BATCH = 64
"""Questions that are searched for at once."""


def fit_query(
    system: RagTunedSystem, examples: Sequence[Example], settings: Retrieval, steps: Steps
) -> list[dict[str, float]]:
    """Fit the query's head by InfoNCE against the gold slot, the batch's, hard and random ones.

    Args:
        system: its query is fitted, in place; the slots' vectors stay as they are.
        examples: questions with gold facts.
        settings: those of our own retrieval heads.
        steps: wraps the iteration, for a progress bar.

    Returns:
        One row a step: step, aux_loss and the share of questions whose slot comes first in the batch.
    """
    gold = torch.tensor([example.gold[0] for example in examples])
    slots = torch.full((len(examples), 3), -1)
    slots[:, 0] = system.memory.adjacency.slot[gold].cpu()
    slots[:, 1] = torch.from_numpy(system.memory.triples[gold.numpy(), 1])
    vectors = system.encoder.encode([example.text for example in examples])

    def ask(drawn: Int[Tensor, " B"]) -> Query:
        query: Query = system.query(vectors[drawn])
        return query

    return fit_heads(system.query, system.memory, ask, slots.to(vectors.device), settings, steps)


def fit_reranker(
    system: RagTunedSystem,
    examples: Sequence[Example],
    unanswerable: Sequence[Example],
    share: float,
    settings: Retrieval,
    steps: Steps,
) -> list[dict[str, float]]:
    """Fit the reranker by cross-entropy over the lists that the query finds, with "none" beside the slots.

    A list holds a gold slot, if there is one, and the best others that were found, up to
    `rerank_slots` in all; the rest of the search is held still.

    Args:
        system: its reranker is fitted, in place.
        examples: questions with gold facts.
        unanswerable: questions without.
        share: of the questions of a step that have none.
        settings: steps, questions a step, slots a list, learning rate.
        steps: wraps the iteration, for a progress bar.

    Returns:
        One row a step: step, aux_loss and the share of questions whose right choice comes first.
    """
    assert system.reranker is not None
    parameters = system.reranker.parameters()
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.rerank_learning_rate, weight_decay=settings.weight_decay
    )
    curve = []
    for step in steps(range(settings.rerank_steps), "reranker"):
        cool(optimizer, settings.rerank_learning_rate, step / settings.rerank_steps)
        batch = [
            random.choice(unanswerable if unanswerable and random.random() < share else examples)
            for _ in range(settings.rerank_batch)
        ]
        keys, right = _lists(system, batch, settings.rerank_slots)
        told = system.judged([example.text for example in batch], keys)
        null = told.new_zeros(len(batch), 1)
        loss = auxiliary_loss(told, right, null)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        both = torch.cat([told, null], dim=-1)
        chosen = torch.cat([right, ~right.any(dim=-1, keepdim=True)], dim=-1)
        first = chosen.gather(1, both.argmax(dim=-1, keepdim=True)).float().mean().item()
        curve.append({"step": step, "aux_loss": loss.item(), "retrieval_accuracy": first})
    return curve


@torch.no_grad()
def _lists(
    system: RagTunedSystem, batch: Sequence[Example], most: int
) -> tuple[list[list[str]], Bool[Tensor, "B S"]]:
    """Return the keys of the slots to tell apart for each question, and which of them are right."""
    found = system.candidates([example.text for example in batch]).facts
    keys, right = [], torch.zeros(len(batch), system.method.reranked, dtype=torch.bool)
    for row, (example, facts) in enumerate(zip(batch, found.tolist(), strict=True)):
        gold = {_slot(system, fact) for fact in example.gold}
        near = list(dict.fromkeys(_slot(system, fact) for fact in facts if fact >= 0))
        others = [slot for slot in near if slot not in gold]
        chosen = [*sorted(gold)[:1], *others][:most]
        random.shuffle(chosen)
        keys.append([system.memory.slot_text(*slot) for slot in chosen])
        for place, slot in enumerate(chosen):
            right[row, place] = slot in gold
    return keys, right.to(found.device)


def _slot(system: RagTunedSystem, fact: int) -> tuple[int, int]:
    head, relation, _ = system.memory.columns(torch.tensor([fact]))[:, 0].tolist()
    return head, relation


@torch.no_grad()
def choose_search(
    system: RagTunedSystem, valid: Sequence[Example], weights: Sequence[float]
) -> dict[str, float]:
    """Set β and the doubt by validation questions.

    β is the weight with the best accuracy of the first slot, the smallest on a tie. The doubt is that whose
    AUROC between answerable and other questions is highest, the first of `DOUBTS` on a tie.

    Args:
        system: what is set.
        valid: validation questions, with and without an answer.
        weights: of the reranker that are tried, where there is one; 0 is always among them.

    Returns:
        Accuracy by weight, AUROC by doubt, the weight, and the doubt's place in `DOUBTS`.
    """
    right = dict.fromkeys(sorted({0.0, *weights}) if system.reranker else [0.0], 0.0)
    doubts: dict[str, list[float]] = {}
    for batch in _batches(valid):
        texts = [example.text for example in batch]
        found = system.candidates(texts)
        place, keys = system.slots(found.facts)
        told = system.judged(texts, keys) if system.reranker else None
        for name, values in system.doubts(found, place, told).items():
            doubts.setdefault(name, []).extend(values.tolist())
        known = gold_mask(found.facts, batch)
        for weight in right:
            flat = found.scores.new_zeros(len(batch), system.method.reranked)
            added = flat if told is None else weight * told.clamp(min=-1e4)
            best = regrouped(found.scores, place, added).argmax(dim=-1, keepdim=True)
            right[weight] += float(known.gather(1, best).sum())
    answerable = max(1, sum(bool(example.gold) for example in valid))
    accuracy = {weight: count / answerable for weight, count in right.items()}
    beta = max(accuracy, key=lambda weight: (accuracy[weight], -weight))
    parted = {name: auroc(values, [not e.gold for e in valid]) for name, values in doubts.items()}
    judge = DOUBTS.index(max(parted, key=lambda name: (parted[name], -DOUBTS.index(name))))
    system.beta.fill_(beta)
    system.judge.fill_(judge)
    figures = {f"accuracy, weight {weight:g}": value for weight, value in accuracy.items()}
    figures |= {f"auroc, {name}": value for name, value in parted.items()}
    return figures | {"weight": beta, "doubt": judge}


@torch.no_grad()
def choose_refusal(system: RagTunedSystem, valid: Sequence[Example], share: float) -> dict[str, float]:
    """Set the threshold so that at most `share` of the answerable questions of each kind are refused.

    Args:
        system: what is set.
        valid: validation questions; those without an answer tell only what the threshold is worth.
        share: of answerable questions that may be refused; 0 never refuses.

    Returns:
        The threshold, and under each kind the share of its questions that is refused with it.
    """
    doubts: dict[str, list[float]] = {}
    for batch in _batches(valid):
        for example, value in zip(batch, system.found([e.text for e in batch]).doubt.tolist(), strict=True):
            doubts.setdefault(example.kind if example.gold else "unanswerable", []).append(value)
    answerable = {kind: values for kind, values in doubts.items() if kind != "unanswerable"}
    threshold = limit(answerable, share) if share else torch.inf
    system.threshold.fill_(threshold)
    held = float(system.threshold)  # rounded to the adapter's type
    refused = {kind: sum(value > held for value in values) / len(values) for kind, values in doubts.items()}
    return {"threshold": held if share else -1.0} | refused


@torch.no_grad()
def choose_k(system: RagTunedSystem, valid: Sequence[Example]) -> dict[str, float]:
    """Set k to the number of facts after which right answers to validation questions surprise least.

    The surprise of a question's answer, in nats, tells more with few questions than whether it is right;
    the smallest k on a tie.

    Returns:
        The mean surprise by k, and k.
    """
    answerable = [example for example in valid if example.gold]
    surprise = dict.fromkeys(map(str, sorted(set(system.method.ks))), 0.0)
    for batch in _batches(answerable):
        found = system.found([example.text for example in batch]).facts
        for k in surprise:
            read = [[fact for fact in row[: int(k)] if fact >= 0] for row in found.tolist()]
            targets = [system.target(example, facts) for example, facts in zip(batch, read, strict=True)]
            lost = system.surprise([example.text for example in batch], targets, read)
            surprise[k] += float(lost.sum()) / len(answerable)
    chosen = min(surprise, key=lambda k: (surprise[k], int(k)))
    system.k.fill_(int(chosen))
    return surprise | {"k": int(chosen)}


def auroc(doubts: Sequence[float], without: Sequence[bool]) -> float:
    """Return the chance that a question without an answer is doubted more than one with; ½ if none is."""
    values, mask = torch.tensor(doubts), torch.tensor(without)
    high, low = values[mask], values[~mask]
    if not len(high) or not len(low):
        return 0.5
    above = (high[:, None] > low[None]).float() + 0.5 * (high[:, None] == low[None]).float()
    return float(above.mean())


def _batches(examples: Sequence[Example]) -> Iterable[Sequence[Example]]:
    return (examples[start : start + BATCH] for start in range(0, len(examples), BATCH))
