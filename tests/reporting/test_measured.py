"""Sections of measurements: what stands in a file stands in the table, and what is missing is said."""

import json
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.benchmark import COMMANDS
from pipeline.benchmarks.asof import WAYS
from pipeline.benchmarks.asof import summed as asof_figures
from pipeline.benchmarks.streams import drawn
from pipeline.config import ROOT, UserError
from pipeline.evaluation.stepwise import summed as stream_figures
from pipeline.reporting import shown
from pipeline.reporting.measured import Column, Section, measured
from pipeline.reporting.sections import SECTIONS
from pipeline.reporting.sweeps import compared
from pipeline.reporting.tables import number, percent, text
from tests.reporting.test_report import leaves
from tests.reporting.test_sweep_reports import sweep

MADE = {"command": "python -m it", "commit": "0123456789abcdef-dirty", "machine": {"processor": "<P>"}}
BY_NAME = {section.name: section for section in SECTIONS}
TINY = Section(
    "tiny",
    "Tiny",
    "A sentence <with> a bracket.",
    "figures.{entry}.*",
    (
        Column("method", "{entry}", text),
        Column("n", "n", number),
        Column("EM", "em", percent, max),
        Column("ms", "../../slow", number, min),
        Column("absent", "nothing.here", number),
    ),
    within=("n",),
)


def share(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def write(folder: Path, name: str, figures: Any, **more: Any) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(MADE | more | {"figures": figures}), encoding="utf-8")
    return file


def only(section: Section, folder: Path) -> Any:
    [found] = measured([section], folder)
    return found


def test_rows_columns_and_the_best_come_of_the_description(tmp_path: Path) -> None:
    rows = {"a": [{"n": 1, "em": share(0.5)}, {"n": 2, "em": share(0.6)}], "b": [{"n": 1, "em": share(0.7)}]}
    write(tmp_path, "tiny.json", rows | {"slow": 3, "c": [{"other": 1}]})
    table = only(TINY, tmp_path).table
    assert table.header == ["method", "n", "EM", "ms"], "a column in which nothing stands is left out"
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "1", "50.0", "3"],
        ["a", "2", "60.0", "3"],
        ["b", "1", "70.0", "3"],
    ]
    assert [row[2].best for row in table.rows] == [False, False, True], "of n = 2 there is one row alone"


def test_a_file_that_says_there_is_nothing_is_not_shown(tmp_path: Path) -> None:
    write(tmp_path, "tiny.json", {})
    found = only(TINY, tmp_path)
    assert (found.table.rows, found.sources) == ([], [])


def test_files_are_told_apart_and_compared_within_themselves(tmp_path: Path) -> None:
    write(tmp_path, "tiny/first.json", {"a": [{"n": 1, "em": share(0.5)}]})
    write(tmp_path, "h100/tiny.json", {"b": [{"n": 1, "em": share(0.7)}]})
    found = only(TINY, tmp_path)
    assert [row[0].text for row in found.table.rows] == ["h100/tiny", "first"]
    assert not any(cell.best for row in found.table.rows for cell in row)
    body = shown.html(found)
    for source in ("h100/tiny.json", "tiny/first.json"):
        assert f'<a href="{source}">{source}</a>: <code>python -m it; commit 0123456789ab (dirty)' in body
        assert f"[{source}]({source})" in shown.markdown(found)
    assert "&lt;P&gt;" in body
    assert "&lt;with&gt;" in body


def test_a_figure_beside_the_file_is_embedded_with_fewer_colours(tmp_path: Path) -> None:
    file = write(tmp_path, "tiny.json", {"a": [{"n": 1, "em": share(0.5)}]})
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file.with_suffix(".png"))
    found = only(TINY, tmp_path)
    assert 'src="data:image/png;base64,' in shown.html(found)
    assert len(shown.embedded(found.sources[0].picture)) < file.with_suffix(".png").stat().st_size
    assert "([figure](tiny.png))" in shown.markdown(found)


def test_a_long_table_is_folded_away(tmp_path: Path) -> None:
    write(tmp_path, "tiny.json", {"a": [{"n": n, "em": share(0.5)} for n in range(shown.FOLDED + 1)]})
    assert f"<summary>All {shown.FOLDED + 1} rows</summary>" in shown.html(only(TINY, tmp_path))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_what_was_not_measured_names_the_command(section: Section, tmp_path: Path) -> None:
    found = only(section, tmp_path)
    assert f"<code>{section.made_by}</code>" in shown.html(found)
    assert section.made_by in shown.markdown(found)
    for module, word in re.findall(r"python -m ([\w.]+)(?: (\w+))?", section.made_by):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
        assert module != "pipeline.benchmark" or word in COMMANDS


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "tiny.json", {"a": 1})
    with pytest.raises(UserError, match=r"tiny\.json: is not what .* tiny .* writes; measure it again"):
        only(TINY, tmp_path)
    file.write_text(json.dumps({"figures": {"a": [{"n": 1, "em": share(0.5)}]}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"tiny\.json: is not what"):
        only(TINY, tmp_path)


def test_streams_are_shown_as_their_benchmark_writes_them(tmp_path: Path) -> None:
    rows = [{"kind": "update", "step": 1, "edits": 2, "seconds": 0.5, "seed": 0}]
    for step in (0, 1):
        for question, kind, since in ((0, "told", 1), (1, "other", 1), (2, "beside", 0), (3, "far", 0)):
            if since <= step:
                row = {"kind": kind, "question": question, "step": step, "since": since, "seed": 0}
                rows.append(row | {"em": 1.0, "stale": 0.0, "same": 1.0, "seconds": 0.01})
    figures = {entry: stream_figures(rows, [2], 100) for entry in ("ours", "rome")}
    write(tmp_path, "streams.json", figures)
    drawn(figures).savefig(tmp_path / "streams.png")
    found = only(BY_NAME["streams"], tmp_path)
    by = {
        (row[0].text, row[1].text): dict(zip(found.table.header, row, strict=True))
        for row in found.table.rows
    }
    assert set(by) == {(entry, edits) for entry in ("ours", "rome") for edits in ("0", "2")}
    assert by["ours", "2"]["efficacy"].text == by["rome", "2"]["locality"].text == "100.0"
    assert by["ours", "0"]["efficacy"].text == "—"
    assert by["ours", "2"]["ms an edit, by seed"].text == "250"
    assert found.sources[0].picture == tmp_path / "streams.png"


def test_times_are_shown_as_their_benchmark_writes_them(tmp_path: Path) -> None:
    said = {way: [(1.0, 0.0), (float(way == WAYS[0]), 1.0)] for way in WAYS}
    write(tmp_path, "asof.json", {"ours": asof_figures([said], 100)})
    table = only(BY_NAME["asof"], tmp_path).table
    assert [row[1].text for row in table.rows] == list(WAYS)
    assert [row[table.header.index("EM")].text for row in table.rows] == ["100.0", "50.0", "50.0"]
    adds = [row[table.header.index("what the year adds")] for row in table.rows]
    assert adds[1].text == "+50.0"
    assert "p = 1.000" in adds[1].note


def test_sweeps_bring_their_figure_and_their_sentences(tmp_path: Path) -> None:
    told = compared(sweep(tmp_path / "k", ("ours", "rag")), tmp_path / "sweeps")
    found = only(BY_NAME["sweeps"], tmp_path)
    assert found.sources[0].says == told["says"]
    assert found.sources[0].made.startswith("python -m pipeline.trial sweep=k; commit c")
    assert [row[0].text for row in found.table.rows][:2] == [
        "memory.k=1, method=ours",
        "memory.k=3, method=ours",
    ]
    assert shown.html(found).count("<li>valid, ") == 2


def tracked() -> list[str]:
    words = ["git", "ls-files", "--", "reports"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name.removeprefix("reports/") for name in found.splitlines()]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_figure_of_a_section_stands_in_the_files_it_names(section: Section) -> None:
    found = only(section, ROOT / "reports")
    if not found.sources:
        pytest.skip(f"nothing was measured for {section.name}")
    held = set(leaves([json.loads((ROOT / "reports" / source.path).read_text()) for source in found.sources]))
    keys = re.findall(r'"([\d]+)":', "".join((ROOT / "reports" / s.path).read_text() for s in found.sources))
    held |= {float(key) for key in keys}
    values = [cell.value for row in found.table.rows for cell in row if cell.value is not None]
    assert values
    assert set(values) <= held


def test_the_report_depends_on_every_file_that_it_shows() -> None:
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["report"]["deps"]
    named = [dep.removeprefix("${paths.reports}/") for dep in deps if dep.startswith("${paths.reports}/")]
    shown_files = [
        name for name in tracked() for section in SECTIONS for glob in section.globs if fnmatch(name, glob)
    ]
    assert shown_files
    for name in shown_files:
        assert any(name == dep or name.startswith(f"{dep}/") for dep in named), (
            f"reports/{name} is shown: add it, or its folder, to the deps of the stage report in dvc.yaml"
        )
