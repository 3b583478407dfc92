"""The report as Markdown: the tables of the page, with links to figures and files instead of pictures."""

from collections.abc import Sequence

from pipeline.reporting import content
from pipeline.reporting.compare import Comparison
from pipeline.reporting.errors import kinds
from pipeline.reporting.gather import Figures, Method
from pipeline.reporting.limits import limits
from pipeline.reporting.measured import Measured
from pipeline.reporting.page import SOURCES, TITLE, headline
from pipeline.reporting.paper import Drawn, unmade
from pipeline.reporting.shown import markdown
from pipeline.reporting.tables import Table


def text(
    methods: Sequence[Method],
    pairs: Sequence[Comparison],
    locals_: Sequence[Comparison],
    stages: Figures,
    paper: Sequence[Drawn],
    found: Sequence[Measured],
) -> str:
    """Return the whole report; texts of data and models are not in it, so nothing needs escaping."""
    own = [
        ("results", "Exact match, in percent [95 % interval]", content.per_split(methods, "em")),
        ("results", "Word overlap (F1), in percent", content.per_split(methods, "f1")),
        ("paired", "Is the difference real? Points, paired", content.differences_by_split(pairs)),
        ("updates", "After the graph changes", content.localities(locals_)),
        ("grounding", "Grounding and recall, in percent", content.grounding(methods)),
        ("refusal", "Refusal", content.refusals(methods)),
        ("cost", "Time and size", content.costs(methods, stages)),
        ("cost", "Milliseconds a question, tokens a prompt", content.per_answer(methods)),
        ("errors", "Wrong answers, by the first reason that holds", kinds(methods)),
    ]
    parts = [f"# {TITLE}", headline(methods)]
    parts += [_titled(title, table, SOURCES[name]) for name, title, table in own if table.rows]
    parts += [markdown(one) for one in found]
    for drawn in paper:
        file = f"figures/{drawn.name}.json"
        tables = [table.markdown() for table in drawn.tables]
        parts += [f"## {drawn.title}: {drawn.name}", *drawn.notes, *tables]
        parts.append(f"From [{file}]({file}) ([figure](plots/{drawn.name}.png)): `{drawn.made}`.")
    parts += [
        "## What this does not show",
        "\n".join(f"- {sentence}" for sentence in limits(methods, pairs, found, unmade(paper))),
    ]
    return "\n\n".join(parts)


def _titled(title: str, table: Table, source: str) -> str:
    return f"## {title}\n\n{table.markdown()}\n\nFrom {source}, written by `dvc repro`."
