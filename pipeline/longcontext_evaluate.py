"""Asks what stood in long texts, through DSRAM and the baselines: pass keys, questions, news, found passages.

Writes longcontext.json: how well each context answers, in what time and in how many bytes.
"""

import json
import sys
from pathlib import Path

from pipeline.config import Paths, stage
from pipeline.evaluation.longtasks import everything
from pipeline.evaluation.reading import Figures
from pipeline.longcontext.opening import Contexts
from pipeline.longcontext.running import Runner
from pipeline.longcontext.settings import LongContext
from pipeline.longcontext.tasks import LongTasks
from pipeline.memory.disk import write_whole
from pipeline.trainer import Trainer
from pipeline.weights import LanguageModel, load_language_model


@stage
def longcontext_evaluate(
    longcontext: LongContext,
    longtasks: LongTasks,
    lm: LanguageModel,
    trainer: Trainer,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Run every task, and print who found the pass keys.

    Raises:
        UserError: a task's files are missing, or nothing was trained.
    """

    def tell(told: Figures) -> None:
        write_whole(out / "longcontext.json", json.dumps(told, indent=1).encode() + b"\n")

    model, tokenizer = load_language_model(lm, trainer.device)
    runner = Runner(model, longtasks.chunk)
    contexts = Contexts(runner, longcontext, longtasks.baselines, paths.adapters / "longcontext")
    told = everything(runner, tokenizer, contexts, longtasks, seed, tell)
    sys.stdout.write("\n".join(passkey_lines(told)) + "\n")


def passkey_lines(told: Figures) -> list[str]:
    """Return a line for each row of the passkey task."""
    return [
        f"passkey, {filler}, {int(length):,} tokens, {entry}: {_said(row)}"
        for filler, lengths in told["passkey"].items()
        for length, rows in lengths.items()
        for entry, row in rows.items()
    ]


def _said(row: Figures) -> str:
    if "reason" in row:
        return str(row["reason"])
    mebibytes = row["device bytes a text"] / 2**20
    found = f"{row['em']['mean']:.0%} of {row['n']} found"
    return f"{found}, {row['ms a token']:.1f} ms a step, {mebibytes:.1f} MiB a text on the device"


if __name__ == "__main__":
    longcontext_evaluate()
