"""Where model weights come from: every name is one pinned artefact.

A source is one of

- ``pypi:PROJECT==VERSION/FOLDER-OR-FILE``: files inside a wheel, which is downloaded without its
  dependencies and never installed;
- ``hub:OWNER/NAME@REVISION``: a model of the Hugging Face hub;
- a folder on this machine.

What was fetched is kept in the cache folder (``KG_CACHE``, by default ``~/.cache/living-memory``), GGUF
files dequantised once into safetensors, so that the next load takes a second.
"""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils.logging import disable_progress_bar

from pipeline.config import UserError

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
    """What the model is asked with: `{question}` stands for the question, `{facts}` for facts in the prompt."""
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


def cache_folder() -> Path:
    """Return the folder that keeps what was downloaded."""
    return Path(os.environ.get("KG_CACHE", Path.home() / ".cache" / "living-memory"))


def load_language_model(lm: LanguageModel, device: torch.device | str) -> tuple[Any, Any]:
    """Return the frozen language model, on `device` and in evaluation mode, and its tokenizer.

    Raises:
        UserError: the weights can't be had, with what was tried and how to supply them.
    """
    folder = fetch(lm.name, lm.source, lm.sha256, _dequantise)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.convert_tokens_to_ids(lm.stop) in (None, tokenizer.unk_token_id):
        raise UserError(f"conf/lm: lm.stop is {lm.stop!r}, which the tokenizer of {lm.name} doesn't know")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[lm.dtype], attn_implementation="sdpa")
    return model.to(device).eval().requires_grad_(False), tokenizer


def load_encoder(encoder: Encoder, device: torch.device | str) -> tuple[Any, Any]:
    """Return the sentence encoder, on `device` and in evaluation mode, and its tokenizer.

    Raises:
        UserError: the weights can't be had, with what was tried and how to supply them.
    """
    folder = fetch(encoder.name, encoder.source, encoder.sha256)
    disable_progress_bar()
    dtype = DTYPES[encoder.dtype] if torch.device(device).type == "cuda" else torch.float32
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    return model.to(device).eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


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
            with tempfile.TemporaryDirectory() as scratch:
                fresh = Path(scratch) / "model"
                _take(fetch_package(match[1], sha256), match[2], fresh)
                if convert:
                    convert(fresh)
                _keep(fresh, folder)
        return folder
    if source.startswith("hub:"):
        match = re.fullmatch(r"hub:([^@]+)@(\w+)", source)
        if not match:
            raise UserError(f"{name}: source {source!r} is not of the form hub:OWNER/NAME@REVISION")
        try:
            return Path(snapshot_download(match[1], revision=match[2]))
        except Exception as error:  # the hub client raises a dozen types of its own and of its transports
            raise UserError(
                f"{name}: tried {source} and could not fetch it ({type(error).__name__}: {error}); go online once, "
                f"or put the model into a folder and set `source` in its file of conf/ to that folder"
            ) from error
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name}: tried the folder {folder}, which holds no config.json; point `source` in its file of conf/ "
            f"to a folder of the transformers library, or to pypi:… or hub:…"
        )
    return folder


def fetch_package(requirement: str, sha256: str) -> Path:
    """Return the archive of a pinned Python package, downloaded without its dependencies and checked.

    Raises:
        UserError: the registry can't be reached, or the bytes are not the pinned ones.
    """
    store = cache_folder() / "packages"
    known = store / sha256
    if known.is_dir() and (found := sorted(known.iterdir())):
        return _checked(found[0], sha256, requirement)
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            scratch,
            requirement,
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        files = sorted(Path(scratch).iterdir())
        if run.returncode or len(files) != 1:
            reason = run.stderr.strip().splitlines()[-1:] or ["no file came"]
            raise UserError(
                f"{requirement}: tried `pip download` and got nothing ({reason[0]}); "
                f"put the file with SHA-256 {sha256} into {known} by hand"
            )
        _checked(files[0], sha256, requirement)
        _keep(Path(scratch), known)
    return next(known.iterdir())


def _checked(file: Path, sha256: str, requirement: str) -> Path:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256:
        raise UserError(
            f"{file}: SHA-256 is {digest}, but {requirement} is pinned to {sha256}; delete the file"
        )
    return file


def _take(archive: Path, member: str, folder: Path) -> None:
    """Copy a file, or all files below a folder, out of a wheel."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            names = [n for n in wheel.namelist() if n == member or n.startswith(member.rstrip("/") + "/")]
            if not names:
                raise UserError(f"{archive.name}: holds no {member}; correct `source` in conf/")
            for name in names:
                target = folder / (Path(name).name if name == member else name[len(member.rstrip("/")) + 1 :])
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(name) as stream, target.open("wb") as out:
                    shutil.copyfileobj(stream, out)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: not a wheel ({error}); delete it and run again") from error


def _keep(fresh: Path, folder: Path) -> None:
    """Move a finished folder into the cache in one step, so that a reader never sees half of one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent)) / "staged"
    shutil.copytree(fresh, staged)
    if folder.is_dir():  # another process was faster
        shutil.rmtree(staged.parent)
        return
    staged.rename(folder)
    staged.parent.rmdir()


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
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files[0].unlink()
