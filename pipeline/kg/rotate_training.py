"""Training RotatE: PyKEEN's model and self-adversarial loss in a loop that can be killed and resumed.

PyKEEN 1.11's own loop draws negatives on the CPU, shares none and can't score all entities by a matrix
product, which decides how far a minute of training gets; so the loop is ours. Random numbers of an epoch
depend on the seed and the epoch alone, so a resumed run repeats the one that was never killed.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Complex, Float, Int
from pykeen.models import ERModel
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.config import UserError
from pipeline.kg.facts import Ids
from pipeline.kg.linkprediction import evaluate
from pipeline.kg.rotate import SIDES, Rotate, build, candidate_scores, distances, rotated
from pipeline.kg.rotate_checkpoint import Progress, load, save

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """Facts by use, over dense ids of entities and relations that all occur in `train`."""

    train: Ids
    valid: Ids
    test: Ids
    entities: int
    relations: int


@dataclass(frozen=True)
class Trained:
    """The vectors of the best epoch, on the CPU, and the road to them."""

    entities: Complex[Tensor, "E d"]
    relations: Complex[Tensor, "R d"]
    progress: Progress


def pick_device(name: str) -> torch.device:
    """Return the device that `rotate.device` names.

    Raises:
        UserError: `cuda` was asked for where there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("rotate.device is cuda, but torch finds no GPU; set rotate.device=auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def fingerprint(rotate: Rotate, facts: Facts, seed: int) -> str:
    """Return a hash of all that decides the result, so that a checkpoint is never resumed by another run."""
    digest = hashlib.sha256(json.dumps([asdict(rotate), seed, facts.entities, facts.relations]).encode())
    for part in (facts.train, facts.valid, facts.test):
        digest.update(str(part.shape).encode() + part.tobytes())
    return digest.hexdigest()[:16]


def side_loss(
    rotate: Rotate,
    model: ERModel,
    entities: Complex[Tensor, "E d"],
    queries: Complex[Tensor, "B d"],
    answers: Int[Tensor, " B"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return the loss of one side of a batch, by `rotate.trainer`.

    one_vs_all: −log softmax over all entities of minus the distance. The others: PyKEEN's NSSALoss with
    uniformly drawn negatives, not filtered, as the original has it.
    """
    if rotate.trainer == "one_vs_all":
        logits = -distances(queries, entities, rotate.norm)
        return cross_entropy(logits, answers, label_smoothing=rotate.label_smoothing)
    positive = candidate_scores(queries, entities, answers[:, None], rotate.norm)
    shape = (rotate.negatives,) if rotate.trainer == "shared" else (len(queries), rotate.negatives)
    drawn = torch.randint(len(entities), shape, generator=generator, device=queries.device)
    if rotate.trainer == "shared":
        negative = -distances(queries, entities[drawn], rotate.norm)
    else:
        negative = candidate_scores(queries, entities, drawn, rotate.norm)
    loss: Tensor = model.loss.process_slcwa_scores(positive, negative)
    return loss


def batch_loss(
    rotate: Rotate, model: ERModel, batch: Int[Tensor, "B 3"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """Return the mean loss of both sides of a batch, with dropout and N3 as configured."""
    entities = model.entity_representations[0](None)
    relations = model.relation_representations[0](None)
    ends = {"tail": (batch[:, 0], batch[:, 2]), "head": (batch[:, 2], batch[:, 0])}
    total = torch.zeros((), device=batch.device)
    for side in SIDES:
        given, answers = ends[side]
        asked = entities[given]
        own = rotate.inverse_relations and side == "head"
        turns = relations[batch[:, 1] + (len(relations) // 2 if own else 0)]
        queries = rotated(asked, turns, "tail" if rotate.inverse_relations else side)
        if rotate.dropout > 0:
            chance = torch.full(queries.shape, 1 - rotate.dropout, device=queries.device)
            queries = queries * torch.bernoulli(chance, generator=generator) / (1 - rotate.dropout)
        total = total + side_loss(rotate, model, entities, queries, answers, generator) / len(SIDES)
        if rotate.regularisation > 0:
            total = total + rotate.regularisation * asked.abs().pow(3).sum(dim=1).mean()
    return total


def train(
    rotate: Rotate,
    facts: Facts,
    seed: int,
    checkpoint: Path | None = None,
    seconds: float = math.inf,
    report: Callable[[Progress], object] = lambda _: None,
) -> Trained:
    """Train RotatE on `facts.train` and return the vectors of the epoch with the best validation MRR.

    On the CPU the same arguments give the same bytes, resumed or not.

    Args:
        rotate: how.
        facts: what on; with no `valid` facts the last epoch is the best.
        seed: of the first weights, the order of the facts and the negatives.
        checkpoint: file to resume from and to save to after each evaluation.
        seconds: of training (evaluations not counted) after which it stops, whatever the epoch.
        report: called after each epoch.

    Raises:
        UserError: there is no fact, no GPU where one was asked for, the loss is no longer finite, or the
            checkpoint is damaged.
    """
    if len(facts.train) == 0:
        raise UserError("RotatE has no facts to train on; check the data choice of params.yaml")
    device = pick_device(rotate.device)
    model = build(rotate, facts.entities, facts.relations, seed).to(device)
    kinds = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}
    optimizer = kinds[rotate.optimizer](model.parameters(), lr=rotate.learning_rate)
    progress, best = Progress(), vectors(model)
    if checkpoint is not None and checkpoint.is_file():
        progress, best = load(checkpoint, model, optimizer, device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(rotate.precision)
    try:
        while (
            progress.epoch < rotate.epochs
            and progress.waited < rotate.patience
            and progress.seconds < seconds
        ):
            run_epoch(rotate, model, optimizer, facts, seed, progress, seconds)
            last = progress.epoch == rotate.epochs or progress.seconds >= seconds
            if last or progress.epoch % rotate.evaluate_every == 0:
                best = choose(rotate, model, facts, progress, best)
                if checkpoint is not None:
                    save(checkpoint, model, optimizer, progress, best)
            report(progress)
    finally:
        torch.set_float32_matmul_precision(before)
    entities, relations = (tensor.cpu() for tensor in best)
    return Trained(entities, relations, progress)


def run_epoch(
    rotate: Rotate,
    model: ERModel,
    optimizer: torch.optim.Optimizer,
    facts: Facts,
    seed: int,
    progress: Progress,
    seconds: float,
) -> None:
    """Pass once over the facts in a random order, or stop on the way when `seconds` are over."""
    started, device = time.perf_counter(), model.device
    mixed = seed * 1_000_003 + progress.epoch
    order = torch.randperm(len(facts.train), generator=torch.Generator().manual_seed(mixed))
    generator = torch.Generator(device).manual_seed(mixed)
    triples = torch.from_numpy(facts.train)[order].to(device)
    share = min(1.0, max(progress.epoch / max(1, rotate.epochs - 1), progress.seconds / seconds))
    for group in optimizer.param_groups:
        group["lr"] = rotate.learning_rate + share * (rotate.final_learning_rate - rotate.learning_rate)
    total = torch.zeros((), device=device)
    model.train()
    seen = 0
    for batch in torch.split(triples, rotate.batch_size):
        optimizer.zero_grad(set_to_none=True)
        loss = batch_loss(rotate, model, batch, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.post_parameter_update()
        total += loss.detach() * len(batch)
        seen += len(batch)
        if progress.seconds + time.perf_counter() - started >= seconds:
            break
    mean = float(total) / seen
    if not math.isfinite(mean):
        raise UserError(
            f"RotatE's loss is {mean} in epoch {progress.epoch + 1}; lower rotate.learning_rate "
            f"(now {rotate.learning_rate}) or rotate.initial_scale (now {rotate.initial_scale})"
        )
    progress.epoch += 1
    progress.losses.append(mean)
    progress.seconds += time.perf_counter() - started


def vectors(model: ERModel) -> tuple[Tensor, Tensor]:
    """Return copies of the entity and relation vectors."""
    with torch.no_grad():
        entities, relations = model.entity_representations[0](None), model.relation_representations[0](None)
        return entities.detach().clone(), relations.detach().clone()


def choose(
    rotate: Rotate, model: ERModel, facts: Facts, progress: Progress, best: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Evaluate on the validation facts, note it in `progress`, and return the better vectors."""
    now = vectors(model)
    mrr = rank(rotate, now, facts, facts.valid)["filtered"]["mrr"] if len(facts.valid) else math.nan
    if len(facts.valid):
        progress.validation.append((progress.epoch, mrr))
        logger.info("epoch %d: validation MRR %.4f", progress.epoch, mrr)
    if mrr <= progress.best_mrr:
        progress.waited += 1
        return best
    progress.best_epoch, progress.waited = progress.epoch, 0
    progress.best_mrr = mrr if len(facts.valid) else progress.best_mrr
    return now


def rank(
    rotate: Rotate,
    trained: tuple[Tensor, Tensor],
    facts: Facts,
    asked: Ids,
    report: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Return the figures of both evaluators on `asked`; all of `facts` are known."""
    known = torch.cat([torch.from_numpy(part) for part in (facts.train, facts.valid, facts.test)]).numpy()
    with torch.no_grad():
        return evaluate(
            *trained,
            asked,
            facts.train,
            known,
            rotate.norm,
            rotate.inverse_relations,
            rotate.evaluation_batch_size,
            report,
        )
