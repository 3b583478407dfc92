"""Counts the tokens of the prompts that a language model is given, whatever method writes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

from pipeline.evaluation.editors import EditedModel
from pipeline.evaluation.methods import Answerer
from pipeline.evaluation.systems import SystemAnswerer
from pipeline.model.reader import Reader


@dataclass
class PromptTokens:
    """What was generated from."""

    tokens: int = 0
    """Of all prompts, without padding; facts that are read as cached states are none of them."""
    prompts: int = 0


def reader_of(answerer: Answerer) -> Reader | None:
    """Return the language model that a method answers with, None where it has none."""
    if isinstance(answerer, SystemAnswerer):
        return answerer.system.reader
    return answerer.editor.reader if isinstance(answerer, EditedModel) else None


@contextmanager
def counted(reader: Reader | None) -> Iterator[PromptTokens]:
    """Count the prompts that `reader` generates from inside this block.

    The first call of the model with a cache is a prompt, those that follow with the same cache its answer.
    """
    found = PromptTokens()
    if reader is None:
        yield found
        return
    cache: Any = lambda: None  # noqa: E731 - as a reference whose object is gone

    def look(module: Any, args: Any, given: dict[str, Any]) -> None:
        nonlocal cache
        held = given.get("past_key_values")
        if held is not None and held is not cache():
            cache = ref(held)
            found.tokens += int(given["attention_mask"].sum())
            found.prompts += len(given["attention_mask"])

    handle = reader.lm.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
