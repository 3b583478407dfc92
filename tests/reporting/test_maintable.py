"""The main table over folders as a campaign leaves them: toys are asked, and each figure is checked."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config import UserError
from pipeline.evaluation.runs import run
from pipeline.evaluation.stepwise import summed
from pipeline.reporting.campaigns import gathered, streamed
from pipeline.reporting.mainsections import MAIN
from pipeline.reporting.maintable import main, ordered, table
from pipeline.reporting.measured import measured
from pipeline.reporting.readme import main_table
from tests.evaluation.toys import LookUp, graph, questions
from tests.reporting.test_report import EVALUATE

ABOUT = {"command": "python -m it", "commit": "0123abc", "versions": {}, "machine": {"gpu": "A GPU"}}
CANNOT = [{"methods": ["icl", "memit"], "tasks": ["world/*"], "says": "no room"}]


def finished(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(ABOUT | {"seeds": [seed]}), encoding="utf-8")
    return folder


def asked(root: Path, method: str, seed: int, mistakes: Any = ()) -> None:
    out = finished(root / "evaluate" / "world.1" / str(seed) / method, seed)
    run(LookUp(graph(), method, mistakes), graph(), questions(), EVALUATE, 0, out)
    answers = pd.read_parquet(out / "answers.parquet")
    answers.assign(tokens=30.0, prompts=1.0).to_parquet(out / "answers.parquet")


STREAM = [
    *({"kind": "update", "step": step, "edits": edits} for step, edits in ((1, 1), (2, 9))),
    {"kind": "far", "step": 0, "since": 0, "text": "far", "em": 1.0, "same": 1.0},
    {"kind": "told", "step": 1, "since": 1, "text": "one", "em": 1.0, "same": 1.0},
    {"kind": "far", "step": 1, "since": 0, "text": "far", "em": 1.0, "same": 1.0},
    {"kind": "told", "step": 2, "since": 1, "text": "one", "em": 0.0, "same": 1.0},
    {"kind": "told", "step": 2, "since": 2, "text": "two", "em": 1.0, "same": 1.0},
    {"kind": "other", "step": 2, "since": 2, "text": "two, again", "em": 0.0, "same": 1.0},
    {"kind": "far", "step": 2, "since": 0, "text": "far", "em": 1.0, "same": 0.0},
]
WALK = [
    {"group": "changed", "hops": "single", "question": "a", "em": 1.0, "same": None},
    {"group": "changed", "hops": "single", "question": "a", "em": 0.0, "same": None},
    {"group": "changed", "hops": "multi", "question": "b", "em": 1.0, "same": None},
    {"group": "unchanged", "hops": "single", "question": "c", "em": 0.0, "same": None},
    {"group": "unchanged", "hops": "single", "question": "c", "em": 0.0, "same": 1.0},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    asked(folder, "ours", 0)
    asked(folder, "ours", 1, [4])
    asked(folder, "rag", 0, [4, 5])
    pd.DataFrame(STREAM).to_parquet(finished(folder / "streams" / "world" / "0" / "ours") / "streams.parquet")
    pd.DataFrame(WALK).to_parquet(finished(folder / "timeline" / "pat" / "0" / "rag") / "timeline.parquet")
    (folder / "evaluate" / "world.1" / "0" / "dysk").mkdir()
    (folder / "campaign-tests.json").write_text(json.dumps(ABOUT | {"states": {"done": 5}}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def told(root: Path) -> Any:
    return table(gathered([root]), CANNOT)


def test_answers_under_several_seeds_are_one_draw_of_a_question(told: Any) -> None:
    ours = told["figures"]["world/unseen"]["ours"]
    assert (ours["n"], ours["mean"], ours["seeds"]) == (2, 0.75, {"0": 1.0, "1": 0.5})
    assert ours["best"]
    rag = told["figures"]["world/unseen"]["rag"]
    assert (rag["mean"], rag["best"]) == (0.0, False)
    beyond = told["differences"]["world/unseen"]["rag"]
    assert (beyond["n"], beyond["mean"]) == (2, 0.75)


def test_what_a_method_can_not_do_is_told_in_words(told: Any) -> None:
    unseen = told["figures"]["world/unseen"]
    assert unseen["icl"] == {"says": "no room"}
    assert list(unseen) == ["n", "ours", "rag", "icl", "memit"]
    assert "dysk" not in unseen, "it left nothing"
    assert "icl" not in told["figures"]["world, 1 edit/efficacy"]


def test_refusals_are_told_apart_by_scores(told: Any) -> None:
    found = told["figures"]["world/refusal AUROC"]
    # Seed 1 refuses one of two answerable questions as surely as the unanswerable ones.
    assert found["ours"]["mean"] == pytest.approx((1.0 + 0.75) / 2)
    assert found["rag"]["mean"] == 0.5
    assert found["ours"]["low"] <= found["ours"]["mean"] <= found["ours"]["high"]
    assert told["differences"]["world/refusal AUROC"]["rag"]["mean"] == pytest.approx(0.375)


def test_a_stream_has_the_figures_of_its_benchmark(told: Any) -> None:
    figures = told["figures"]
    means = {task: cells["ours"]["mean"] for task, cells in figures.items() if task.startswith("world, ")}
    assert means == {
        "world, 1 edit/efficacy": 1.0,
        "world, 10 edits/efficacy": 1.0,
        "world, 10 edits/generality": 0.0,
        "world, 10 edits/retention": 0.0,
        "world, 1 edit/locality": 1.0,
        "world, 10 edits/locality": 0.0,
    }
    steps = summed(
        [row | {"question": row.get("text"), "seconds": 1.0, "stale": None} for row in STREAM], [1, 10], 20
    )
    for step, label in ((1, "world, 1 edit"), (2, "world, 10 edits")):
        for name in ("efficacy", "generality", "retention", "locality"):
            if steps[step][name]:
                assert steps[step][name]["mean"] == means[f"{label}/{name}"]


def test_a_timeline_is_taken_over_its_snapshots(told: Any) -> None:
    means = {task: cells["rag"]["mean"] for task, cells in told["figures"].items() if task.startswith("pat/")}
    assert means == {
        "pat/efficacy": 0.5,
        "pat/efficacy, two facts": 1.0,
        "pat/unchanged": 0.0,
        "pat/locality": 1.0,
    }
    assert "pat/efficacy" not in told["differences"], "ours was not asked"


def test_milliseconds_are_told_of_jobs_that_ran_alone(root: Path) -> None:
    rows = gathered([root])
    costs = table(rows, [])["costs"]["world/unseen"]["ours"]
    assert costs == {"prompt_tokens": 30.0}
    rows["task"] = rows["task"].str.replace("world/", "alone/")
    assert table(rows, [])["costs"]["alone/unseen"]["ours"].keys() == {"prompt_tokens", "ms"}


def test_the_report_and_the_readme_show_the_file(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "reports" / "h100" / "main.json"
    main([str(root), "--plan", "world", "--out", str(out)])
    written = json.loads(out.read_text(encoding="utf-8"))
    assert (written["commit"], written["seeds"], written["jobs"]) == ("0123abc", [0, 1], [{"done": 5}])
    shown, beyond, costs = measured(MAIN, tmp_path / "reports")
    assert shown.table.header[:3] == ["task", "n", "ours"]
    assert len(shown.table.rows) == len(written["figures"])
    unseen = next(row for row in shown.table.rows if row[0].text == "world/unseen")
    assert (unseen[2].text, unseen[2].best, unseen[3].best) == ("75.0", True, False)
    icl = shown.table.header.index("icl")
    assert "positions" in unseen[icl].text
    assert [row[0].text for row in beyond.table.rows] == list(written["differences"])
    assert ["world/unseen", "ours", "30"] in [[cell.text for cell in row] for row in costs.table.rows]
    page = main_table(tmp_path)
    assert "| world/unseen | 2 | **75.0** | 0.0 |" in page
    assert main_table(tmp_path / "elsewhere") == "_Not measured yet._"


def test_streams_that_were_measured_by_themselves_fill_empty_cells(root: Path, tmp_path: Path) -> None:
    step = {"edits": 1, "efficacy": {"mean": 0.25, "low": 0.0, "high": 1.0, "n": 4}}
    step |= dict.fromkeys(("generality", "portability", "retention", "locality"))
    figures = {"memit:statistics.tokens=300": [{"edits": 0}, step, step | {"edits": 7}], "ours": [{}, step]}
    file = tmp_path / "memit.json"
    file.write_text(json.dumps(ABOUT | {"figures": figures}), encoding="utf-8")
    filled = table(gathered([root]), CANNOT, streamed([file], "world"))["figures"]
    first = filled["world, 1 edit/efficacy"]
    assert (first["memit"]["mean"], first["memit"]["from"]) == (0.25, "python -m it; commit 0123abc")
    assert first["ours"]["mean"] == 1.0, "the campaign has it"
    assert first["ours"]["best"]
    assert not first["memit"]["best"]
    assert filled["world, 7 edits/efficacy"]["memit"]["best"], "no job has this length"


def test_folders_without_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished job of evaluate, streams or timeline there"):
        gathered([tmp_path])
    with pytest.raises(UserError, match=r"no campaign-\*\.json in it"):
        main([str(tmp_path), "--out", str(tmp_path / "main.json")])


def test_methods_stand_in_the_order_of_the_table() -> None:
    assert ordered({"zeta", "rag", "ours", "alpha"}) == ["ours", "rag", "alpha", "zeta"]
