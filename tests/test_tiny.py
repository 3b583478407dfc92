"""The tiny models and the small world are what other tests take them for."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from pipeline.kg.facts import read_table
from pipeline.weights import Encoder, load_encoder, load_language_model
from tests.tiny import FAMILIES, SmallWorld, tiny_language_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_language_model_loads_and_speaks(family: str, tmp_path: Path) -> None:
    lm = tiny_language_model(tmp_path, family)
    model, tokenizer = load_language_model(lm, "cpu")
    text = "<|im_start|>user\nÇa va — «oui»?  Zwei  Leerzeichen\n<|im_end|>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert ids[0] == 1
    assert ids[-1] == 2
    batch = tokenizer(["a", "a longer prompt than that"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    assert logits.shape[-1] == len(tokenizer)
    assert torch.isfinite(logits).all()
    assert logits[0, -1].std() > 0.1
    assert model.dtype == torch.float32


def test_the_tiny_encoder_loads(encoder: Encoder) -> None:
    model, tokenizer = load_encoder(encoder, "cpu")
    assert model.config.hidden_size == 32
    assert tokenizer("Aland?").input_ids[0] == tokenizer.cls_token_id


def test_the_small_world_has_every_split(world: SmallWorld) -> None:
    graph = world.graph
    assert 35 <= graph.live(0).sum() <= 50
    assert graph.last_snapshot == 1
    assert set(graph.facts["fold"].to_pylist()) == {"train", "valid", "test", "unseen_relation"}
    assert set(graph.changes["op"].to_pylist()) == {"delete", "upsert"}
    questions = read_table(world.paths.kv, "questions")
    splits = Counter(questions["split"].to_pylist())
    assert set(splits) == {
        *("train", "valid", "seen", "unseen", "unseen_relation", "updated", "added", "unchanged"),
        "unanswerable",
    }
    assert {"template", "human", "unanswerable"} <= set(questions["kind"].to_pylist())
    assert (world.paths.index / "index.json").is_file()
    assert (world.paths.rotate / "rotate.safetensors").is_file()
