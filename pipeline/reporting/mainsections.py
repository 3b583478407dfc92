"""How the main table is shown: every method by every task, how far ours is beyond, what answers cost."""

from dataclasses import replace
from typing import Any

from pipeline.reporting.measured import Column, Section
from pipeline.reporting.tables import Cell, number, percent, points, text

METHODS = (
    *("ours", "rag_tuned", "rag", "linking", "bm25", "icl"),
    *("dysk", "dysk_dense", "kblam", "kblam_same_rows", "atlaskv", "atlaskv_flat", "atlaskv_aux"),
    *("memit", "rome", "finetune", "lora", "closed_book", "majority"),
)
"""Ours, what reads text, what reads vectors, what edits weights, and what reads nothing."""
MADE_BY = "python -m pipeline.benchmarks.campaign world …; python -m pipeline.reporting.maintable …"
FILES = ("h100/main.json", "laptop-full/main.json")


def measured(cell: dict[str, Any]) -> Cell:
    """Return a share with its interval, the best in bold, or in words why there is none."""
    if "says" in cell:
        return Cell(str(cell["says"]))
    return replace(percent(cell), best=bool(cell["best"]))


MAIN = (
    Section(
        "main",
        "Every method, every task",
        "Means in percent with 95 % intervals over questions, training seeds averaged; the best is bold. "
        "Splits, then streams of edits and dated data sets; refusal AUROC tells unseen from unanswerable.",
        "figures.{task}",
        (
            Column("task", "{task}", text),
            Column("n", "n", number),
            *(Column(name, name, measured) for name in METHODS),
        ),
        command=MADE_BY,
        files=FILES,
    ),
    Section(
        "main_differences",
        "Ours beyond each other method",
        "Paired differences on the same questions, in points with 95 % intervals; p of the sign test.",
        "differences.{task}",
        (Column("task", "{task}", text), *(Column(name, name, points) for name in METHODS[1:])),
        command=MADE_BY,
        files=FILES,
    ),
    Section(
        "main_costs",
        "What an answer costs",
        "Tokens of a prompt that the language model generated from, facts that are read as vectors or cached "
        "states aside; milliseconds a question where a GPU did nothing else.",
        "costs.{task}.{method}",
        (
            Column("task", "{task}", text),
            Column("method", "{method}", text),
            Column("tokens a prompt", "prompt_tokens", number, min),
            Column("ms a question", "ms", number, min),
        ),
        command=MADE_BY,
        files=FILES,
        within=("task",),
    ),
)
