"""The report as one HTML page that needs nothing beside it."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from pipeline.reporting import content
from pipeline.reporting.compare import Comparison, reference
from pipeline.reporting.errors import errors
from pipeline.reporting.gather import Figures, Method
from pipeline.reporting.limits import limits
from pipeline.reporting.measured import Measured
from pipeline.reporting.paper import Drawn, unmade
from pipeline.reporting.shown import html
from pipeline.reporting.svg import svg
from pipeline.reporting.tables import Cell, Table, number

TITLE = "What the models answer from the knowledge graph"
SOURCES = {
    "results": "metrics.json (evaluate) and each method's metrics.json",
    "paired": "metrics.json (paired)",
    "updates": "metrics.json (locality)",
    "grounding": "metrics.json (evaluate) and plots/recall.csv",
    "refusal": "metrics.json (evaluate)",
    "cost": "metrics.json (evaluate, train)",
    "training": "plots/training.csv, each method's curve.csv",
    "errors": "each method's answers.parquet",
    "stages": "each stage's JSON, all of it in metrics.json",
}
"""Where the figures of the DAG's own sections stand; the others name their files and commands themselves."""
TEMPLATE = Path(__file__).with_name("page.html")


def page(
    methods: Sequence[Method],
    pairs: Sequence[Comparison],
    locals_: Sequence[Comparison],
    stages: Figures,
    plots: dict[str, Figure],
    paper: Sequence[Drawn],
    found: Sequence[Measured],
) -> str:
    """Return the whole page; every text that comes from data or a model is escaped."""
    outside = [(f"measured-{one.section.name}", one.section.title, html(one)) for one in found]
    sections = [
        ("results", "Results", _results(methods, plots)),
        ("paired", "Is the difference real?", _paired(methods, pairs)),
        ("updates", "After the graph changes", _updates(locals_, methods)),
        ("grounding", "Grounding and recall", _grounding(methods, plots)),
        ("refusal", "Refusal", _refusal(methods)),
        ("cost", "Time and size", _cost(methods, stages)),
        ("training", "Training", _training(plots)),
        *outside,
        ("paper", "The paper's figures", _paper(paper)),
        ("limits", "What this does not show", _limits(limits(methods, pairs, found, unmade(paper)))),
        ("errors", "Worst errors, with the facts that were read", errors(methods)),
        ("stages", "What each stage reported", _stages(methods, stages)),
    ]
    shown = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in shown)
    parts = [f'<p class="lead">{escape(headline(methods))}</p>', f"<nav>{links}</nav>"]
    parts += [
        f'<section id="{name}"><h2>{escape(title)}</h2>\n{body}{_source(name)}</section>'
        for name, title, body in shown
    ]
    template = TEMPLATE.read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii")
    return Template(template).substitute(title=escape(TITLE), script=digest, content="\n".join(parts))


def _source(section: str) -> str:
    if section not in SOURCES:
        return ""
    return f'<p class="source">From {escape(SOURCES[section])}, written by <code>dvc repro</code>.</p>'


def headline(methods: Sequence[Method]) -> str:
    """Return what the reference method reached, in two or three sentences."""
    first = reference(methods)
    sentences = []
    if unseen := first.splits.get("unseen"):
        others = ", ".join(
            f"{method.name} {100 * method.splits['unseen']['em']['mean']:.1f} %"
            for method in methods
            if method is not first and "unseen" in method.splits
        )
        figure = unseen["em"]
        sentences.append(
            f"{first.name} answers {100 * figure['mean']:.1f} % (95 % interval {100 * figure['low']:.1f} to "
            f"{100 * figure['high']:.1f}) of {unseen['n']:,} questions about entities it was never trained on"
            + (f"; {others}." if others else ".")
        )
    if updated := first.splits.get("updated"):
        seconds, changes = first.mean("update_seconds"), first.mean("update_changes")
        sentences.append(
            f"After {changes or 0:,.0f} changes to the graph, applied in {seconds or 0:.2g} s without "
            f"training, it answers {100 * updated['em']['mean']:.1f} % of {updated['n']:,} questions whose "
            "answer changed."
        )
    return " ".join(sentences) or f"{len(methods)} methods were evaluated."


def _results(methods: Sequence[Method], plots: dict[str, Figure]) -> str:
    meanings = Table(
        ["split", "what is asked"], [[Cell(name), Cell(text)] for name, text in content.SPLITS.items()]
    )
    return "\n".join(
        [
            "<p>Exact match in percent with its 95 % interval; any answer of a slot is right. Click a header "
            "to sort.</p>",
            content.per_split(methods, "em").html(),
            _figure(
                plots, "accuracy", "Exact match by split and method; bars are 95 % intervals over questions."
            ),
            *_seeds(methods),
            "<h3>Word overlap (F1)</h3>",
            content.per_split(methods, "f1").html(),
            "<h3>Answers seen and never seen in training</h3>"
            "<p>Exact match apart for questions with an answer that some training question has, which can be "
            "guessed, and for those whose answers no training question has, which must be read.</p>",
            "<h4>Answers never seen</h4>",
            content.per_split(methods, "em_answer_new").html(),
            "<h4>Answers seen</h4>",
            content.per_split(methods, "em_answer_seen").html(),
            f"<details><summary>What the splits ask</summary>{meanings.html()}</details>",
        ]
    )


def _seeds(methods: Sequence[Method]) -> list[str]:
    if all(len(method.runs) == 1 for method in methods):
        return []
    return ["<h3>Exact match of each training seed</h3>", content.by_seed(methods).html()]


def _paired(methods: Sequence[Method], pairs: Sequence[Comparison]) -> str:
    if not pairs:
        return ""
    return (
        f"<p>{escape(reference(methods).name)} against each other method on the same questions: the mean "
        "difference with its paired bootstrap interval, on how many questions only one of them is right, and "
        "the p of the sign test (McNemar's exact test), not corrected for the number of comparisons.</p>"
        + content.differences_by_split(pairs).html()
        + f"<details><summary>Questions won and lost</summary>{content.differences(pairs).html()}</details>"
    )


def _updates(locals_: Sequence[Comparison], methods: Sequence[Method]) -> str:
    if not locals_:
        return ""
    changes = reference(methods).mean("update_changes") or 0
    return (
        f"<p>The snapshot's {changes:,.0f} changes go through the memory; nothing is trained. An update must "
        "not harm what it leaves alone: the same questions about untouched slots, before and after.</p>"
        + content.localities(locals_).html()
    )


def _grounding(methods: Sequence[Method], plots: dict[str, Figure]) -> str:
    table = content.grounding(methods)
    if not table.rows:
        return ""
    return (
        "<p>ACC@n: a gold fact is among the first n facts that the model read. recall@N: it is among "
        "the first N candidates of the coarse search. In percent.</p>"
        + table.html()
        + _figure(plots, "recall", "Recall of the coarse search by the number of candidates.")
    )


def _refusal(methods: Sequence[Method]) -> str:
    return (
        "<p>AUROC: how likely a question that no fact answers gets a higher refusal score than one of unseen "
        "that a fact answers (1 is perfect, 0.5 is chance). Beside it, how often each method refused.</p>"
        + content.refusals(methods).html()
    )


def _cost(methods: Sequence[Method], stages: Figures) -> str:
    metrics = reference(methods).runs[0].metrics
    described = ", ".join(
        f"{name} {value}"
        for name, value in {**metrics.get("machine", {}), **metrics.get("versions", {})}.items()
    )
    return (
        content.costs(methods, stages).html()
        + "<p>What a question costs, refusals included, and how long the prompts were that the language "
        "model generated from. Facts that are read as vectors or cached states are no part of a prompt.</p>"
        + content.per_answer(methods).html()
    ) + (f'<p class="soft">{escape(described)}</p>' if described else "")


def _training(plots: dict[str, Figure]) -> str:
    return _figure(plots, "training", "Every logged quantity by training step; faint points, running mean.")


def _paper(paper: Sequence[Drawn]) -> str:
    blocks = []
    for drawn in paper:
        notes = "".join(f"<p>{escape(note)}</p>" for note in drawn.notes)
        tables = "".join(table.html() for table in drawn.tables)
        plot = _figure({drawn.name: drawn.plot}, drawn.name, drawn.title)
        file = f"figures/{drawn.name}.json"
        source = f'<p class="source"><a href="{escape(file)}">{escape(file)}</a>: {escape(drawn.made)}.</p>'
        blocks.append(f"<h3>{escape(drawn.title)}: {escape(drawn.name)}</h3>{notes}{plot}{tables}{source}")
    commands = ", ".join(f"<code>python -m pipeline.benchmark {kind}</code>" for kind in unmade(paper))
    if commands:
        blocks.append(f'<p class="source">Not measured yet: {commands} (into figures/).</p>')
    return "\n".join(blocks)


def _limits(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _stages(methods: Sequence[Method], stages: Figures) -> str:
    blocks = []
    for stage, figures in stages.items():
        rows = [[Cell(name), number(value, 4)] for name, value in content.scalars(figures)]
        blocks.append(
            f"<details><summary>{escape(stage)}</summary>{Table(['figure', 'value'], rows).html()}</details>"
        )
    return "\n".join(blocks)


def _figure(plots: dict[str, Figure], name: str, caption: str) -> str:
    if name not in plots:
        return ""
    return f"<figure>{svg(plots[name], name)}<figcaption>{escape(caption)}</figcaption></figure>"
