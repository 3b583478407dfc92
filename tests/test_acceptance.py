import json

import pytest

from pipeline.config import ROOT
from pipeline.reporting.ledger import figure_at, problems, refresh

ROW = {
    "issue": "end-to-end",
    "line": 2,
    "target": "EM on unseen ≥ 90 %",
    "figure": {"path": "evaluate.ours.unseen.em", "value": 0.98},
    "holds": True,
    "source": "reports/metrics.json",
    "command": "make repro",
}


def test_every_row_of_the_ledger_stands_on_its_source():
    assert problems(ROOT / "reports" / "acceptance.json", ROOT) == []


def check(folder, row):
    (folder / "reports").mkdir(exist_ok=True)
    content = {"evaluate": {"ours": {"unseen": {"em": 0.98, "n": 200}}}, "list": [1, {"deep": True}]}
    (folder / "reports" / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    ledger = folder / "acceptance.json"
    ledger.write_text(json.dumps([ROW, row]), encoding="utf-8")
    return problems(ledger, folder)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"holds": False, "target": "≥ 99 %", "reason": "a point short"},
        {"target": "as good as rag"},
        {"target": "≤ 200", "figure": {"path": "evaluate.ours.unseen.n", "value": 200}},
        {"target": "holds", "figure": {"path": "list.1.deep", "value": True}},
    ],
)
def test_a_row_that_is_right_raises_no_problem(change, tmp_path):
    assert check(tmp_path, ROW | change) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"issue": 7}, "issue must be a str, not 7"),
        ({"line": "2"}, "line must be a int, not '2'"),
        ({"command": None}, "command must be a str, not None"),
        ({"holds": 1}, "holds must be a bool, not 1"),
        ({"remark": "x"}, "unknown field 'remark'"),
        ({"figure": {"value": 0.98}}, "figure must have path and value, not ['value']"),
        ({"source": "reports/absent.json"}, "source reports/absent.json does not exist"),
        (
            {"figure": {"path": "evaluate.ours.seen.em", "value": 0.98}},
            "source reports/metrics.json: nothing at evaluate.ours.seen",
        ),
        (
            {"figure": {"path": "evaluate.ours.unseen.em", "value": 0.99}},
            "figure evaluate.ours.unseen.em is 0.98 in reports/metrics.json, not 0.99",
        ),
        (
            {"figure": {"path": "list.0", "value": True}, "target": "text"},
            "figure list.0 is 1 in reports/metrics.json, not True",
        ),
        ({"holds": False, "target": "all of it"}, "does not hold and gives no reason"),
        ({"target": "> 0.98"}, "holds is True, but 0.98 against '> 0.98' says otherwise"),
        (
            {"holds": False, "reason": "?"},
            "holds is False, but 0.98 against 'EM on unseen ≥ 90 %' says otherwise",
        ),
    ],
)
def test_a_row_that_is_wrong_is_named(change, problem, tmp_path):
    assert check(tmp_path, ROW | change) == [f"row 1: {problem}"]


def test_a_ledger_that_is_no_list_of_objects_is_refused(tmp_path):
    assert check(tmp_path, 3) == ["row 1: must be an object, not a int"]
    ledger = tmp_path / "acceptance.json"
    ledger.write_text("{}", encoding="utf-8")
    assert problems(ledger, tmp_path) == [f"{ledger}: must be a list of rows, not a dict"]
    ledger.write_text("[", encoding="utf-8")
    assert "can't be read" in problems(ledger, tmp_path)[0]
    assert "can't be read" in problems(tmp_path / "absent.json", tmp_path)[0]


def test_a_path_says_how_far_it_led():
    assert figure_at({"a": [{"b": 2}]}, "a.0.b") == 2
    assert figure_at({"a": 1, "a.b": {"c": 3}}, "a.b.c") == 3
    with pytest.raises(KeyError, match=r"nothing at a\.1"):
        figure_at({"a": [{"b": 2}]}, "a.1.b")


def test_figures_measured_again_are_taken_over(tmp_path):
    old = {"figure": {"path": "evaluate.ours.unseen.em", "value": 0.7}, "holds": False, "reason": "weak"}
    assert check(tmp_path, ROW | old)
    ledger = tmp_path / "acceptance.json"
    assert refresh(ledger, tmp_path) == []
    assert json.loads(ledger.read_text(encoding="utf-8")) == [ROW, ROW]


def test_a_row_that_no_longer_holds_asks_for_its_reason(tmp_path):
    check(tmp_path, ROW | {"target": "≥ 99 %"})
    ledger = tmp_path / "acceptance.json"
    assert refresh(ledger, tmp_path) == ["row 1: does not hold and gives no reason"]
    assert [row["holds"] for row in json.loads(ledger.read_text(encoding="utf-8"))] == [True, False]


def test_a_ledger_that_cannot_be_mended_is_left_alone(tmp_path):
    check(tmp_path, ROW | {"source": "reports/absent.json"})
    left = refresh(tmp_path / "acceptance.json", tmp_path)
    assert left == ["row 1: source reports/absent.json does not exist"]
    assert "can't be read" in refresh(tmp_path / "absent.json", tmp_path)[0]
