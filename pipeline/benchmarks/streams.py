"""What is left of a method after many edits: `python -m pipeline.benchmark streams`.

Every entry of conf/streams follows the same stream of changed slots: memories by the changes of their facts,
editors by those of their weights. To streams.json go efficacy, generality, portability, retention, locality
and costs after each step, with intervals over questions; to streams.parquet every answer's worth; to
streams.png their course.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from pipeline.config import Paths, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.stepwise import followed, summed
from pipeline.evaluation.streams import Streams, stream
from pipeline.evaluation.variants import answerer
from pipeline.kg.facts import Graph
from pipeline.memory.settings import Memory
from pipeline.reporting.figures import STYLE, style_of
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

ROWS = ("seed", "step", "edits", "kind", "question", "since", "em", "stale", "same", "seconds")
"""Columns of streams.parquet beside the entry and the question's text: those of `followed`."""
PANELS = ("efficacy", "generality", "retention", "locality")


@stage
def streams(
    streams: Streams,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Lead every entry through the stream of every seed."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    told = provenance(overridden("python -m pipeline.benchmark streams"), streams.seeds)
    told["settings"] = {"streams": asdict(streams), "memory": asdict(memory)}
    given = {seed: stream(graph, streams, seed) for seed in streams.seeds}
    lengths = given[streams.seeds[0]].lengths
    figures: dict[str, list[dict[str, Any]]] = {}
    listed: list[dict[str, Any]] = []
    for entry in streams.entries:
        rows: list[dict[str, Any]] = []
        for seed, one in given.items():
            method = answerer(entry, memory, lm, encoder, one.graph, paths, trainer.device, seed)
            rows += [row | {"seed": seed} for row in followed(method, one, streams)]
        for row in rows:
            text = given[row["seed"]].asked[row["question"]].text if "question" in row else None
            listed.append({name: row.get(name) for name in ROWS} | {"entry": entry, "text": text})
        figures[entry] = summed(rows, lengths, streams.bootstrap_samples)
        content = json.dumps(told | {"figures": figures}, indent=1)
        (out / "streams.json").write_text(content + "\n", encoding="utf-8")
        pq.write_table(pa.Table.from_pylist(listed), out / "streams.parquet", compression="zstd")
    drawn(figures).savefig(out / "streams.png", dpi=150)


def drawn(figures: dict[str, list[dict[str, Any]]]) -> Figure:
    """Return each figure over the number of edits, a line an entry."""
    styles = style_of(list(figures))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(PANELS), 3.2), layout="constrained")
        for panel, name in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
            for entry, steps in figures.items():
                shown = [step for step in steps if step["edits"] and step[name]]
                colour, marker = styles[entry]
                panel.errorbar(
                    [step["edits"] for step in shown],
                    [100 * step[name]["mean"] for step in shown],
                    _bars([step[name] for step in shown]),
                    color=colour,
                    marker=marker,
                    capsize=3,
                    label=entry,
                )
            panel.set(title=name, xlabel="slots changed", xscale="log", ylim=(-3, 103))
        figure.axes[0].set_ylabel("percent")
        figure.axes[-1].legend()
    return figure


def _bars(shares: Sequence[dict[str, float]]) -> list[list[float]]:
    """Return how far each interval reaches below and above its mean, in percent."""
    below = [100 * (share["mean"] - share["low"]) for share in shares]
    return [below, [100 * (share["high"] - share["mean"]) for share in shares]]


if __name__ == "__main__":
    streams()
