"""Measures an epoch of RotatE on a large graph: `python -m pipeline.benchmark rotate_scale`.

A graph of Wikidata5M's size is made up. Our training, on the rows of a batch alone (rotate=wikidata5m),
passes over all of it; its first epoch warms up. PyKEEN's own RotatE of the same dimension is timed for some
steps of its own loop, with its loss and its negative sampler, at each of a few batch sizes; the time of a
whole epoch is extrapolated from a step's, and labelled so. Figures go to rotate_scale.json as they come.
"""

import gc
import json
import logging
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pykeen.losses import NSSALoss
from pykeen.models import RotatE
from pykeen.sampling import BasicNegativeSampler
from pykeen.training import SLCWATrainingLoop, TrainingCallback
from pykeen.triples import CoreTriplesFactory

from pipeline.benchmarks.made_up import MadeUp
from pipeline.config import UserError, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.kg.facts import Ids
from pipeline.kg.rotate import Rotate
from pipeline.kg.rotate_checkpoint import Progress
from pipeline.kg.rotate_training import Facts, pick_device, train

logger = logging.getLogger(__name__)

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class RotateScale:
    """How large the graph is, and what is timed on it."""

    facts: int
    """Facts that are drawn; some come twice."""
    entities: int
    """At most as many as facts."""
    relations: int
    """How many of them."""
    exponent: float
    """Of Zipf's law, which heads, tails and relations follow: from 0 to below 1."""
    seed: int
    """Of the graph, the first weights, the order of the facts and the negatives."""
    epochs: int
    """Whole epochs of ours; the first warms up, so at least 2."""
    stock_negatives: list[int]
    """Negatives a fact of PyKEEN's sampler, half of them heads and half tails; ours has as many a side."""
    stock_batch_sizes: list[int]
    """Facts of a batch of PyKEEN's loop; the best counts."""
    stock_warmup: int
    """Steps of PyKEEN's loop before those that are timed, at least 1."""
    stock_steps: int
    """Steps of PyKEEN's loop that are timed, at each batch size."""

    def __post_init__(self) -> None:
        for name in ("facts", "entities", "relations", "stock_warmup", "stock_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"rotate_scale.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("stock_negatives", "stock_batch_sizes"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"rotate_scale.{name} must hold numbers of at least 1: {getattr(self, name)}"
                )
        if self.epochs < 2:
            raise ValueError(
                f"rotate_scale.epochs must be at least 2, the first to warm up, not {self.epochs}"
            )
        if self.entities > self.facts:
            raise ValueError(
                f"rotate_scale.entities must be at most rotate_scale.facts, {self.facts}, not {self.entities}"
            )
        if not 0 <= self.exponent < 1:
            raise ValueError(f"rotate_scale.exponent must be from 0 to below 1, not {self.exponent}")


@stage
def rotate_scale(rotate: Rotate, rotate_scale: RotateScale, out: Path) -> None:
    """Time ours, then PyKEEN's own.

    Raises:
        UserError: the chosen setting of RotatE doesn't change rows alone.
    """
    if rotate.updates != "rows":
        raise UserError(f"rotate.updates is {rotate.updates}, but rows are measured; set rotate=wikidata5m")
    told = provenance(overridden("python -m pipeline.benchmark rotate_scale"), [rotate_scale.seed])
    told["settings"] = asdict(rotate_scale) | {"rotate": asdict(rotate)}
    figures: dict[str, Any] = {}

    def tell(name: str, found: Any) -> None:
        figures[name] = found
        logger.info("%s: %s", name, found[-1] if isinstance(found, list) else found)
        whole = json.dumps(told | {"figures": figures}, indent=1)
        (out / "rotate_scale.json").write_text(whole + "\n", encoding="utf-8")

    start = time.perf_counter()
    graph = MadeUp(
        rotate_scale.facts,
        rotate_scale.entities,
        rotate_scale.relations,
        rotate_scale.exponent,
        rotate_scale.seed,
    )
    triples = np.concatenate(list(graph.blocks()))
    tell("seconds to make the graph up", round(time.perf_counter() - start, 1))
    facts = Facts(triples, triples[:0], triples[:0], rotate_scale.entities, rotate_scale.relations)
    epoch = ours(rotate, rotate_scale, facts)
    tell("ours", epoch)
    # PyKEEN's model needs the memory that ours had.
    gc.collect()
    torch.cuda.empty_cache()
    runs = []
    model = stock_model(rotate, rotate_scale, facts)
    for negatives in rotate_scale.stock_negatives:
        for batch_size in rotate_scale.stock_batch_sizes:
            runs.append(stock(rotate_scale, model, facts, negatives, batch_size))
            tell("stock", runs)
    tell("ratio", ratios(epoch, runs))


def ours(rotate: Rotate, settings: RotateScale, facts: Facts) -> dict[str, Any]:
    """Return the seconds of whole epochs of our training, the losses, and the memory that the device held."""
    device = pick_device(rotate.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    ends: list[float] = []

    def report(progress: Progress) -> None:
        ends.append(progress.seconds)
        logger.info("epoch %d: %.2f s in all, loss %.4f", progress.epoch, ends[-1], progress.losses[-1])

    # Nothing is held out, so nothing is evaluated, and no epoch ends early.
    rotate = replace(rotate, epochs=settings.epochs, evaluate_every=settings.epochs)
    start = time.perf_counter()
    progress = train(rotate, facts, settings.seed, report=report).progress
    whole = time.perf_counter() - start
    first, *others = np.diff([0.0, *ends]).tolist()
    return {
        "seconds an epoch": round(float(np.median(others)), 3),
        "seconds of each epoch after the first": [round(value, 3) for value in others],
        "seconds of the first epoch, a warm-up": round(first, 3),
        "seconds of the whole call, first weights and copies included": round(whole, 1),
        "steps an epoch": -(-len(facts.train) // rotate.batch_size),
        "facts a second": round(len(facts.train) / float(np.median(others))),
        "mean loss of each epoch": [round(value, 5) for value in progress.losses],
        "loss fell": progress.losses[-1] < progress.losses[0],
        "negatives of a fact": 2 * rotate.negatives,
        **peak(device),
    }


def peak(device: torch.device) -> dict[str, float]:
    """Return the most memory of the device that was in use since it was last reset, if it is a GPU."""
    if device.type != "cuda":
        return {}
    return {"peak GPU memory GiB": round(torch.cuda.max_memory_allocated(device) / GIB, 2)}


def stock_model(rotate: Rotate, settings: RotateScale, facts: Facts) -> RotatE:
    """Return PyKEEN's own RotatE at the same dimension with NSSALoss at its defaults."""
    device = pick_device(rotate.device)
    shape = factory(facts, facts.train[:1])
    # Made where it stays: billions of first weights take long on a CPU.
    with device:
        return RotatE(
            triples_factory=shape,
            embedding_dim=rotate.dimension,
            loss=NSSALoss(),
            random_seed=settings.seed,
        ).to(device)


def factory(facts: Facts, some: Ids) -> CoreTriplesFactory:
    """Return `some` of the facts as PyKEEN holds them, among all entities and relations."""
    return CoreTriplesFactory(
        torch.from_numpy(some), num_entities=facts.entities, num_relations=facts.relations
    )


class Clock(TrainingCallback):  # type: ignore[misc]
    """Notes the time whenever a batch's gradients are there, which is once a step."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_batch(self, epoch: int, batch: Any, batch_loss: float, **kwargs: Any) -> None:
        """Note the time and the loss, once the device is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.losses.append(batch_loss)


def stock(
    settings: RotateScale, model: RotatE, facts: Facts, negatives: int, batch_size: int
) -> dict[str, Any]:
    """Time steps of PyKEEN's loop, with its Adam at its defaults, on so many facts as they take.

    Its loop shuffles all facts before the first step of an epoch; on some of them that time isn't counted.
    """
    told: dict[str, Any] = {"negatives of a fact": negatives, "batch size": batch_size}
    steps = settings.stock_warmup + settings.stock_steps
    random = np.random.default_rng([settings.seed, 1])
    rows = random.integers(0, len(facts.train), steps * batch_size)
    some = factory(facts, facts.train[rows])
    device, clock = model.device, Clock()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        run_loop(model, some, negatives, batch_size, clock)
    except RuntimeError as error:
        # Too little memory, or an index too large for a kernel: what the other runs give still counts.
        told["failed"] = str(error).splitlines()[0]
    # The loop, its optimizer and its gradients hold several times the weights, and refer to one another.
    model.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        told |= peak(device)
        torch.cuda.empty_cache()
    if "failed" in told:
        return told
    took = np.diff(clock.times[settings.stock_warmup - 1 :])
    step, whole = float(np.median(took)), -(-len(facts.train) // batch_size)
    return told | {
        "seconds a step": round(step, 5),
        "seconds of each step": [round(value, 5) for value in took.tolist()],
        "of them its sampler takes on the CPU": round(sampling(some, negatives, batch_size), 5),
        "steps an epoch": whole,
        "seconds an epoch, extrapolated from these steps": round(step * whole, 1),
        "loss of each step": [round(value, 4) for value in clock.losses],
    }


def run_loop(model: RotatE, some: CoreTriplesFactory, negatives: int, batch_size: int, clock: Clock) -> None:
    """Pass once over `some` facts by PyKEEN's own loop."""
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=some,
        optimizer=torch.optim.Adam(model.get_grad_params()),
        negative_sampler="basic",
        negative_sampler_kwargs={"num_negs_per_pos": negatives},
        # Its search for a batch size that fits would take time and isn't needed.
        automatic_memory_optimization=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Training instances are always shuffled", DeprecationWarning)
        loop.train(
            some,
            num_epochs=1,
            batch_size=batch_size,
            use_tqdm=False,
            callbacks=clock,
            pin_memory=model.device.type == "cuda",
        )


def sampling(some: CoreTriplesFactory, negatives: int, batch_size: int) -> float:
    """Return the median seconds in which PyKEEN draws the negatives of a batch."""
    sampler = BasicNegativeSampler(mapped_triples=some.mapped_triples, num_negs_per_pos=negatives)
    took = []
    for batch in some.mapped_triples.split(batch_size)[:3]:
        start = time.perf_counter()
        sampler.sample(batch)
        took.append(time.perf_counter() - start)
    return float(np.median(took))


def ratios(epoch: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return an epoch of PyKEEN's at its best batch size over one of ours, for each number of negatives."""
    told: dict[str, float] = {}
    for run in runs:
        seconds = run.get("seconds an epoch, extrapolated from these steps")
        if seconds is not None:
            name = f"PyKEEN's best batch size, {run['negatives of a fact']} negatives a fact"
            ratio = round(seconds / epoch["seconds an epoch"], 1)
            told[name] = min(ratio, told.get(name, ratio))
    return told


if __name__ == "__main__":
    rotate_scale()
