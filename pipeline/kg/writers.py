"""Language models that can be asked for nouns: a local one, or an OpenAI-compatible endpoint."""

import json
import logging
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from pipeline.config import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalWriter:
    """A decoder of the transformers library, asked greedily."""

    model: Any
    tokenizer: Any
    answer_tokens: int

    @torch.no_grad()
    def complete(self, prompt: str) -> tuple[str, int, int]:
        """Return the completion, and how many tokens the prompt and the completion had."""
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        length = inputs["input_ids"].shape[1]
        output = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=self.answer_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([_EndOfLine(self.tokenizer, length)]),
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )
        answer = output[0, length:]
        return self.tokenizer.decode(answer, skip_special_tokens=True), length, len(answer)


class _EndOfLine(StoppingCriteria):  # type: ignore[misc]
    """Stops at the first line break after a word, whatever token it is part of."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        ended = ["\n" in self.tokenizer.decode(ids[self.length :]).lstrip() for ids in input_ids]
        return torch.tensor(ended, device=input_ids.device)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible service that completes chats."""

    base_url: str
    """Such as http://localhost:8000/v1; `/chat/completions` is added."""
    model: str
    """Name of the model there."""
    api_key: str
    """Environment variable that holds the key; empty: no key is sent."""
    timeout: float
    """Seconds to wait for an answer."""
    retries: int
    """How often a call is repeated after a failure that may pass (no connection, 429, 5xx)."""
    wait: float
    """Seconds before the first repetition; doubles each time."""
    answer_tokens: int
    """Tokens of an answer at most; the local model obeys it too."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"synthesis.endpoint.base_url must begin with http:// or https://, not {self.base_url!r}"
            )
        if self.timeout <= 0 or self.retries < 0 or self.wait < 0 or self.answer_tokens < 1:
            raise ValueError(
                "synthesis.endpoint.timeout must be above 0, retries and wait at least 0, and "
                "answer_tokens at least 1"
            )

    def complete(self, prompt: str) -> tuple[str, int, int]:
        """Return the completion, and how many tokens the service counted in prompt and completion.

        Raises:
            UserError: the service can't be reached, refuses, or answers in another form.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._call(prompt)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}: {error.read()[:200].decode(errors='replace')}"
                if error.code != 429 and error.code < 500:
                    break
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                reason = str(error)
            if attempt < self.retries:
                log.warning("%s: %s; trying again", self.base_url, reason)
                time.sleep(self.wait * 2**attempt)
        raise UserError(
            f"{self.base_url}: no answer ({reason}); check synthesis.endpoint in conf/synthesis and "
            f"the key in ${self.api_key or 'no variable'}, or set nouns.writer to local or none"
        )

    def _call(self, prompt: str) -> tuple[str, int, int]:
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            key = os.environ.get(self.api_key)
            if not key:
                raise UserError(
                    f"the environment variable {self.api_key} (synthesis.endpoint.api_key) is not set"
                )
            headers["Authorization"] = f"Bearer {key}"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.answer_tokens,
            "temperature": 0,
        }
        url = self.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            raw = response.read()
        try:
            answer = json.loads(raw)
            usage = answer["usage"]
            text = answer["choices"][0]["message"]["content"] or ""
            return text, int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{url}: not an OpenAI-compatible answer (no {error}): {raw[:200].decode(errors='replace')}; "
                "correct synthesis.endpoint.base_url"
            ) from error
