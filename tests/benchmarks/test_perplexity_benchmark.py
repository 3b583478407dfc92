"""The benchmark of perplexity on the small world: refused starts change nothing, facts that are read do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.benchmarks.perplexity import Perplexity, halves, perplexity
from pipeline.config import UserError
from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.benchmarks.test_variants_benchmark import SIZES
from tests.model.tiny_systems import CPU, opened, ours, shaken
from tests.tiny import SmallWorld, memory_settings

TEXTS = [
    f"Ships of line {number} sail to the harbour of Aland and come back with coffee." for number in range(9)
]


def settings(**changes: Any) -> Perplexity:
    values: dict[str, Any] = {"file": "texts.txt", "texts": 5, "start_tokens": 6, "end_tokens": 7}
    values |= {"entries": [f"ours:{SIZES}@mine"], "seeds": [0], "batch_size": 2, "bootstrap_samples": 50}
    return Perplexity(**(values | changes))


@pytest.fixture
def texts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KG_DATA_ROOT", str(tmp_path))
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(["short", *TEXTS]) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("refuses", [True, False])
def test_a_refused_start_leaves_the_bare_model(
    refuses: bool, world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path, texts_file: Path
) -> None:
    system = opened(ours(), world, lm, encoder)
    shaken(system)
    system.null.threshold.fill_(-1.0 if refuses else 1.0)
    save_adapter(system, tmp_path / "adapters" / "mine", {})
    paths = replace(world.indexed(encoder), adapters=tmp_path / "adapters")
    out = tmp_path / "out"
    out.mkdir()
    perplexity.run(settings(), memory_settings(), lm, encoder, CPU, paths, out)  # type: ignore[attr-defined]
    [found] = json.loads((out / "perplexity.json").read_text())["figures"].values()
    assert found["texts"] == 5
    assert found["bare"]["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    if refuses:
        assert found["on"] == found["bare"]
        assert found["always"]["perplexity"] != pytest.approx(found["bare"]["perplexity"], rel=1e-4)
    else:
        assert found["on"] == found["always"]


def test_an_end_is_scored_token_by_token(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    reader = opened(ours(), world, lm, encoder).reader
    starts, ends = ["The capital", "Tell"], [" of Aland", " me the anthem of Cland."]
    found = reader.surprise(reader.continued(starts, ends))
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        first, rest = reader.encode([start])[0], reader.encode([end])[0]
        with torch.no_grad():
            logits = reader.lm(input_ids=torch.tensor([first + rest])).logits[0].log_softmax(-1)
        slow = -sum(logits[len(first) + i - 1, token].item() for i, token in enumerate(rest))
        assert found[row].item() == pytest.approx(slow, rel=1e-4)


def test_a_file_without_texts_is_named(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, texts_file: Path
) -> None:
    reader = opened(ours(), world, lm, encoder).reader
    assert len(halves(reader, settings(texts=99))) == len(TEXTS)
    table = texts_file.with_suffix(".csv")
    table.write_text("".join(f'"1","title","{text}"\n' for text in TEXTS), encoding="utf-8")
    assert sorted(halves(reader, settings(texts=99, file="texts.csv"))) == sorted(
        halves(reader, settings(texts=99))
    )
    with pytest.raises(UserError, match=r"texts\.txt: no text of 907 tokens in it"):
        halves(reader, settings(end_tokens=901))
    with pytest.raises(UserError, match=r"none\.txt.* name another by perplexity\.file"):
        halves(reader, settings(file="none.txt"))
    with pytest.raises(ValueError, match=r"perplexity\.texts must be at least 1, not 0"):
        settings(texts=0)
    with pytest.raises(ValueError, match=r"perplexity\.entries and perplexity\.seeds must not be empty"):
        settings(entries=[])
