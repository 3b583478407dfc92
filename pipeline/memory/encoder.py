"""Text to base vectors: mean-pooled, normalised states of a frozen sentence encoder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.blocks import Mapped, in_turn
from pipeline.memory.spelling import Spelling
from pipeline.weights import Encoder, load_encoder

Progress = Callable[[Iterable[list[int]]], Iterable[list[int]]]


class TextEncoder:
    """A sentence encoder with its tokenizer, on one device.

    Args:
        encoder: which weights, and how texts are cut and batched.
        device: where it computes.
        mapped: maps batches, so that other processes may compute them.
    """

    def __init__(self, encoder: Encoder, device: torch.device | str, mapped: Mapped = in_turn) -> None:
        self.name = encoder.name
        self.device = torch.device(device)
        self._settings = encoder
        self._mapped = mapped
        self._threads: int | None = None  # here they are as they are
        self._model: Any = None
        self._tokenizer: Any = None
        self._spelling: Spelling | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the weights, which are read anew elsewhere, and take the number of threads along.

        On a processor a sum depends in its last bits on how many threads share it.
        """
        left = {"_model": None, "_tokenizer": None, "_spelling": None, "_mapped": in_turn}
        return self.__dict__ | left | {"_threads": torch.get_num_threads()}

    @property
    def dimension(self) -> int:
        """Length P of a base vector."""
        self._load()
        return int(self._model.config.hidden_size)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Float[Tensor, "n P"]:
        """Return one unit vector a text, in float32 on the encoder's device; equal texts are encoded once.

        Args:
            texts: any number of them; those longer than `encoder.max_tokens` are cut.
            progress: wraps the iteration over batches, for a progress bar.
        """
        self._load()
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        size = self._settings.batch_size
        batches = [
            list(range(start, min(start + size, len(distinct)))) for start in range(0, len(distinct), size)
        ]
        vectors = torch.empty(len(distinct), self.dimension, device=self.device)
        computed = self._mapped(self.batch, ([distinct[i] for i in batch] for batch in batches))
        for batch in progress(batches) if progress else batches:
            found = next(computed)  # an array where another process computed it, and not to be written to
            vectors[batch[0] : batch[-1] + 1] = found if isinstance(found, Tensor) else torch.tensor(found)
        place = {text: i for i, text in enumerate(distinct)}
        return vectors[torch.tensor([place[text] for text in texts], dtype=torch.long, device=self.device)]

    @torch.no_grad()
    def batch(self, texts: Sequence[str]) -> Float[Tensor, "n P"]:
        """Return the unit vectors of texts that are computed together."""
        self._load()
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._settings.max_tokens,
            return_tensors="pt",
        )
        return self.pooled(**tokens.to(self.device))

    def named(self, texts: Mapping[str, str], progress: Progress | None = None) -> Float[Tensor, "n P"]:
        """Return the vectors of texts that name things, by the keys of these."""
        return self.encode(list(texts.values()), progress)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids that `encode` computes of each text."""
        if self._spelling is None:
            self._load()
            self._spelling = Spelling(self._tokenizer, special=True, limit=self._settings.max_tokens)
        return self._spelling(texts)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that isn't cut."""
        return self._settings.max_tokens

    def pooled(
        self, input_ids: Int[Tensor, "n T"], attention_mask: Int[Tensor, "n T"], **others: Tensor
    ) -> Float[Tensor, "n P"]:
        """Return the unit vectors of tokens; those that the mask leaves out don't count."""
        states = self._model(input_ids=input_ids, attention_mask=attention_mask, **others)
        mask = attention_mask[..., None].float()
        summed = (states.last_hidden_state.float() * mask).sum(1)
        return F.normalize(summed / mask.sum(1), dim=-1)

    @property
    def model(self) -> Any:
        """The frozen model, for what attaches to it."""
        self._load()
        return self._model

    def pairs(
        self, firsts: Sequence[str], seconds: Sequence[str]
    ) -> tuple[Float[Tensor, "n T P"], Int[Tensor, "n T"]]:
        """Return the token states of pairs of texts that are read together, with gradients where any reach.

        Args:
            firsts: any number of texts.
            seconds: as many; a pair longer than twice `encoder.max_tokens` is cut at its longer text.

        Returns:
            States in float32, and which text each token is of: 0, 1, or -1 for what is of neither.
        """
        self._load()
        tokens = self._tokenizer(
            list(firsts),
            list(seconds),
            padding=True,
            truncation="longest_first",
            max_length=2 * self._settings.max_tokens,
            return_tensors="pt",
        )
        owners = [
            [-1 if owner is None else owner for owner in tokens.sequence_ids(row)]
            for row in range(len(firsts))
        ]
        states = self._model(**tokens.to(self.device)).last_hidden_state.float()
        return states, torch.tensor(owners, device=self.device)

    def _load(self) -> None:
        """Fetch the weights at first use, so that a memory can be opened without them."""
        if self._model is None:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            self._model, self._tokenizer = load_encoder(self._settings, self.device)
