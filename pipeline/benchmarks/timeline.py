"""Whether a method keeps up with a world that changes: `python -m pipeline.benchmark timeline`.

Every entry of conf/timeline starts on the base snapshot of one data set and follows its snapshots in order.
In each it is asked what just changed, what just came in, what changed earlier, and what never did, over one
fact and over two (`pipeline.evaluation.timeline`). To timeline.json go EM and F1 with intervals, paired tests
between the first entry and each other one, and costs; to timeline.parquet every answer; to timeline.png EM by
snapshot.

Someone who wants to know how a method does on real dates runs, from a fresh checkout:

    python -m pipeline.benchmark timeline data=pat paths.adapters=models/pretrained
    python -m pipeline.benchmark timeline data=templama paths.adapters=models/pretrained timeline.questions=0
    python -m pipeline.benchmark timeline data=temporalwiki-monthly timeline.snapshots=1
    python -m pipeline.benchmark timeline data=world 'timeline.entries=[ours,rag,memit]' timeline.slots=500

Tables and base memory of a data set that the command names are made the first time; without `data=` those of
`dvc repro` are taken. Wordings are the data set's own (PAT-Questions, TempLAMA), else templates.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from pipeline.benchmarks.made import made
from pipeline.config import Paths, stage
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.timeline import Timeline, planned
from pipeline.evaluation.variants import answerer
from pipeline.evaluation.walking import Row, compared, summed, walked
from pipeline.evaluation.ways import HOPS
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.settings import Memory
from pipeline.reporting.figures import STYLE, style_of
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

PANELS = ("efficacy", "insertion", "retention", "unchanged")


@stage
def timeline(
    timeline: Timeline,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    out: Path,
) -> None:
    """Lead every entry through the snapshots, with every seed."""
    paths = made(Path(timeline.folder), paths)
    graph = Graph.read(paths.tables, relations=paths.kv)
    questions = read_table(paths.tables, "questions")
    plans = {seed: planned(graph, questions, timeline, seed) for seed in timeline.seeds}
    told = provenance(overridden("python -m pipeline.benchmark timeline"), timeline.seeds)
    told["settings"] = {"timeline": asdict(timeline), "memory": asdict(memory)}
    first = plans[timeline.seeds[0]]
    names = snapshot_names(paths.tables, len(first.due))
    told["snapshots"] = [
        {"name": name, "slots changed": changed, "questions": counted}
        for name, changed, counted in zip(names, first.changed, first.counted, strict=True)
    ]
    figures: dict[str, Any] = {}
    rows: dict[str, list[Row]] = {}
    for entry in timeline.entries:
        rows[entry], steps = [], []
        for seed, plan in plans.items():
            method = answerer(entry, memory, lm, encoder, plan.graph, paths, trainer.device, seed)
            answers, spent = walked(method, plan, timeline.batch_size)
            rows[entry] += [row | {"seed": seed} for row in answers]
            steps += spent
        figures[entry] = summed(rows[entry], steps, timeline.bootstrap_samples)
        others = [other for other in rows if other != timeline.entries[0]]
        told["figures"] = figures
        told["paired"] = {
            other: compared(rows[timeline.entries[0]], rows[other], timeline.bootstrap_samples)
            for other in others
        }
        (out / "timeline.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    listed = [{"entry": entry, **row} for entry, mine in rows.items() for row in mine]
    pq.write_table(pa.Table.from_pylist(listed), out / "timeline.parquet", compression="zstd")
    drawn(figures, names).savefig(out / "timeline.png", dpi=150)


def snapshot_names(tables: Path, count: int) -> list[str]:
    """Return what `ingest` calls the first snapshots; their numbers where it says nothing of them."""
    file = tables / "ingest.json"
    listed = json.loads(file.read_text(encoding="utf-8"))["snapshots"] if file.is_file() else []
    names = [one["name"] for one in listed]
    return names[:count] if len(names) >= count else [str(number) for number in range(count)]


def drawn(figures: dict[str, list[dict[str, Any]]], names: list[str]) -> Figure:
    """Return EM over the snapshots, a line an entry; over one fact above, over two below."""
    rows = [hops for hops in HOPS if any(hops in step for steps in figures.values() for step in steps)]
    styles = style_of(list(figures))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(PANELS), 3 * len(rows) + 0.3), layout="constrained")
        grid = figure.subplots(len(rows), len(PANELS), sharex=True, sharey=True, squeeze=False)
        for line, hops in zip(grid, rows, strict=True):
            for panel, name in zip(line, PANELS, strict=True):
                for entry, steps in figures.items():
                    found = {n: (step.get(hops) or {}).get(name) for n, step in enumerate(steps)}
                    shown = {number: share["em"] for number, share in found.items() if share}
                    colour, marker = styles[entry]
                    panel.errorbar(
                        list(shown),
                        [100 * share["mean"] for share in shown.values()],
                        [
                            [100 * (share["mean"] - share["low"]) for share in shown.values()],
                            [100 * (share["high"] - share["mean"]) for share in shown.values()],
                        ],
                        color=colour,
                        marker=marker,
                        capsize=3,
                        label=entry,
                    )
                panel.set(title=f"{name}, {hops}-hop", ylim=(-3, 103), xlim=(-0.3, len(names) - 0.7))
                panel.set_xticks(range(len(names)), names)
            line[0].set_ylabel("exact match, percent")
        grid[0][-1].legend()
    return figure


if __name__ == "__main__":
    timeline()
