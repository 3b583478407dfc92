"""Where model weights come from: every name is one pinned artefact.

A source is one of

- ``pypi:PROJECT==VERSION/FOLDER-OR-FILE``: files inside a wheel, which is downloaded without its
  dependencies and never installed;
- ``hub:OWNER/NAME@REVISION``: a model of the Hugging Face hub, at a commit, named in full;
- a folder on this machine.

What was fetched is kept in the cache folder (``KG_CACHE``, by default ``~/.cache/living-memory``), GGUF
files dequantised once into safetensors, so that the next load takes a second.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils.logging import disable_progress_bar

from pipeline.config import UserError
from pipeline.packages import cache_folder, wheel

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A decoder of the transformers library."""

    name: str
    """What reports call it; the same name never gives other bytes."""
    source: str
    """`pypi:…`, `hub:…` or a folder: see the module."""
    sha256: str
    """Of the wheel; empty for a hub revision, which is a hash itself, and for a folder."""
    dtype: str
    """bfloat16, float16 or float32."""
    prompt: str
    """What the model is asked with: `{question}` stands for the question, `{facts}` for facts before it."""
    stop: str
    """The token that ends an answer."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"lm.dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if "{question}" not in self.prompt or "{facts}" not in self.prompt:
            raise ValueError("lm.prompt must hold {question} and {facts}")


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A sentence encoder of the transformers library, mean-pooled and normalised."""

    name: str
    """What reports call it."""
    source: str
    """`pypi:…`, `hub:…` or a folder: see the module."""
    sha256: str
    """Of the wheel; empty for a hub revision and for a folder."""
    dtype: str
    """bfloat16, float16 or float32; what the encoder computes in on a GPU (a CPU takes float32)."""
    max_tokens: int
    """Longer texts are cut."""
    batch_size: int
    """Texts encoded at once."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"encoder.dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ValueError("encoder.max_tokens and encoder.batch_size must be at least 1")


def load_language_model(lm: LanguageModel, device: torch.device | str) -> tuple[Any, Any]:
    """Return the frozen language model, on `device` and in evaluation mode, and its tokenizer.

    Raises:
        UserError: the weights can't be had, with what was tried and how to supply them.
    """
    folder = fetch(lm.name, lm.source, lm.sha256, _dequantise)
    disable_progress_bar()
    with _loading(lm.name, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[lm.dtype], attn_implementation="sdpa"
        )
    if tokenizer.convert_tokens_to_ids(lm.stop) in (None, tokenizer.unk_token_id):
        raise UserError(f"conf/lm: lm.stop is {lm.stop!r}, which the tokenizer of {lm.name} doesn't know")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval().requires_grad_(False), tokenizer


def load_encoder(encoder: Encoder, device: torch.device | str) -> tuple[Any, Any]:
    """Return the sentence encoder, on `device` and in evaluation mode, and its tokenizer.

    Raises:
        UserError: the weights can't be had, with what was tried and how to supply them.
    """
    folder = fetch(encoder.name, encoder.source, encoder.sha256)
    disable_progress_bar()
    dtype = DTYPES[encoder.dtype] if torch.device(device).type == "cuda" else torch.float32
    with _loading(encoder.name, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, dtype=dtype)
    return model.to(device).eval().requires_grad_(False), tokenizer


@contextmanager
def _loading(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library raises whatever its many readers raise
        raise UserError(
            f"{name}: tried the folder {folder}, which can't be loaded ({type(error).__name__}: {error}); "
            f"delete it if it is below {cache_folder()}, so that it is fetched again, or repair it"
        ) from error


def fetch(name: str, source: str, sha256: str, convert: Callable[[Path], None] | None = None) -> Path:
    """Return the folder that holds the model of `source`, fetching and checking it where it is not cached.

    Args:
        name: what errors and the cache call it.
        source: see the module.
        sha256: expected digest of the wheel, in hexadecimal; empty where the source needs none.
        convert: applied to a freshly fetched folder, in place, before it is kept.

    Raises:
        UserError: the source can't be read, reached or trusted.
    """
    if source.startswith("pypi:"):
        match = re.fullmatch(r"pypi:([\w.-]+==[\w.]+)/(.+)", source)
        if not match:
            raise UserError(f"{name}: source {source!r} is not of the form pypi:PROJECT==VERSION/PATH")
        folder = cache_folder() / "weights" / f"{name}-{sha256[:12]}"
        if not folder.is_dir():
            _unpack(match[1], sha256, match[2], folder, convert)
        return folder
    if source.startswith("hub:"):
        match = re.fullmatch(r"hub:([^@]+)@([0-9a-f]{40})", source)
        if not match:
            raise UserError(
                f"{name}: source {source!r} is not of the form hub:OWNER/NAME@REVISION with a commit of 40 "
                "hexadecimal digits (a branch or a tag can move)"
            )
        try:
            return Path(snapshot_download(match[1], revision=match[2]))
        except Exception as error:  # the hub client raises a dozen types of its own and of its transports
            raise UserError(
                f"{name}: tried {source} and could not fetch it ({type(error).__name__}: {error}); "
                "go online once, or put the model into a folder and set `source` in its file of conf/ to it"
            ) from error
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name}: tried the folder {folder}, which holds no config.json; point `source` in its file of "
            "conf/ to a folder of the transformers library, or to pypi:… or hub:…"
        )
    return folder


def _unpack(
    release: str, sha256: str, member: str, folder: Path, convert: Callable[[Path], None] | None
) -> None:
    """Make `folder` of what a wheel holds; it appears in one step, so that no reader sees half of it."""
    package = wheel(release, sha256)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            fresh = Path(scratch) / "model"
            fresh.mkdir()
            package.unpack(member, fresh)
            if convert:
                with _converting(f"{package.path.name}/{member}"):
                    convert(fresh)
            if not folder.is_dir():  # another process may have been faster
                fresh.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: can't be written ({error}); set KG_CACHE to a folder that can"
        ) from error


@contextmanager
def _converting(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as in _loading
        raise UserError(
            f"{what}: can't be converted ({type(error).__name__}: {error}); pin another release in conf/, "
            "or set `source` to a folder of the transformers library"
        ) from error


def _dequantise(folder: Path) -> None:
    """Replace the GGUF file of `folder` by bfloat16 safetensors, a configuration and a tokenizer."""
    files = sorted(folder.glob("*.gguf"))
    if not files:
        return
    log.info("dequantising %s", files[0].name)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=files[0].name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files[0].unlink()
