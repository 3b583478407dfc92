"""A frozen language model with its tokenizer: prompts, losses and answers."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from pipeline.memory.spelling import Spelling
from pipeline.model.attention import narrowing
from pipeline.model.lowrank import decoder_layers
from pipeline.model.sharding import shard
from pipeline.model.sharing import weighed
from pipeline.shapes import TokenIds
from pipeline.weights import LanguageModel, load_language_model

log = logging.getLogger(__name__)
WRITTEN = 200
"""Texts that are written at once."""


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
        shares: whether all processes share its layers out among them (`pipeline.model.sharding`).
    """

    def __init__(self, lm: LanguageModel, device: torch.device | str, shares: bool = False) -> None:
        self.settings = lm
        self.device = torch.device(device)
        if self.device.type == "cuda":
            # One of three runs met a gradient of NaN with it: suspected, not proved; none came without it.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.lm, self.tokenizer = load_language_model(lm, "cpu" if shares else device)
        if shares:
            self.lm = shard(self.lm, self.device)
        self.lm.get_output_embeddings().register_forward_pre_hook(_contiguous)
        self.spelling = Spelling(self.tokenizer, special=False)
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
        prompts = self.prompts(questions, facts, form)
        ends = self.encode([a + self.settings.stop for a in answers]) if answers else [[] for _ in prompts]
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

    def prompts(
        self, questions: Sequence[str], facts: Sequence[str] | None = None, form: str | None = None
    ) -> list[list[int]]:
        """Return the token ids of the prompts of `questions`; see `tokens`."""
        before = facts or [""] * len(questions)
        shape = form or self.settings.prompt
        pairs = zip(questions, before, strict=True)
        return self.spelling.filled(shape, [{"question": q, "facts": f} for q, f in pairs])

    def continued(self, starts: Sequence[str], ends: Sequence[str]) -> Tokens:
        """Return plain texts whose ends are scored, without any form of a chat."""
        tokens = self.tokens(starts, ends, form="{question}")
        return Tokens(*(part[:, :-1] for part in tokens))  # what ends an answer is no part of the text

    @torch.no_grad()
    def surprise(self, tokens: Tokens) -> Float[Tensor, " B"]:
        """Return the summed cross-entropy of each row's labels, in nats."""
        logits, labels = self._scored(tokens)
        lost = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return lost.sum(dim=1)

    def loss(self, tokens: Tokens) -> Float[Tensor, ""]:
        """Return L_LM: the mean cross-entropy of the answers' tokens, in nats.

        Of a batch shared out among processes, it is this one's part of the mean (`pipeline.model.sharing`).
        """
        logits, labels = self._scored(tokens)
        kept = labels != -100
        return weighed(F.cross_entropy(logits[kept].float(), labels[kept]), kept.sum())

    def _scored(self, tokens: Tokens) -> tuple[Float[Tensor, "B A V"], Int[Tensor, "B A"]]:
        """Return the logits of the last positions, as many as the longest answer has, and their labels."""
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
        return output.logits[:, :-1], tokens.labels[:, -longest:]

    @torch.no_grad()
    def generate(
        self,
        tokens: Tokens,
        limit: int,
        one_line: bool = False,
        same_start: bool = False,
        narrow: Callable[[Int[Tensor, " R"]], None] | None = None,
    ) -> list[str]:
        """Return the most likely answers, or their first lines, token by token, of at most `limit` tokens.

        A question whose answer has ended leaves the batch: most answers have a few tokens, some have many.

        Args:
            tokens: the prompts.
            limit: tokens of the longest answer.
            one_line: whether an answer ends with its first line.
            same_start: whether what all prompts begin with is computed once for all, which only suits a
                model that nothing else tells the questions apart.
            narrow: told the rows that go on wherever some have ended, so that what a caller holds for each
                question can follow.
        """
        ends = torch.tensor([self.stop, *(self.encode(["\n"])[0][-1:] if one_line else [])])
        asked = torch.arange(len(tokens.ids))
        said: list[list[int]] = [[] for _ in tokens.ids]
        ids, mask, cache = tokens.ids, tokens.mask, DynamicCache(config=self.lm.config)
        if same_start and not any(cache.is_sliding):  # a window would count the padding behind the start
            ids, mask = self._started(tokens, cache)
        with narrowing() as narrow_facts:
            for _ in range(limit):
                best = self.following(ids, mask, cache)
                going = torch.nonzero(~torch.isin(best.cpu(), ends))[:, 0]
                if not len(going):
                    break
                if len(going) < len(best):
                    asked, rows = asked[going], going.to(self.device)
                    best, mask = best[rows], mask[rows]
                    cache.batch_select_indices(rows)
                    for follow in (narrow_facts, *([narrow] if narrow else [])):
                        follow(rows)
                for row, token in zip(asked.tolist(), best.tolist(), strict=True):
                    said[row].append(token)
                ids, mask = best[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def following(self, ids: TokenIds, mask: TokenIds, cache: DynamicCache) -> Int[Tensor, " B"]:
        """Return the most likely next tokens after `ids` and what `cache` holds before them, which grows.

        Args:
            ids: the tokens to read.
            mask: which of all tokens, those of the cache first, are no padding.
            cache: of what was read before.
        """
        output = self.lm(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        best: Tensor = output.logits[:, -1].argmax(dim=-1)
        return best

    @torch.no_grad()
    def write(self, starts: Sequence[str], limit: int) -> list[str]:
        """Return `starts` with what the bare model adds to them, `limit` tokens of plain text, as drawn."""
        texts: list[str] = []
        for first in range(0, len(starts), WRITTEN):
            tokens = self.tokens(starts[first : first + WRITTEN], form="{question}")
            ids = self.lm.generate(
                input_ids=tokens.ids,
                attention_mask=tokens.mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=limit,
                pad_token_id=self.stop,
            )
            texts += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    def _started(self, tokens: Tokens, cache: DynamicCache) -> tuple[TokenIds, TokenIds]:
        """Compute what all prompts begin with into `cache`; return the rest of them, and the whole mask."""
        prompts = [row[seen.bool()] for row, seen in zip(tokens.ids, tokens.mask, strict=True)]
        longest = min(map(len, prompts)) - 1
        alike = torch.stack([prompt[:longest] == prompts[0][:longest] for prompt in prompts]).all(dim=0)
        length = int(alike.cumprod(dim=0).sum())
        if length:
            self.lm.base_model(input_ids=prompts[0][None, :length], past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(prompts))
        # Rows are padded on the left: the tokens that are done lie behind the padding.
        done = (tokens.mask.cumsum(dim=-1) <= length) & tokens.mask.bool()
        ids, mask = (t[~done].view(len(prompts), -1) for t in (tokens.ids, tokens.mask))
        return ids, torch.cat([mask.new_ones(len(mask), length), mask], dim=1)

    @torch.no_grad()
    def token_states(
        self, questions: Sequence[str], layer: int
    ) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        """Return the states of each bare question's tokens after `layer` layers, and which are no padding."""
        tokens = self.tokens(questions, form="{question}")
        return self._states(tokens, layer), tokens.mask.bool()

    @torch.no_grad()
    def first_states(self, texts: Sequence[str]) -> list[tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]]:
        """Return embeddings and states after the first layer of bare texts, and which are no padding."""
        tokens = self.tokens(texts, form="{question}")
        embedded = self.lm.get_input_embeddings()(tokens.ids)
        return [(states.float(), tokens.mask.bool()) for states in (embedded, self._states(tokens, 1))]

    def _states(self, tokens: Tokens, layer: int) -> Float[Tensor, "B T C"]:
        states: list[Tensor] = []

        def stop(module: Any, inputs: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)
            raise _ReachedError

        handle = decoder_layers(self.lm)[layer - 1].register_forward_hook(stop)
        try:
            self.lm.base_model(input_ids=tokens.ids, attention_mask=tokens.mask, use_cache=False)
        except _ReachedError:
            pass
        finally:
            handle.remove()
        return states[0]

    def early_states(self, questions: Sequence[str], layer: int) -> Float[Tensor, "B C"]:
        """Return the mean state of each bare question's tokens after `layer` layers, in float32."""
        states, mask = self.token_states(questions, layer)
        weights = mask[..., None].float()
        return (states.float() * weights).sum(1) / weights.sum(1)

    def cut(self, texts: Sequence[str], limit: int) -> list[str]:
        """Return `texts` with at most `limit` tokens each."""
        encoded = self.encode(texts)
        return [
            text if len(ids) <= limit else self.tokenizer.decode(ids[:limit])
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of `texts`, with nothing added before or behind."""
        return self.spelling(texts)

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of `texts`, in which names of special tokens are letters like all others."""
        return self.spelling.plain(texts)


def _contiguous(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lay the last positions of a batch out anew: else torch copies the vocabulary's matrix for each row.

    Of one row, `contiguous` would keep strides that lead there too.
    """
    return (inputs[0].clone(memory_format=torch.contiguous_format),)


class _ReachedError(Exception):
    """The layer that was wanted has been computed."""
