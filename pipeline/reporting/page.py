"""The report as one HTML page that needs nothing beside it."""

from collections.abc import Hashable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import pandas as pd
from matplotlib.figure import Figure

from pipeline.reporting import content
from pipeline.reporting.compare import Comparison, reference, split_names, worst
from pipeline.reporting.figures import svg
from pipeline.reporting.gather import Figures, Method
from pipeline.reporting.paper import Drawn
from pipeline.reporting.tables import Cell, Table, number

TITLE = "What the models answer from the knowledge graph"
ERRORS_PER_SPLIT = 4
TEMPLATE = Path(__file__).with_name("page.html")


def page(
    methods: Sequence[Method],
    pairs: Sequence[Comparison],
    locals_: Sequence[Comparison],
    stages: Figures,
    plots: dict[str, Figure],
    paper: Sequence[Drawn],
) -> str:
    """Return the whole page; every text that comes from data or a model is escaped."""
    sections = [
        ("results", "Results", _results(methods, plots)),
        ("paired", "Is the difference real?", _paired(methods, pairs)),
        ("updates", "After the graph changes", _updates(locals_, methods)),
        ("grounding", "Grounding and recall", _grounding(methods, plots)),
        ("refusal", "Refusal", _refusal(methods)),
        ("cost", "Time and size", _cost(methods, stages)),
        ("training", "Training", _training(plots)),
        ("paper", "The paper's figures", _paper(paper)),
        ("limits", "What this does not show", _limits(methods, pairs)),
        ("errors", "Worst errors", _errors(methods)),
        ("stages", "What each stage reported", _stages(methods, stages)),
    ]
    shown = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in shown)
    parts = [f'<p class="lead">{escape(headline(methods))}</p>', f"<nav>{links}</nav>"]
    parts += [
        f'<section id="{name}"><h2>{escape(title)}</h2>\n{body}</section>' for name, title, body in shown
    ]
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(TITLE), content="\n".join(parts))


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
    return content.costs(methods, stages).html() + (
        f'<p class="soft">{escape(described)}</p>' if described else ""
    )


def _training(plots: dict[str, Figure]) -> str:
    return _figure(plots, "training", "Every logged quantity by training step; faint points, running mean.")


def _paper(paper: Sequence[Drawn]) -> str:
    blocks = []
    for drawn in paper:
        *notes, made = (f"<p>{escape(note)}</p>" for note in drawn.notes)
        tables = "".join(table.html() for table in drawn.tables)
        plot = _figure({drawn.name: drawn.plot}, drawn.name, drawn.title)
        soft = made.replace("<p>", '<p class="soft">', 1)
        blocks.append(
            f"<h3>{escape(drawn.title)}: {escape(drawn.name)}</h3>{''.join(notes)}{plot}{tables}{soft}"
        )
    return "\n".join(blocks)


def _errors(methods: Sequence[Method]) -> str:
    blocks = []
    for method in methods:
        picked = [worst(method, split, ERRORS_PER_SPLIT) for split in split_names([method])]
        rows = pd.concat(picked)
        if len(rows):
            items = "\n".join(_error(row) for row in rows.to_dict("records"))
            summary = (
                f"{escape(method.name)}: {len(rows)} of {(method.rows['em'] == 0).sum():,} wrong answers"
            )
            opened = " open" if method is reference(methods) else ""
            blocks.append(
                f'<details{opened}><summary>{summary}</summary><ul class="errors">{items}</ul></details>'
            )
    if not blocks:
        return ""
    return (
        f"<p>Up to {ERRORS_PER_SPLIT} a split: those given with the most confidence, furthest from a right "
        "answer. A gold fact among those read is marked.</p>" + "\n".join(blocks)
    )


def _error(row: Mapping[Hashable, object]) -> str:
    gold = set(_items(row["gold"]))
    read = zip(_items(row["facts"]), _items(row["read"]), _items(row["weights"]), strict=True)
    facts = "<br>".join(
        f"<span class='{'gold' if fact in gold else 'other'}'>{escape(str(text))}</span> "
        f"<small>{weight:.3f}</small>"
        for fact, text, weight in read
    )
    said = "refused" if row["refused"] else str(row["prediction"])
    right = " · ".join(map(str, _items(row["answers"]))) or "no fact answers this"
    lines = [("said", f'<span class="said">{escape(said)}</span>'), ("right", escape(right))]
    if facts:
        lines.append(("read", facts))
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in lines)
    return (
        f'<li><span class="question">{escape(str(row["text"]))}</span>'
        f'<span class="tag">{escape(str(row["split"]))}</span>'
        f'<span class="tag">refusal {row["refusal"]:.2f}</span><dl>{listed}</dl></li>'
    )


def _items(value: object) -> list[object]:
    return list(value)  # type: ignore[call-overload, no-any-return]


def _limits(methods: Sequence[Method], pairs: Sequence[Comparison]) -> str:
    rows = reference(methods).rows.drop_duplicates(["question", "split"])
    kinds = rows["kind"].value_counts()
    people, hops = int(kinds.get("human", 0)), int(kinds.get("multihop", 0))
    seeds = max(len(method.runs) for method in methods)
    trained = (
        "Each method was trained once: how much another seed would change a figure is not known."
        if seeds == 1
        else f"Methods were trained with up to {seeds} seeds; the spread between so few is a rough guess."
    )
    texts = [
        f"Intervals say what other questions of the same kind would give. {trained}",
        f"Of {len(rows):,} questions asked, {people:,} were worded by people and {hops:,} need more than one "
        "fact; the others come from templates, which are easier to match to a fact than free speech.",
        "Retrieval gets harder as the graph grows; these figures hold for this graph's size alone.",
        "Exact match compares strings: a right answer in words that the graph does not use counts as wrong, "
        "and an answer that is right in the world but not in the graph counts as wrong too.",
        "Unanswerable questions are of the kinds that were generated; ill-posed or ambiguous ones are not "
        "among them.",
        "Updates move from the base to the last snapshot in one go and are asked at once; crashes, "
        "concurrent readers and thousands of edits in a row are not tested here.",
        "Times are of one machine and one batch size, the search included.",
    ]
    if pairs:
        texts.append(
            f"{len(pairs)} comparisons were made: about {0.05 * len(pairs):.1f} of them would have p < 0.05 "
            "by chance if no method differed."
        )
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
