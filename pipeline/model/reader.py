"""A frozen language model with its tokenizer: prompts, losses, answers, and the tokens of facts."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from pipeline.model.attention import FactTokens
from pipeline.model.lowrank import decoder_layers
from pipeline.shapes import TokenIds
from pipeline.weights import LanguageModel, load_language_model

log = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """Prompts, left-padded, with the answers that follow them in training."""

    ids: TokenIds
    mask: TokenIds
    labels: TokenIds
    """Token ids of the answer, -100 everywhere else."""


class Reader:
    """A frozen language model that is asked in its own chat form.

    Args:
        lm: which weights, the form of the prompt and the token that ends an answer.
        device: where it computes.
    """

    def __init__(self, lm: LanguageModel, device: torch.device | str) -> None:
        self.settings = lm
        self.device = torch.device(device)
        if self.device.type == "cuda":
            # One of three runs met a gradient of NaN with it: suspected, not proved; none came without it.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.lm, self.tokenizer = load_language_model(lm, device)
        self.lm.get_output_embeddings().register_forward_pre_hook(_contiguous)
        self.stop: int = self.tokenizer.convert_tokens_to_ids(lm.stop)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.lm.config.num_hidden_layers)

    @property
    def hidden(self) -> int:
        """Hidden size C."""
        return int(self.lm.config.hidden_size)

    def tokens(
        self,
        questions: Sequence[str],
        answers: Sequence[str] | None = None,
        facts: Sequence[str] | None = None,
        form: str | None = None,
    ) -> Tokens:
        """Return the prompts of `questions`, with `answers` to learn and `facts` put before the question.

        `form` is a text with {facts} and {question}; without it, the language model's prompt is used.
        """
        before = facts or [""] * len(questions)
        pairs = zip(questions, before, strict=True)
        shape = form or self.settings.prompt
        prompts = self._encode([shape.format(question=q, facts=f) for q, f in pairs])
        ends = self._encode([a + self.settings.stop for a in answers]) if answers else [[] for _ in prompts]
        width = max(len(p) + len(e) for p, e in zip(prompts, ends, strict=True))
        ids = torch.full((len(prompts), width), self.stop)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
            ids[row, width - len(prompt) - len(end) :] = torch.tensor(prompt + end)
            mask[row, width - len(prompt) - len(end) :] = 1
            if end:
                labels[row, width - len(end) :] = torch.tensor(end)
        return Tokens(ids.to(self.device), mask.to(self.device), labels.to(self.device))

    def loss(self, tokens: Tokens) -> Float[Tensor, ""]:
        """Return L_LM: the mean cross-entropy of the answers' tokens, in nats."""
        longest = int((tokens.labels != -100).sum(dim=1).max())
        # As in `generate`, the first real token stands at 0: facts keep their distance whatever the padding.
        positions = (tokens.mask.cumsum(dim=-1) - 1).clamp(min=0)
        output = self.lm(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=longest + 1,
        )
        labels = tokens.labels[:, -longest:]
        kept = labels != -100
        return F.cross_entropy(output.logits[:, :-1][kept].float(), labels[kept])

    @torch.no_grad()
    def generate(self, tokens: Tokens, limit: int, one_line: bool = False) -> list[str]:
        """Return the most likely answers, or their first lines, token by token, of at most `limit` tokens."""
        ends = [self.stop, *(self._encode(["\n"])[0][-1:] if one_line else [])]
        out = self.lm.generate(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=self.stop,
        )
        texts = self.tokenizer.batch_decode(out[:, tokens.ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.no_grad()
    def early_states(self, questions: Sequence[str], layer: int) -> Float[Tensor, "B C"]:
        """Return the mean state of each bare question's tokens after `layer` layers, in float32."""
        encoded = self._encode(questions)
        width = max(map(len, encoded))
        ids = torch.full((len(encoded), width), self.stop, device=self.device)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(encoded):
            ids[row, width - len(tokens) :] = torch.tensor(tokens, device=self.device)
            mask[row, width - len(tokens) :] = 1
        states: list[Tensor] = []

        def stop(module: Any, inputs: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)
            raise _ReachedError

        handle = decoder_layers(self.lm)[layer - 1].register_forward_hook(stop)
        try:
            self.lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        except _ReachedError:
            pass
        finally:
            handle.remove()
        weights = mask[..., None].float()
        return (states[0].float() * weights).sum(1) / weights.sum(1)

    def cut(self, texts: Sequence[str], limit: int) -> list[str]:
        """Return `texts` with at most `limit` tokens each."""
        encoded = self._encode(texts)
        return [
            text if len(ids) <= limit else self.tokenizer.decode(ids[:limit])
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids


def _contiguous(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lay the last positions of a batch out anew: else torch copies the vocabulary's matrix for each row."""
    return (inputs[0].contiguous(),)


class _ReachedError(Exception):
    """The layer that was wanted has been computed."""


class FactReader:
    """Keys and values of facts, each prefilled alone by the frozen model, kept in a bounded cache.

    A fact stands at the positions -window … -window + L - 1, before the question's first token at 0: for
    rotary embeddings only the distance counts, so no position of the question moves.

    Args:
        reader: the frozen language model.
        first_layer: lowest layer that reads facts; those below aren't kept.
        window: tokens of the longest fact; a longer one is cut and counted in `cut`.
        capacity: tokens of facts that the cache keeps, the least recently used ones leave first.
    """

    def __init__(self, reader: Reader, first_layer: int, window: int, capacity: int) -> None:
        self.reader = reader
        self.first_layer = first_layer
        self.window = window
        self.capacity = capacity
        self.cut = 0
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._held = 0

    def facts(self, texts: Sequence[Sequence[str]], shift: Float[Tensor, "B K"]) -> FactTokens:
        """Return the tokens of each question's facts with the shift of their fact.

        Args:
            texts: the facts of each question, at most K.
            shift: log-probability of each fact; columns beyond a question's facts are ignored.
        """
        distinct = sorted({text for row in texts for text in row})
        states = self._states(distinct)
        longest = max((s.shape[3] for s in states.values()), default=1)
        width = shift.shape[1]
        config = self.reader.lm.config
        heads = next(iter(states.values())).shape[2] if states else 1
        size = next(iter(states.values())).shape[4] if states else config.hidden_size
        kept = self.reader.layers - self.first_layer
        table = torch.zeros(
            len(distinct) + 1,
            2,
            kept,
            heads,
            longest,
            size,
            dtype=self.reader.lm.dtype,
            device=self.reader.device,
        )
        lengths = torch.zeros(len(distinct) + 1, dtype=torch.long)
        for row, text in enumerate(distinct):
            table[row, :, :, :, : states[text].shape[3]] = states[text]
            lengths[row] = states[text].shape[3]
        place = {text: row for row, text in enumerate(distinct)}
        chosen = torch.tensor(
            [[place[t] for t in row] + [len(distinct)] * (width - len(row)) for row in texts]
        )
        gathered = table[chosen.to(table.device)]  # B K 2 layers G L D
        joined = gathered.permute(2, 3, 0, 4, 1, 5, 6).reshape(
            2, kept, len(texts), heads, width * longest, size
        )
        real = torch.arange(longest)[None, None] < lengths[chosen][..., None]
        token_shift = shift[..., None].expand(-1, -1, longest)
        token_shift = token_shift.masked_fill(~real.to(shift.device), torch.finfo(self.reader.lm.dtype).min)
        return FactTokens(joined[0], joined[1], token_shift.flatten(1), self.first_layer)

    def clear(self) -> None:
        """Empty the cache."""
        self._cache.clear()
        self._held = 0

    def _states(self, texts: Sequence[str]) -> dict[str, Float[Tensor, "2 layers G L D"]]:
        missing = [text for text in texts if text not in self._cache]
        found = {text: self._cache[text] for text in texts if text in self._cache}
        for text in found:
            self._cache.move_to_end(text)
        if missing:
            found |= dict(zip(missing, self._prefill(missing), strict=True))
        for text in missing:
            self._cache[text] = found[text]
            self._held += found[text].shape[3]
        while self._held > self.capacity and self._cache:
            _, oldest = self._cache.popitem(last=False)
            self._held -= oldest.shape[3]
        return found

    @torch.no_grad()
    def _prefill(self, texts: Sequence[str]) -> list[Float[Tensor, "2 layers G L D"]]:
        encoded = self.reader._encode([text + "\n" for text in texts])
        self.cut += sum(len(tokens) > self.window for tokens in encoded)
        encoded = [tokens[: self.window] for tokens in encoded]
        width = max(map(len, encoded))
        ids = torch.full((len(encoded), width), self.reader.stop)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        positions = torch.arange(width).expand(len(encoded), width) - self.window
        device = self.reader.device
        cache = DynamicCache()  # made without a configuration, it keeps every token of sliding layers too
        self.reader.lm.base_model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
        )
        layers = [cache.layers[number] for number in range(self.first_layer, self.reader.layers)]
        keys = torch.stack([layer.keys for layer in layers])
        values = torch.stack([layer.values for layer in layers])
        states: Int[Tensor, "2 layers n G L D"] = torch.stack([keys, values])
        return [states[:, :, row, :, : len(tokens)].clone() for row, tokens in enumerate(encoded)]
