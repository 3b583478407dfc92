r"""The second moment C = E[k kᵀ] of a down projection's inputs over ordinary text (ROME, eq. 2)."""

import csv
import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from pipeline.config import UserError
from pipeline.kg.sources.files import located
from pipeline.model.asking import OPENINGS
from pipeline.model.editing.places import StoppedError, down, watched
from pipeline.model.reader import WRITTEN, Reader
from pipeline.packages import cache_folder

log = logging.getLogger(__name__)
LENGTH = 64
"""Tokens of a text."""
AT_ONCE = 64
"""Texts of a batch."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Where C comes from."""

    text: str
    """A file below the data root, a text a line or a table whose last column is the text; "" lets the
    language
    model write."""
    tokens: int
    """Tokens that C is the mean over."""
    ridge: float
    """Share of C's mean eigenvalue that is added to its diagonal: fewer tokens than dimensions leave it
    singular."""
    seed: int
    """Of which texts are taken, or of what is written."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"method.statistics.tokens must be at least 1, not {self.tokens}")
        if self.ridge < 0:
            raise ValueError(f"method.statistics.ridge must be at least 0, not {self.ridge}")


def moments(reader: Reader, layers: Sequence[int], settings: Statistics) -> list[Float[Tensor, "I I"]]:
    """Return C of each layer, in float64, from the cache where it is there.

    Args:
        reader: the language model in its own weights: the cache knows C by them.
        layers: numbers of layers.
        settings: which text.

    Raises:
        UserError: the file of texts is missing or empty.
    """
    missing = [number for number in layers if not _file(reader, number, settings).is_file()]
    if missing:
        for number, moment in zip(missing, _measured(reader, missing, settings), strict=True):
            file = _file(reader, number, settings)
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_suffix(f".{random.SystemRandom().getrandbits(32):08x}")
            save_file({"moment": moment.float().cpu().contiguous()}, fresh)
            fresh.replace(file)  # another process may write the same
    found = []
    for number in layers:
        moment = load_file(_file(reader, number, settings))["moment"].double().to(reader.device)
        moment.diagonal().add_(settings.ridge * moment.diagonal().mean())
        found.append(moment)
    return found


def _file(reader: Reader, number: int, settings: Statistics) -> Path:
    """Return where C of a layer is kept: by its weights, the embeddings, and which text it is from."""
    told = hashlib.sha256(repr([number, settings.text, settings.tokens, settings.seed, LENGTH]).encode())
    for weight in (down(reader.lm, number).weight, reader.lm.get_input_embeddings().weight[:1000]):
        told.update(weight.detach().float().cpu().numpy().tobytes())
    return cache_folder() / "moments" / f"{told.hexdigest()[:24]}.safetensors"


def _measured(reader: Reader, layers: Sequence[int], settings: Statistics) -> list[Float[Tensor, "I I"]]:
    sums: dict[int, Tensor] = {}
    count = 0
    with tqdm(total=settings.tokens, desc="second moments", unit="token", mininterval=1.0) as progress:
        for texts in _texts(reader, settings):
            tokens = reader.tokens(texts, form="{question}")
            seen = _keys(reader, tokens.ids, tokens.mask, layers)
            for number, keys in seen.items():
                sums[number] = sums.get(number, 0) + (keys.T @ keys).double()
            fresh = int(tokens.mask.sum())
            count += fresh
            progress.update(min(fresh, settings.tokens - progress.n))
            if count >= settings.tokens:
                break
    if not count:
        raise UserError(f"method.statistics.text: {settings.text!r} holds no text")
    if count < settings.tokens:
        log.warning("only %d of %d tokens for second moments in %s", count, settings.tokens, settings.text)
    return [sums[number] / count for number in layers]


@torch.no_grad()
def _keys(
    reader: Reader, ids: Tensor, mask: Tensor, layers: Sequence[int]
) -> dict[int, Float[Tensor, "n I"]]:
    """Return the inputs of the down projections of `layers`, at the tokens that are no padding."""
    found: dict[int, Tensor] = {}

    def see(number: int) -> Callable[[tuple[Tensor, ...], object], None]:
        def look(inputs: tuple[Tensor, ...], _: object) -> None:
            found[number] = inputs[0][mask.bool()].float()
            if len(found) == len(layers):
                raise StoppedError

        return look

    with ExitStack() as stack, suppress(StoppedError):
        for number in layers:
            stack.enter_context(watched(down(reader.lm, number), see(number)))
        reader.lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return found


def _texts(reader: Reader, settings: Statistics) -> Iterator[list[str]]:
    """Give batches of texts: those of the file, drawn, or what the language model writes."""
    if not settings.text:
        draw = random.Random(settings.seed)
        devices = [reader.device] if reader.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed)
            missing = -(-settings.tokens // LENGTH)
            while True:  # texts that end early leave a rest, for which a few more are written
                count = min(WRITTEN, max(missing, 8))
                missing -= count
                yield reader.write([draw.choice(OPENINGS) for _ in range(count)], LENGTH)
    file = located(
        settings.text, "put a file of texts there, or let the model write: method.statistics.text=''"
    )
    with file.open(encoding="utf-8", newline="") as lines:
        texts = [row[-1] for row in csv.reader(lines) if row] if file.suffix == ".csv" else list(lines)
    texts = [text.strip() for text in texts if text.strip()]
    random.Random(settings.seed).shuffle(texts)
    for start in range(0, len(texts), AT_ONCE):
        yield reader.cut(texts[start : start + AT_ONCE], LENGTH)
