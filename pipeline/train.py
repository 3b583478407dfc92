"""Stage `train`: fits the adapter of one method on the frozen language model."""

from pathlib import Path

from pipeline.config import Paths, stage
from pipeline.evaluation.training import Trained, fitted, settings_of
from pipeline.memory.settings import Memory
from pipeline.model.batches import Train
from pipeline.tracking import Logger, run
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel


@stage
def train(
    method: Trained,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    train: Train,
    trainer: Trainer,
    logger: Logger,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Fit the retrieval and the reader of `method`, and write its adapter, curves and figures."""
    train = settings_of(method, train)
    sections = {
        "method": method,
        "memory": memory,
        "lm": lm,
        "encoder": encoder,
        "train": train,
        "seed": seed,
    }
    with run(logger, out, sections) as tracked:
        fitted(method, memory, lm, encoder, train, trainer, paths, seed, out, tracked)


if __name__ == "__main__":
    train()
