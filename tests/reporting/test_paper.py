"""The paper's figures: what their files say stands in tables and plots, and what is no such file is named."""

import json

import pytest

from pipeline.config import UserError
from pipeline.reporting.paper import KINDS, paper_figures, unmade
from pipeline.reporting.readme import figures
from pipeline.reporting.svg import svg
from tests.reporting.test_report import Page, evaluate, make

MADE = {
    "command": "python -m pipeline.benchmark",
    "commit": "0123456789abcdef-dirty",
    "versions": {},
    "machine": {"processor": "P", "gpu": "a <big> one"},
    "seeds": [0],
}


def share(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def row(entry, facts, mib):
    taken = {"peak": mib << 20, "lm": 300 << 20, "seconds": share(0.5)}
    return {"entry": entry, "facts": facts, "reason": None} | taken


def step(entry, axis, kept, acc):
    found = {"acc1": share(acc), "acc5": share(acc + 0.05), "em": None}
    return {"entry": entry, "axis": axis, "kept": kept, "roots": None if axis == "flat" else 9} | found


def loss(*values):
    curve = {"step": [1.0, 2.0], "loss": list(values)}
    return {"curve": curve, "last": share(values[-1]), "last_by_seed": [values[-1]]}


TOLD = {
    "footprint": {
        "measured": "bytes",
        "settings": {"questions": 16},
        "figures": [
            row("ours", 100, 7),
            row("ours", 1000, 8),
            row("icl", 100, 1234),
            {"entry": "icl", "facts": 1000, "reason": "too many <facts>"},
        ],
    },
    "relevance": {
        "encoder": "minilm",
        "judge": "j",
        "figures": {
            "ours": {
                "unseen": {n: share(0.9) for n in ("precision", "recall", "f1", "em")}
                | {"judge": {"score": share(0.7), "unparsable": 1, "asked": 8}}
            },
            "rag": {"unseen": {n: share(0.8) for n in ("precision", "recall", "f1", "em")}},
        },
    },
    "pruning": {
        "facts": 600,
        "others": {"roots": 128, "inner": 64, "leaves": 16},
        "figures": [
            step("ours", "flat", 0, 0.9),
            step("ours", "roots", 4, 0.5),
            step("ours", "roots", 8, 0.6),
            step("ours", "inner", 64, 0.7),
            step("ours", "leaves", 1, 0.8),
        ],
    },
    "pairing": {"figures": {"minilm": {"right": loss(2.0, 1.0), "memory": loss(2.0, 1.5)}}},
    "ablation": {
        "figures": {
            "rows": {"all": 8, "without events": 4},
            "loss": {"all": share(1.0), "without events": share(0.9)},
            "accuracy": {
                kind: {"key": {"100": {"acc1": share(0.3), "acc5": share(0.4)}}}
                for kind in ("all", "without events")
            },
        }
    },
}


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "reports" / "figures"
    found.mkdir(parents=True)
    for name, told in TOLD.items():
        (found / f"{name}.json").write_text(json.dumps(MADE | told))
    return found


def test_every_kind_is_shown_in_the_papers_order(folder):
    (folder / "footprint-cpu.json").write_text((folder / "footprint.json").read_text())
    (folder / "README.md").write_text("not a figure")
    drawn = paper_figures(folder)
    assert [one.name for one in drawn] == ["footprint", "footprint-cpu", *list(KINDS)[1:]]
    for one in drawn:
        assert one.tables
        assert all(table.rows for table in one.tables)
        assert one.made == "python -m pipeline.benchmark; commit 0123456789ab (dirty), a <big> one"
        assert svg(one.plot, one.name).startswith("<svg")


def test_tables_say_what_the_files_say(folder):
    text = figures(folder.parents[1])
    for line in (
        "| ours | 7 500.0 ms | 8 500.0 ms |",
        "| icl | 1,234 500.0 ms | not possible |",
        "icl was not possible with 1,000 facts: too many <facts>.",
        "beyond the language model's 300",
        "| unseen | ours | " + "90.0 [80.0, 100.0] | " * 4 + "70.0 [60.0, 80.0] | 1 of 8 |",
        "| unseen | rag | " + "80.0 [70.0, 90.0] | " * 4 + "— | — |",
        "| method | figure | k_R = 4 | k_R = 8 | flat |",
        "| ours | ACC@1 | 50.0 [40.0, 60.0] | 60.0 [50.0, 70.0] | 90.0 [80.0, 100.0] |",
        "| ours | EM | — | — | — |",
        "ours has 9 roots",
        "| minilm | memory | 1.500 [1.400, 1.600] | 1.500 |",
        "| key | without events | 4 | 0.900 [0.800, 1.000] | 30.0 [20.0, 40.0] | 40.0 [30.0, 50.0] |",
        "([footprint.json](../reports/figures/footprint.json): python -m pipeline.benchmark;",
    ):
        assert line in text, line


def test_lines_of_the_plots_are_the_figures(folder):
    by = {one.name: one.plot for one in paper_figures(folder)}
    memory = by["footprint"].axes[0]
    assert memory.get_xscale() == memory.get_yscale() == "log"
    assert [7, 8] in [list(line.get_ydata()) for line in memory.lines]
    roots = by["pruning"].axes[0]
    assert [90.0, 90.0] in [list(line.get_ydata()) for line in roots.lines], "the level without pruning"
    assert [text.get_text() for text in by["relevance"].axes[0].get_xticklabels()] == [
        "precision",
        "recall",
        "F1",
    ]


def test_where_nothing_was_measured_nothing_is_shown(tmp_path):
    assert paper_figures(tmp_path / "none") == []
    assert unmade([]) == list(KINDS)
    assert figures(tmp_path) == ""


def test_what_is_no_figure_is_named(folder):
    (folder / "prices.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"prices\.json: its name must begin with one of footprint, relevance"
    ):
        paper_figures(folder)
    (folder / "prices.json").unlink()
    (folder / "pairing.json").write_text('{"figures": {}}')
    with pytest.raises(UserError, match=r"pairing\.json: is not what `pairing` writes .*measure it again"):
        paper_figures(folder)


def test_the_report_shows_them(folder, tmp_path):
    evaluate(tmp_path, "ours", mistakes=[5])
    out = make(tmp_path)
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert '<section id="paper">' in text
    assert "too many &lt;facts&gt;" in text
    assert "a &lt;big&gt; one" in text
    assert page.tags.count("svg") >= len(TOLD)
    for name in TOLD:
        assert (out / "plots" / f"{name}.png").is_file()
    before = (out / "report.html").read_bytes()
    assert (make(tmp_path) / "report.html").read_bytes() == before
