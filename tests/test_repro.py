"""Stages side by side: order, failures, what is passed on, and a real project that DVC runs."""

import json
import threading
import time
from pathlib import Path

import pytest

from pipeline.config import UserError
from pipeline.repro import main, needs, relay, side_by_side
from tests.workspace import git

DOT = """strict digraph {
"ingest";
"train@ours";
"train@rag";
"report";
"ingest" -> "train@ours";
"ingest" -> "train@rag";
"train@ours" -> "report";
"train@rag" -> "report";
}
"""


def test_the_graph_is_read_with_its_order() -> None:
    graph = needs(DOT)
    assert list(graph) == ["ingest", "train@ours", "train@rag", "report"]
    assert graph["report"] == {"train@ours", "train@rag"}
    assert graph["ingest"] == set()


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_what_does_not_depend_runs_at_once_and_the_rest_waits(jobs: int) -> None:
    lock, going, most, ended = threading.Lock(), set[str](), 0, list[str]()
    graph = needs(DOT)

    def run(stage: str) -> None:
        nonlocal most
        with lock:
            assert graph[stage] <= set(ended)
            going.add(stage)
            most = max(most, len(going))
        time.sleep(0.1)
        with lock:
            going.remove(stage)
            ended.append(stage)

    side_by_side(graph, jobs, run)
    assert sorted(ended) == sorted(graph)
    assert most == min(jobs, 2)


def test_after_a_failure_nothing_more_begins() -> None:
    begun = []

    def run(stage: str) -> None:
        begun.append(stage)
        if stage == "train@ours":
            raise UserError("train@ours broke")
        time.sleep(0.05)

    with pytest.raises(UserError, match=r"train@ours broke"):
        side_by_side(needs(DOT), 2, run)
    assert set(begun) == {"ingest", "train@ours", "train@rag"}
    with pytest.raises(UserError, match=r"wait for each other: a, b"):
        side_by_side({"a": {"b"}, "b": {"a"}}, 2, run)


def test_lines_are_passed_on_and_bars_now_and_then() -> None:
    said: list[str] = []
    relay("train", [b"one\ntw", b"o\n\n 1%|\r 2%|\r", "drei \u2713".encode()], said.append)
    assert said == ["train | one", "train | two", "train | drei \u2713"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    stages = {
        "first": {"cmd": "echo 1 > a", "outs": ["a"]},
        "left": {"cmd": "cat a > b; echo $OMP_NUM_THREADS > threads", "deps": ["a"], "outs": ["b"]},
        "right": {"cmd": "cat a > c; test ! -e broken", "deps": ["a"], "outs": ["c"]},
        "report": {"cmd": "cat b c > d", "deps": ["b", "c"], "outs": ["d"]},
        "aside": {"cmd": "cat a > e", "deps": ["a"], "outs": ["e"]},
    }
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n analytics = false\n", encoding="utf-8")
    git("init", "--quiet", cwd=tmp_path)
    return tmp_path


def test_a_project_is_reproduced_once_and_a_failure_is_named(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "broken").touch()
    with pytest.raises(UserError, match=r"stage right ended with \d+; its message stands above"):
        main([], project)
    assert not (project / "d").exists()
    (project / "broken").unlink()
    main([], project)
    assert (project / "d").read_text() == "1\n1\n"
    assert int((project / "threads").read_text()) >= 1
    printed = capfd.readouterr().out
    assert printed.count("Running stage 'first'") == 1
    assert "Running stage 'aside'" not in printed
    assert printed.count("Running stage 'report'") == 1
    main([], project)
    assert "Running stage" not in capfd.readouterr().out
    main(["aside"], project)
    assert capfd.readouterr().out.count("Running stage") == 1
    with pytest.raises(UserError, match=r"--jobs must be at least 1, not 0"):
        main(["--jobs", "0"], project)
