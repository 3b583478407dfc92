import json
import re
import subprocess

import pytest
import yaml

from pipeline.config import ROOT, UserError
from pipeline.reporting.readme import BLOCKS, PAGES, dag, filled

REPORTS = ("reports/metrics.json", "reports/h100", "reports/acceptance.json")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def changed(*paths):
    words = ["git", "status", "--porcelain", "--", *paths]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def test_the_readme_says_what_the_reports_say():
    if changed(*REPORTS) and not changed("README.md"):
        pytest.skip("the reports hold a run of your own; README.md is about the one in git")
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    assert all(filled(page, ROOT) == page for page in pages), "run `python -m pipeline.reporting.readme`"
    assert all(f"<!-- {name}:begin -->" in "".join(pages) for name in BLOCKS)
    assert len(README.splitlines()) <= 200


def test_the_picture_of_the_dag_is_that_of_dvc_yaml():
    assert dag(ROOT) in README
    arrows = set(re.findall(r"^  (\w+) --> (\w+)$", README, re.MULTILINE))
    assert {
        ("ingest", "embed"),
        ("train", "evaluate"),
        ("baseline", "report"),
        ("evaluate", "report"),
    } <= arrows
    assert ("train", "baseline") not in arrows
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {name for pair in arrows for name in pair} == set(stages)


def test_files_and_modules_that_the_readme_names_are_there():
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (pipeline[\w.]*)", README):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"make (repro|ask|experiments|test|soak)\b", README)) <= set(targets)


@pytest.fixture
def project(tmp_path):
    """A project with results of two methods, a GPU's, and a ledger."""
    em = {"n": 200, "em": 0.975, "em_low": 0.95, "em_high": 0.99}
    evaluated = {
        "rag": {"unseen": em | {"em": 0.9}, "seeds": 1},
        "ours": {"unseen": em, "updated": em, "refusal_auroc": 0.9},
        "another": {"seeds": 3},
    }
    figures = json.dumps({"evaluate": evaluated})
    (tmp_path / "reports" / "h100" / "slice").mkdir(parents=True)
    (tmp_path / "reports" / "metrics.json").write_text(figures)
    (tmp_path / "reports" / "h100" / "slice" / "metrics.json").write_text(figures)
    (tmp_path / "reports" / "h100" / "grounding").mkdir()
    right = {"acc1": {"mean": 0.9, "low": 0.8, "high": 0.95}}
    accuracy = {"ours": {"key": {"10": right, "1000": right}}, "other": {"key": {"10": right}}}
    (tmp_path / "reports" / "h100" / "grounding" / "tiny.json").write_text(
        json.dumps({"figures": {"accuracy": accuracy}})
    )
    (tmp_path / "reports" / "h100" / "codex.json").write_text('{"mrr": 0.33}')
    row = {
        "issue": "first",
        "line": 2,
        "target": "≥ 90 %",
        "figure": {"path": "a", "value": 0.5},
        "holds": True,
    }
    short = row | {"holds": False, "reason": "a bad day"}
    unknown = short | {"line": 3, "target": "fast", "figure": {"path": "b", "value": None}}
    (tmp_path / "reports" / "acceptance.json").write_text(
        json.dumps([row, short, short | {"target": "≥ 80 %"}, unknown, row | {"issue": "second"}])
    )
    (tmp_path / "dvc.yaml").write_text(
        "stages: {a: {deps: [x.py], outs: [A]},"
        " b: {matrix: {method: [m, n]}, deps: [A], outs: ['B/${item.method}']},"
        " c: {deps: [A, B/n], outs: [{C: {cache: false}}]}}"
    )
    return tmp_path


def text(*names):
    return "\n".join(
        f"before\n<!-- {name}:begin -->\nformer text\n<!-- {name}:end -->\nafter" for name in names
    )


def test_blocks_are_filled_once_and_for_all(project):
    before = text(*BLOCKS)
    after = filled(before, project)
    assert filled(after, project) == after
    assert "former text" not in after
    assert re.findall(r"^(?:before|after)$", after, re.MULTILINE) == ["before", "after"] * len(BLOCKS)
    table = "| unseen | entities never trained on | 200 | **97.5** [95.0, 99.0] | 90.0 [95.0, 99.0] | — |"
    assert after.count(table) == 2
    assert "| split | what it asks | n | ours | rag | another |" in after
    assert "**slice**" in after
    assert "codex" not in after
    assert "| method | wording | 10 facts | 1,000 facts |" in after
    assert "| other | key | 90.0 [80.0, 95.0] | — |" in after
    short = "≥ 90 %; measured 0.5. a bad day. ≥ 80 %; measured 0.5. a bad day"
    assert f"- first: 1 of 4 figures hold.\n  - Open, line 2: {short}\n" in after
    assert "\n  - Open, not measured: line 3, fast (a bad day).\n" in after
    assert after.index("- first") < after.index("- second: 1 of 1")
    assert '  b["b<br/>m, n"]' in after
    assert re.findall(r"(\w) --> (\w)", after) == [("a", "b"), ("b", "c")]


def test_what_was_not_measured_is_said_to_be(tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "acceptance.json").write_text("[]")
    after = filled(text("results", "gpu", "ledger"), tmp_path)
    assert after.count("_Not measured yet") == 2
    assert "_Nothing is in the ledger yet._" in after


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        ("<!-- results:begin -->", "needs its <!-- NAME:end -->"),
        ("<!-- results:end -->\n<!-- results:begin -->", "needs its <!-- NAME:end -->"),
        ("<!-- results:begin -->\n<!-- gpu:end -->", "needs its <!-- NAME:end -->"),
        ("<!-- prices:begin --><!-- prices:end -->", "no block 'prices'; the blocks are dag, results, gpu"),
        ("<!-- ledger:begin --><!-- ledger:end -->", r"acceptance.json: can't be read .*restore it"),
    ],
)
def test_bad_markers_and_files_are_named(marked, words, tmp_path):
    with pytest.raises(UserError, match=words):
        filled(marked, tmp_path)
