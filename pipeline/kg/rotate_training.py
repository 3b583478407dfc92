"""Training RotatE: PyKEEN's model and self-adversarial loss in a loop that can be killed and resumed.

PyKEEN 1.11's own loop draws negatives on the CPU, shares none, can't score all entities by a matrix
product and changes all entities in each step, which decides how far a minute gets; so the loop is ours.
Random numbers of an epoch depend on the seed and the epoch alone, so a resumed run repeats the one that was
never killed.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Int
from pykeen.models import ERModel
from torch import Tensor

from pipeline.config import UserError
from pipeline.kg.facts import Ids
from pipeline.kg.linkprediction import evaluate
from pipeline.kg.rotate import Rotate, build
from pipeline.kg.rotate_checkpoint import Progress, load, save
from pipeline.kg.rotate_steps import Steps, steps_of

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


def batches(triples: Int[Tensor, "M 3"], size: int, seed: int, epoch: int) -> Iterator[Int[Tensor, "B 3"]]:
    """Yield all facts in a random order of that epoch's own, drawn and gathered where they lie."""
    device = triples.device
    generator = torch.Generator(device).manual_seed(mixed(seed, epoch))
    order = torch.randperm(len(triples), generator=generator, device=device)
    for part in torch.split(order, size):
        yield triples[part]


def mixed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch."""
    return seed * 1_000_003 + epoch


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
    model = build(rotate, facts.entities, facts.relations, seed, device)
    steps = steps_of(rotate, model)
    triples = torch.from_numpy(facts.train).to(device)
    progress, best = Progress(), tuple(tensor.clone() for tensor in vectors(model))
    if checkpoint is not None and checkpoint.is_file():
        progress, best = load(checkpoint, model, steps, device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(rotate.precision)
    try:
        while (
            progress.epoch < rotate.epochs
            and progress.waited < rotate.patience
            and progress.seconds < seconds
        ):
            run_epoch(rotate, steps, triples, seed, progress, seconds)
            last = progress.epoch == rotate.epochs or progress.seconds >= seconds
            if last or progress.epoch % rotate.evaluate_every == 0:
                choose(rotate, model, facts, progress, best)
                if checkpoint is not None:
                    save(checkpoint, model, steps, progress, best)
            report(progress)
    finally:
        torch.set_float32_matmul_precision(before)
    entities, relations = (tensor.cpu() for tensor in best)
    return Trained(entities, relations, progress)


def run_epoch(
    rotate: Rotate,
    steps: Steps,
    triples: Int[Tensor, "M 3"],
    seed: int,
    progress: Progress,
    seconds: float,
) -> None:
    """Pass once over the facts in a random order, or stop on the way when `seconds` are over."""
    started, device = time.perf_counter(), triples.device
    generator = torch.Generator(device).manual_seed(mixed(seed, progress.epoch))
    share = min(1.0, max(progress.epoch / max(1, rotate.epochs - 1), progress.seconds / seconds))
    steps.set_rate(rotate.learning_rate + share * (rotate.final_learning_rate - rotate.learning_rate))
    total = torch.zeros((), device=device)
    seen = 0
    for batch in batches(triples, rotate.batch_size, seed, progress.epoch):
        total += steps.step(batch, generator) * len(batch)
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


def vectors(model: ERModel) -> tuple[Complex[Tensor, "E d"], Complex[Tensor, "R d"]]:
    """Return the entity and relation vectors as they stand: not copied, and changed by the next step."""
    with torch.no_grad():
        entities, relations = model.entity_representations[0](None), model.relation_representations[0](None)
        return entities.detach(), relations.detach()


def choose(
    rotate: Rotate, model: ERModel, facts: Facts, progress: Progress, best: tuple[Tensor, ...]
) -> None:
    """Evaluate on the validation facts, note it in `progress`, and write better vectors over `best`."""
    now = vectors(model)
    mrr = rank(rotate, now, facts, facts.valid)["filtered"]["mrr"] if len(facts.valid) else math.nan
    if len(facts.valid):
        progress.validation.append((progress.epoch, mrr))
        logger.info("epoch %d: validation MRR %.4f", progress.epoch, mrr)
    if mrr <= progress.best_mrr:
        progress.waited += 1
        return
    progress.best_epoch, progress.waited = progress.epoch, 0
    progress.best_mrr = mrr if len(facts.valid) else progress.best_mrr
    for kept, better in zip(best, now, strict=True):
        kept.copy_(better)


def rank(
    rotate: Rotate,
    trained: tuple[Tensor, Tensor],
    facts: Facts,
    asked: Ids,
    report: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Return the figures of both evaluators on `asked`; all of `facts` are known."""
    known = np.concatenate([facts.train, facts.valid, facts.test])
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
