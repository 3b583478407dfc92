"""Stage `embed`: RotatE on the facts of the base snapshot, a vector for each row of the tables."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.kg.facts import Graph, Ids
from pipeline.kg.linkprediction import EVALUATORS
from pipeline.kg.rotate import Rotate, real_then_imaginary
from pipeline.kg.rotate_training import Trained, fingerprint, rank, split, train

logger = logging.getLogger(__name__)


@stage
def embed(rotate: Rotate, paths: Paths, seed: int, out: Path) -> None:
    """Write `rotate.safetensors` (`entities` [E, 2d] and `relations` [R, 2d], float32) and `embed.json`.

    Entities and relations that no fact of the base snapshot holds get zero vectors, which are counted. With
    `rotate.inverse_relations`, `relations` are the rotations from head to tail.
    """
    started = perf_counter()
    graph = Graph.read(paths.tables)
    facts, entities, relations = split(rotate, graph, seed)
    checkpoint = paths.rotate.parent / "checkpoints" / f"embed-{fingerprint(rotate, facts, seed)}.pt"
    with tqdm(total=rotate.epochs, desc="RotatE", unit="epoch", disable=None) as bar:

        def show(epoch: int, loss: float, mrr: float) -> None:
            bar.update(epoch - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", mrr=f"{mrr:.3f}")

        trained = train(
            rotate,
            facts,
            seed,
            checkpoint,
            report=lambda at: show(at.epoch, at.losses[-1], max(at.best_mrr, 0)),
        )
    write(out, trained, graph, entities, relations)
    figures = {
        name: rank(rotate, (trained.entities, trained.relations), facts, asked)
        for name, asked in (("validation", facts.valid), ("test", facts.test))
        if len(asked)
    }
    summary = {
        **figures,
        "evaluators": EVALUATORS,
        "facts": {"train": len(facts.train), "validation": len(facts.valid), "test": len(facts.test)},
        "entities": {"trained": len(entities), "zero": graph.entities.num_rows - len(entities)},
        "relations": {"trained": len(relations), "zero": graph.relations.num_rows - len(relations)},
        "training": asdict(trained.progress) | {"seconds": round(trained.progress.seconds, 3)},
        "configuration": asdict(rotate),
        "seed": seed,
        "seconds": round(perf_counter() - started, 3),
    }
    (out / "embed.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    if "test" in figures:
        logger.info("test MRR %.3f (%s)", figures["test"]["filtered"]["mrr"], EVALUATORS["filtered"])


def write(out: Path, trained: Trained, graph: Graph, entities: Ids, relations: Ids) -> None:
    """Write the vectors of all rows of the tables, zero where `entities` or `relations` lacks the row.

    Raises:
        UserError: a vector isn't finite.
    """
    dimension = trained.entities.shape[1]
    tables = {
        "entities": (graph.entities.num_rows, entities, trained.entities),
        "relations": (graph.relations.num_rows, relations, trained.relations[: len(relations)]),
    }
    tensors = {}
    for name, (rows, ids, values) in tables.items():
        if not torch.isfinite(torch.view_as_real(values)).all():
            raise UserError(f"RotatE's vectors of {name} are not finite; lower rotate.learning_rate")
        tensors[name] = torch.zeros(rows, 2 * dimension)
        tensors[name][torch.from_numpy(ids)] = real_then_imaginary(values)
    save_file(tensors, out / "rotate.safetensors")


if __name__ == "__main__":
    embed()
