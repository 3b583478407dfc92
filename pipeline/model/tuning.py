"""Training of what `rag_tuned` finds facts by, and what it chooses on validation questions."""

import random
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.facts import Query
from pipeline.model.losses import auxiliary_loss
from pipeline.model.prompt import PromptSystem
from pipeline.model.ragtuned import DOUBTS, RagTunedSystem
from pipeline.model.refusing import BATCH, Judged, by_kind, limit, rightly
from pipeline.model.reranker import regrouped
from pipeline.model.retrieval import Retrieval, Steps, cool, fit_heads
from pipeline.model.system import Example, gold_mask


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


def choose_search(
    system: RagTunedSystem, valid: Sequence[Example], weights: Sequence[float]
) -> dict[str, float]:
    """Set by validation questions whether the query is tuned, β, and the doubt.

    Query and weight are those with the best accuracy of the first slot; on a tie the smallest weight, then
    the query whose doubt parts better, then the frozen one. The doubt is that whose AUROC between answerable
    and other questions is highest, the first of `DOUBTS` on a tie.

    Args:
        system: what is set.
        valid: validation questions, with and without an answer.
        weights: of the reranker that are tried, where there is one; 0 is always among them.

    Returns:
        Accuracy by query and weight, AUROC by query and doubt, whether the query is tuned, the weight, and
        the doubt's place in `DOUBTS`.

    Raises:
        UserError: no question has an answer, or a score is no number.
    """
    _answerable(valid)
    tried = sorted({0.0, *weights}) if system.reranker else [0.0]
    figures: dict[str, float] = {}
    ranks = []
    for tuned in (0, 1) if system.query.residual else (0,):
        system.query.tuned.fill_(tuned)
        accuracy, parted = _worth(system, valid, tried)
        judge = DOUBTS.index(max(parted, key=lambda name: (parted[name], -DOUBTS.index(name))))
        ranks += [(accuracy[w], -w, parted[DOUBTS[judge]], -tuned, judge) for w in tried]
        of = "tuned" if tuned else "frozen"
        figures |= {f"accuracy, {of} query, weight {weight:g}": value for weight, value in accuracy.items()}
        figures |= {f"auroc, {of} query, {name}": value for name, value in parted.items()}
    _, weight, _, tuned, judge = max(ranks)
    system.query.tuned.fill_(-tuned)
    system.beta.fill_(-weight)
    system.judge.fill_(judge)
    return figures | {"tuned": -tuned, "weight": -weight, "doubt": judge}


@torch.no_grad()
def _worth(
    system: RagTunedSystem, valid: Sequence[Example], weights: Sequence[float]
) -> tuple[dict[float, float], dict[str, float]]:
    """Return the accuracy of the first slot by the reranker's weight, and the AUROC of each doubt."""
    right = dict.fromkeys(weights, 0.0)
    doubts: dict[str, list[float]] = {}
    for batch in _batches(valid):
        texts = [example.text for example in batch]
        found = system.candidates(texts)
        _numbers(found.scores, "score of the query", "train.retrieval.learning_rate")
        place, keys = system.slots(found.facts)
        told = system.judged(texts, keys) if system.reranker else None
        if told is not None:
            _numbers(told, "score of the reranker", "train.retrieval.rerank_learning_rate")
        for name, values in system.doubts(found, place, told).items():
            doubts.setdefault(name, []).extend(values.tolist())
        known = gold_mask(found.facts, batch)
        for weight in right:
            scores = found.scores
            if told is not None:
                scores = regrouped(scores, place, weight * told.clamp(min=-1e4))
            best = scores.argmax(dim=-1, keepdim=True)
            right[weight] += float(known.gather(1, best).sum())
    count = len(_answerable(valid))
    without = [not example.gold for example in valid]
    parted = {name: auroc(values, without) for name, values in doubts.items()}
    return {weight: value / count for weight, value in right.items()}, parted


@torch.no_grad()
def choose_refusal(system: RagTunedSystem, valid: Sequence[Example], share: float) -> dict[str, float]:
    """Set the threshold so that at most `share` of the questions that are answered rightly are refused.

    Args:
        system: what is set.
        valid: validation questions; those without an answer tell only what the threshold is worth.
        share: of the questions whose first fact answers that may be refused, see `refusal`; 0 never refuses.

    Returns:
        The threshold, -1 where none is refused, and under each kind the share that is refused with it.

    Raises:
        UserError: no question has an answer.
    """
    threshold, doubts = refusal(system, valid, share)
    system.threshold.fill_(threshold)
    held = float(system.threshold)  # rounded to the adapter's type
    refused = {kind: sum(value > held for value in values) / len(values) for kind, values in doubts.items()}
    return {"threshold": held if share else -1.0} | refused


@torch.no_grad()
def refusal(
    system: PromptSystem, valid: Sequence[Example], share: float
) -> tuple[float, dict[str, list[float]]]:
    """Return the doubt that at most `share` of the answerable questions exceed, and all doubts by kind.

    Only questions whose first fact answers count, as for ours (`pipeline.model.refusing`).

    Raises:
        UserError: no question has an answer.
    """
    _answerable(valid)

    def judge(batch: Sequence[Example]) -> list[Judged]:
        found = system.found([example.text for example in batch])
        right = gold_mask(found.facts[:, :1], batch)[:, 0]
        return [Judged(*pair) for pair in zip(found.doubt.tolist(), right.tolist(), strict=True)]

    judged = by_kind(valid, judge)
    answerable = {kind: row for kind, row in judged.items() if kind != "unanswerable"}
    doubts = {kind: [one.doubt for one in row] for kind, row in judged.items()}
    return (limit(rightly(answerable), share) if share else torch.inf), doubts


@torch.no_grad()
def choose_k(system: RagTunedSystem, valid: Sequence[Example]) -> dict[str, float]:
    """Set k to the number of facts after which right answers to validation questions surprise least.

    The surprise of a question's answer, in nats, tells more with few questions than whether it is right;
    the smallest k on a tie.

    Returns:
        The mean surprise by k, and k.

    Raises:
        UserError: no question has an answer, or an answer's surprise is no number.
    """
    answerable = _answerable(valid)
    surprise = dict.fromkeys(map(str, sorted(set(system.method.ks))), 0.0)
    for batch in _batches(answerable):
        found = system.found([example.text for example in batch]).facts
        for k in surprise:
            read = [[fact for fact in row[: int(k)] if fact >= 0] for row in found.tolist()]
            targets = [system.target(example, facts) for example, facts in zip(batch, read, strict=True)]
            lost = system.surprise([example.text for example in batch], targets, read)
            _numbers(lost, "surprise of an answer", "train.learning_rate")
            surprise[k] += float(lost.sum()) / len(answerable)
    chosen = min(surprise, key=lambda k: (surprise[k], int(k)))
    system.k.fill_(int(chosen))
    return surprise | {"k": int(chosen)}


def auroc(doubts: Sequence[float], without: Sequence[bool]) -> float:
    """Return the chance that a question without an answer is doubted more than one with; ½ if none is."""
    values, mask = torch.tensor(doubts), torch.tensor(without, dtype=torch.bool)
    high, low = values[mask], values[~mask]
    if not len(high) or not len(low):
        return 0.5
    above = (high[:, None] > low[None]).float() + 0.5 * (high[:, None] == low[None]).float()
    return float(above.mean())


def _answerable(valid: Sequence[Example]) -> list[Example]:
    """Return the questions with an answer; without any, nothing can be chosen."""
    found = [example for example in valid if example.gold]
    if not found:
        raise UserError("rag_tuned: no validation question has an answer; raise splits.valid in conf/splits")
    return found


def _numbers(values: Tensor, what: str, remedy: str) -> None:
    """Raise an error that names what is no number and the setting that may be too high."""
    if values.isnan().any():
        raise UserError(f"rag_tuned: the {what} is nan; lower {remedy}")


def _batches(examples: Sequence[Example]) -> Iterable[Sequence[Example]]:
    return (examples[start : start + BATCH] for start in range(0, len(examples), BATCH))
