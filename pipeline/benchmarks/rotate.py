"""RotatE on CoDEx-M beside published figures, and beside PyKEEN's own RotatE at an equal budget.

    python -m pipeline.benchmarks.rotate --data data/external/codex/codex-m --out FILE --minutes 5

Every file `conf/rotate/codex-m*.yaml` is a setting. All are tried for the same short time; the one with
the best MRR on the published validation split is trained again for longer and asked the test split, once.
The other runs have its number of dimensions, and the same evaluator ranks them all:
- `pykeen_defaults`: PyKEEN's RotatE, loss, negatives, optimizer and sLCWA loop with nothing set, batches of
  256, for the same wall-clock time;
- `pykeen_nssa`: the same with NSSALoss at its defaults and 128 negatives a fact;
- `equal_epochs`: our setting for as many epochs as the better of those two reached.
A run's time is that of its training; choosing between epochs is paid for on top.
"""

import argparse
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import yaml
from pykeen.losses import NSSALoss
from pykeen.models import RotatE
from pykeen.training import SLCWATrainingLoop, TrainingCallback
from pykeen.triples import CoreTriplesFactory

from pipeline.config import CONF, ConfigError, UserError, section
from pipeline.evaluation.environment import provenance
from pipeline.kg.facts import Ids
from pipeline.kg.linkprediction import EVALUATORS
from pipeline.kg.rotate import Rotate
from pipeline.kg.rotate_checkpoint import Progress
from pipeline.kg.rotate_training import Facts, pick_device, rank, train

logger = logging.getLogger(__name__)

PUBLISHED = {"ComplEx": 0.337, "TuckER": 0.328, "ConvE": 0.318, "RESCAL": 0.317, "TransE": 0.303}
"""Test MRR on CoDEx-M, Safavi and Koutra 2020 (arXiv 2009.07810)."""

PARTS = 5
"""Equal shares of the time: all trials together, our run, two runs of PyKEEN, our run at equal epochs."""

PYKEEN_BATCH = 256
NSSA_NEGATIVES = 128


def read(folder: Path) -> Facts:
    """Return the published splits of a CoDEx folder over dense ids, numbered in sorted order.

    Raises:
        UserError: a file is missing, a line hasn't three columns, or a split holds something that training
            facts lack.
    """
    rows = {split: list(lines(folder / f"{split}.txt")) for split in ("train", "valid", "test")}
    entities = {
        key: row for row, key in enumerate(sorted({end for h, _, t in rows["train"] for end in (h, t)}))
    }
    relations = {key: row for row, key in enumerate(sorted({r for _, r, _ in rows["train"]}))}
    parts: dict[str, Ids] = {}
    for split, triples in rows.items():
        try:
            ids = [(entities[h], relations[r], entities[t]) for h, r, t in triples]
        except KeyError as error:
            text = (
                f"{folder / f'{split}.txt'}: {error} is in no training fact; take an unedited copy of CoDEx"
            )
            raise UserError(text) from error
        parts[split] = np.array(ids, dtype=np.int64).reshape(-1, 3)
    return Facts(**parts, entities=len(entities), relations=len(relations))


def lines(path: Path) -> Iterable[list[str]]:
    """Yield head, relation and tail of each line of `path`."""
    if not path.is_file():
        raise UserError(
            f"{path}: not found; --data names a folder with train.txt, valid.txt and test.txt of CoDEx"
        )
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) != 3:
            raise UserError(f"{path}:{number}: must hold head, relation and tail between tabs, not {line!r}")
        yield columns


def settings(names: list[str]) -> dict[str, Rotate]:
    """Return the settings of `conf/rotate` with these names, or all named codex-m*."""
    files = [CONF / "rotate" / f"{name}.yaml" for name in names] or sorted(
        (CONF / "rotate").glob("codex-m*.yaml")
    )
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: not found; --settings takes names of files of conf/rotate")
    return {file.stem: section(Rotate, yaml.safe_load(file.read_text("utf-8")), "rotate") for file in files}


def ours(rotate: Rotate, facts: Facts, seed: int, seconds: float, split: str) -> dict[str, Any]:
    """Train `rotate` for at most `seconds` and return what it reached on `split`."""
    reported = perf_counter()

    def report(progress: Progress) -> None:
        nonlocal reported
        if perf_counter() - reported > 5:
            reported = perf_counter()
            logger.info(
                "  epoch %d, %.0f s, loss %.3f", progress.epoch, progress.seconds, progress.losses[-1]
            )

    trained = train(rotate, facts, seed, seconds=seconds, report=report)
    device, progress = pick_device(rotate.device), trained.progress
    tensors = trained.entities.to(device), trained.relations.to(device)
    found = rank(rotate, tensors, facts, facts.valid if split == "valid" else facts.test)
    return {
        split: found,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "training_seconds": round(progress.seconds, 2),
        "validation_mrr": progress.best_mrr,
        "validation_by_epoch": progress.validation,
    }


class Deadline(TrainingCallback):  # type: ignore[misc]
    """Stops PyKEEN's loop after the batch in which the time is over; counts the facts seen."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.until = perf_counter() + seconds
        self.facts = 0

    def on_batch(self, epoch: int, batch: Any, batch_loss: float, **kwargs: Any) -> None:
        """Count the facts of a batch; end training by an exception, the loop's only exit within an epoch."""
        self.facts += len(batch["positives"])
        if perf_counter() > self.until:
            raise OutOfTimeError


class OutOfTimeError(Exception):
    """The time of a run is over."""


def pykeen(rotate: Rotate, facts: Facts, seed: int, seconds: float, nssa: bool) -> dict[str, Any]:
    """Train PyKEEN's RotatE by PyKEEN's loop for `seconds` and return what it reached on test."""
    factory = CoreTriplesFactory(
        torch.from_numpy(facts.train), num_entities=facts.entities, num_relations=facts.relations
    )
    chosen = {"loss": NSSALoss()} if nssa else {}
    model = RotatE(triples_factory=factory, embedding_dim=rotate.dimension, random_seed=seed, **chosen)
    model = model.to(pick_device(rotate.device))
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=factory,
        optimizer=torch.optim.Adam(model.get_grad_params()),
        negative_sampler_kwargs={"num_negs_per_pos": NSSA_NEGATIVES} if nssa else None,
        # Its search for a batch size that fits would be paid from the time of the run.
        automatic_memory_optimization=False,
    )
    started, deadline = perf_counter(), Deadline(seconds)
    with warnings.catch_warnings(), suppress(OutOfTimeError):
        warnings.filterwarnings("ignore", "Training instances are always shuffled", DeprecationWarning)
        loop.train(
            factory,
            num_epochs=10**6,
            batch_size=PYKEEN_BATCH,
            use_tqdm=False,
            callbacks=deadline,
            pin_memory=model.device.type == "cuda",
        )
    spent = perf_counter() - started
    with torch.no_grad():
        tensors = model.entity_representations[0](None), model.relation_representations[0](None)
    plain = replace(rotate, norm="l2", inverse_relations=False)
    return {
        "test": rank(plain, tensors, facts, facts.test),
        "epochs": round(deadline.facts / len(facts.train), 2),
        "training_seconds": round(spent, 2),
        "loss": type(model.loss).__name__,
    }


def compare(choices: dict[str, Rotate], facts: Facts, seed: int, minutes: float) -> dict[str, Any]:
    """Run all runs in `minutes` of training and return their figures."""
    part = minutes * 60 / PARTS
    trials = {}
    for name, rotate in choices.items():
        logger.info("trial of %s", name)
        trials[name] = ours(rotate, facts, seed, part / len(choices), "valid")
        logger.info("%s: validation MRR %.4f", name, trials[name]["validation_mrr"])
    chosen = max(trials, key=lambda name: trials[name]["validation_mrr"])
    rotate = choices[chosen]
    logger.info("training %s", chosen)
    runs = {"ours": ours(rotate, facts, seed, part, "test")}
    for name, nssa in (("pykeen_defaults", False), ("pykeen_nssa", True)):
        logger.info("training %s", name)
        runs[name] = pykeen(rotate, facts, seed, runs["ours"]["training_seconds"], nssa)
        logger.info("%s: test MRR %.4f", name, runs[name]["test"]["filtered"]["mrr"])
    best = max(("pykeen_defaults", "pykeen_nssa"), key=lambda name: runs[name]["test"]["filtered"]["mrr"])
    same = max(1, math.floor(runs[best]["epochs"]))
    logger.info("training %s for the %d epochs of %s", chosen, same, best)
    runs["equal_epochs"] = ours(replace(rotate, epochs=same), facts, seed, part, "test") | {"as": best}
    for name, run in runs.items():
        logger.info("%s: test MRR %.4f after %s epochs", name, run["test"]["filtered"]["mrr"], run["epochs"])
    return {
        "published_test_mrr": PUBLISHED,
        "evaluators": EVALUATORS,
        "trials": trials,
        "setting": chosen,
        "configuration": asdict(rotate),
        "runs": runs,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description="RotatE on CoDEx-M at a budget of minutes.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of train.txt, valid.txt and test.txt"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, over all runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings", nargs="*", default=[], help="files of conf/rotate; all codex-m* by default"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("pykeen").setLevel(logging.WARNING)
    try:
        choices = settings(given.settings)
        found = compare(choices, read(given.data), given.seed, given.minutes)
    except (UserError, ConfigError) as error:
        sys.exit(f"error: {error}")
    command = " ".join(["python -m pipeline.benchmarks.rotate", *(arguments or sys.argv[1:])])
    summary = provenance(command, [given.seed]) | {"figures": found}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
