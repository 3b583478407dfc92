"""What the report shows of what searches find: a part of `pipeline.reporting.sections`."""

from pipeline.reporting.measured import Column, Section
from pipeline.reporting.tables import in_percent, number, percent, text

ESTIMATED, CHOSEN = "codes, all compared by their estimate", "codes, chosen by first bits"
"""Ways of `pipeline.benchmarks.recall_scale`."""

RECALL = (
    Section(
        "recall",
        "Recall of the search",
        "Whether a right fact is among the first N that the coarse search finds, in percent, by backend and "
        "by facts made up beside the true ones.",
        "figures.*",
        (
            Column("search", "backend", text),
            Column("facts made up", "generated", number),
            Column("n", "questions", number),
            *(Column(f"recall@{n}", f"recall.{n}", percent, max) for n in (1, 5, 50, 200)),
            Column("recall@1, fine score", "recall, by the fine score.1", percent, max),
            Column("ms a question, by run", "one question", lambda runs: text([r["p50 ms"] for r in runs])),
        ),
        within=("facts made up",),
    ),
    Section(
        "recall_scale",
        "Recall among many entities",
        "Whether the entity that a human question is about is among the first N, in percent: by an exact "
        "search, by all codes, and by codes that first bits choose.",
        "figures.sizes.*",
        (
            Column("entities", "entities", number),
            Column("n", "exact.questions", number),
            *(Column(f"exact @{n}", f"exact.recall.{n}", percent) for n in (1, 200)),
            *(Column(f"codes @{n}", f"{ESTIMATED}.recall.{n}", percent) for n in (1, 200)),
            *(Column(f"first bits @{n}", f"{CHOSEN}.recall.{n}", percent) for n in (1, 200)),
            Column(
                "of exact's first 200", f"{ESTIMATED}.share of exact's first 200 among its own", in_percent
            ),
        ),
    ),
)
