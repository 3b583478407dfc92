"""The grounding benchmark on the small world: its figures, its rows, and what is said of wrong names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from pipeline.benchmark import main
from pipeline.benchmarks.grounding import chosen, grounding
from pipeline.config import CONF, ConfigError, UserError, section
from pipeline.evaluation.grounding import Grounding
from pipeline.model.adapter import save_adapter
from pipeline.model.settings import AtlasKv, AtlasKvFlat
from pipeline.weights import Encoder, LanguageModel
from tests.evaluation.test_grounding import settings
from tests.model.tiny_systems import CPU, opened, vector
from tests.tiny import SmallWorld, memory_settings


def test_every_method_is_measured_at_every_size_with_every_seed(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"every": 2, "grounding": 0, "leaves": 3, "inner": 4}
    changes = ",".join(f"{name}={value}" for name, value in sizes.items())
    system = opened(vector(AtlasKv, **sizes), world, lm, encoder)
    paths = world.indexed(encoder)
    out = tmp_path / "out"
    out.mkdir()
    for seed in (0, 1):
        save_adapter(system, tmp_path / str(seed) / "mine", {})
    most = int(world.graph.live(0).sum())
    methods = ["rag", f"atlaskv:{changes}@mine"]
    asked = settings(methods=methods, sizes=[2, most, most + 30], seeds=[0, 1], questions=3)
    places = replace(paths, adapters=tmp_path / "SEED")
    grounding.run(asked, memory_settings(), lm, encoder, CPU, places, out)  # type: ignore[attr-defined]
    told = json.loads((out / "grounding.json").read_text())
    figures = told["figures"]["accuracy"]
    assert set(figures) == {"encoder", f"atlaskv:{changes}"}
    for wordings in figures.values():
        assert set(wordings) == {"key", "as_asked"}
        for found in wordings.values():
            assert set(found) == {"2", str(most), str(most + 30)}
            for row in found.values():
                assert 0 <= row["acc1"]["mean"] <= row["acc5"]["mean"] <= 1
                assert row["questions"] == 6
    rows = pq.read_table(out / "grounding.parquet").to_pandas()
    assert len(rows) == 2 * 3 * 2 * 2 * 3  # methods, sizes, seeds, wordings, questions
    assert told["figures"]["facts"] == most
    for name, causes in told["figures"]["missed"].items():
        last = figures[name]["as_asked"][str(most + 30)]
        assert sum(causes.values()) == round((1 - last["acc1"]["mean"]) * last["questions"])
    generated = told["figures"]["generated"]
    assert generated["vectors"] == "mixed"
    [(size, made)] = generated["sizes"].items()
    assert (size, made["facts"]) == (str(most + 30), 30)
    assert set(made["entities"]) == {"0", "1"}
    assert all(0 < entities <= 30 for entities in made["entities"].values())


def test_methods_without_vectors_for_generated_facts_are_refused(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    most = int(world.graph.live(0).sum())
    asked = settings(methods=["rag", "dysk"], sizes=[most + 1])
    with pytest.raises(UserError, match=rf"dysk needs RotatE vectors.* space=text, .* at most {most}"):
        grounding.run(asked, memory_settings(), lm, encoder, CPU, world.paths, tmp_path)  # type: ignore[attr-defined]


def test_an_entry_names_file_values_and_folder() -> None:
    variant = chosen("atlaskv:roots=9,leaves=3,memory.k=2@other", memory_settings())
    assert (variant.name, variant.folder) == ("atlaskv:roots=9,leaves=3,memory.k=2", "other")
    assert isinstance(variant.method, AtlasKv)
    assert (variant.method.roots, variant.method.leaves) == (9, 3)
    assert variant.memory == memory_settings(k=2)
    variant = chosen("atlaskv_flat", memory_settings())
    assert (variant.name, variant.folder) == ("atlaskv_flat", "atlaskv")
    assert isinstance(variant.method, AtlasKvFlat)
    assert chosen("rag", memory_settings()).name == "encoder"


def test_wrong_names_are_told() -> None:
    with pytest.raises(ConfigError, match="there is no 'none' in conf/method"):
        chosen("none", memory_settings())
    with pytest.raises(ConfigError, match="closed_book finds no facts"):
        chosen("closed_book", memory_settings())
    with pytest.raises(ConfigError, match="size"):
        chosen("atlaskv:size=3", memory_settings())
    with pytest.raises(ConfigError, match=r"memory\.k must be at least 1"):
        chosen("ours:memory.k=0", memory_settings())
    values = OmegaConf.load(CONF / "grounding" / "default.yaml")
    with pytest.raises(ConfigError, match=r"grounding\.distractors must be one of mixed, encoded, not 'no'"):
        section(Grounding, OmegaConf.merge(values, {"distractors": "no"}), "grounding")
    with pytest.raises(
        SystemExit, match=r"name one of ablation, asof, editing, fetching, foldin, .*variants first"
    ):
        main(["benchmark", "other"])
