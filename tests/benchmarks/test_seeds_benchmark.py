"""Several seeds of two methods, run for real on the small world, and what is said of a run that fails."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.benchmarks import seeds as benchmark
from pipeline.config import UserError
from tests.closure import ROOT
from tests.test_sweeps import train_inputs
from tests.tiny import tiny_decoder, tiny_tokenizer

SIZES = ["trainer=cpu", "evaluate=laptop", "evaluate.questions_per_split=3", "evaluate.bootstrap_samples=20"]


def inputs(folder: Path) -> list[str]:
    """Write what the stages read, and return overrides; the methods have the sizes of conf/method."""
    choices = [word for word in train_inputs(folder) if not word.startswith("method=")]
    tokenizer = tiny_tokenizer()
    # conf/method/ours.yaml reads facts from the ninth layer on.
    tiny_decoder("llama", len(tokenizer), layers=9).save_pretrained(folder / "lm")
    return [*choices, *SIZES]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KG_COMMIT", "0123abc")
    return tmp_path


@pytest.mark.soak
def test_a_method_that_is_not_trained_is_asked_with_each_seed(workplace: Path) -> None:
    own = ["--methods", "majority", "--seeds", "3", "5", "--jobs", "2", "--out", "reports/tiny"]
    benchmark.main([*own, "--", *inputs(workplace)])
    scratch, out = workplace / "multirun" / "seeds", workplace / "reports" / "tiny"
    assert not (scratch / "train").exists()
    assert {folder.name for folder in (scratch / "evaluate").iterdir()} == {"majority-3", "majority-5"}
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance.keys() == {"command", "commit", "versions", "machine", "seeds", "seconds"}
    assert "2 seeds" in (out / "results.md").read_text(encoding="utf-8")


@pytest.mark.soak
def test_each_method_is_trained_and_asked_with_each_seed(workplace: Path) -> None:
    own = ["--methods", "ours", "rag", "--seeds", "3", "5", "--jobs", "1", "--out", "reports/tiny"]
    benchmark.main([*own, "--", *inputs(workplace)])
    scratch, out = workplace / "multirun" / "seeds", workplace / "reports" / "tiny"
    for method in ("ours", "rag"):
        adapters = [scratch / "train" / seed / method / "adapter.safetensors" for seed in "35"]
        assert len({adapter.read_bytes() for adapter in adapters}) == 2, "each seed has an adapter of its own"
        for seed in (3, 5):
            figures = json.loads((scratch / "evaluate" / f"{method}-{seed}" / "metrics.json").read_text())
            assert (figures["method"], figures["seed"]) == (method, seed)
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["seeds"] == [3, 5]
    assert provenance["commit"] == "0123abc"
    assert provenance["command"].startswith(
        "python -m pipeline.benchmarks.seeds --methods ours rag --seeds 3 5"
    )
    assert provenance["seconds"] > 0
    results = (out / "results.md").read_text(encoding="utf-8")
    assert "2 seeds" in results
    assert set(pd.read_csv(out / "plots" / "training.csv")["method"]) == {"ours", "rag"}


def test_a_run_that_fails_is_named_with_its_log_and_nothing_is_reported(workplace: Path) -> None:
    own = ["--methods", "rag", "--seeds", "0", "--scratch", "runs", "--out", "out"]
    with pytest.raises(
        UserError, match=r"pipeline\.train .*ended with 1; see runs/train-rag-0\.log: .*memory\.k"
    ):
        benchmark.main([*own, "--", "memory.k=0"])
    assert "memory.k" in (workplace / "runs" / "train-rag-0.log").read_text(encoding="utf-8")
    assert not (workplace / "out").exists()
