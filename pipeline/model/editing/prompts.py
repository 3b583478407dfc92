"""The texts that an edit is made with, as tokens, and where in them the subject ends.

Each question stands behind several contexts, as in ROME (arXiv 2202.05262, §3.1): nothing, the examples of
the
closed-book prompt (behind which it will be asked), and texts that the model writes. What stands before the
subject's last token does not depend on the edit, so it is computed once (`Batch.cache`) and not at every
step.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from pipeline.config import UserError
from pipeline.model.editing.places import StoppedError, state, watched
from pipeline.model.editing.request import Edit
from pipeline.model.reader import Reader

OPENINGS = ("The", "Therefore", "Because", "I", "You")
"""Words that written contexts begin with: those of ROME's code."""


@dataclass(frozen=True)
class Row:
    """One text of an edit: tokens before the subject's last one, from there to the target, and the target."""

    edit: int
    before: list[int]
    after: list[int]
    target: list[int]
    """None for a text whose next token is to stay as it was."""

    def moved(self, places: int) -> "Row":
        """Return the row as one of an edit that stands so many places further back."""
        return replace(self, edit=self.edit + places)


def split(prompt: str) -> tuple[str, str]:
    """Return the examples of a closed-book prompt, and its last paragraph, which holds {question}."""
    examples, gap, asked = prompt.rpartition("\n\n")
    return (examples + gap, asked) if "{question}" in asked else ("", prompt)


def contexts(reader: Reader, prompt: str, lengths: Sequence[int], seed: int) -> list[str]:
    """Return what questions are put behind: nothing, the prompt's examples, and one text of each length.

    Args:
        reader: the language model, which writes the texts.
        prompt: the closed-book prompt.
        lengths: tokens of each text.
        seed: of what is written.
    """
    examples, _ = split(prompt)
    draw = random.Random(seed)
    written = []
    devices = [reader.device] if reader.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for length in lengths:
            [text] = reader.write([draw.choice(OPENINGS)], length)
            written.append(text.strip().replace("\n", " ") + "\n\n")
    return [*([examples] if examples else []), "", *written]


def rows(
    reader: Reader, edits: Sequence[Edit], prompt: str, before: Sequence[str], end: str, essence: bool
) -> list[Row]:
    """Return the texts of every edit.

    Args:
        reader: gives the tokens.
        edits: what is asked for.
        prompt: the closed-book prompt.
        before: contexts.
        end: what follows the target, so that the answer stops there; "" trains the target alone, as
        published.
        essence: whether "{subject} is a" is added, whose continuation is to stay.

    Raises:
        UserError: a subject is in no token of its text, or a target has none; the text names the fact.
    """
    _, asked = split(prompt)
    found = []
    for place, edit in enumerate(edits):
        target = reader.encode([" " + edit.target.strip() + end])[0]
        if not target:
            raise UserError(f"the edit {edit.name!r}: its target has no token")
        for context in before:
            for question in edit.questions:
                text = context + asked.format(question=question)
                found.append(_row(reader, place, edit, text, target))
        if essence:
            found.append(_row(reader, place, edit, f"{edit.subject} is a", []))
    return found


def _row(reader: Reader, place: int, edit: Edit, text: str, target: list[int]) -> Row:
    last = text.rfind(edit.subject) + len(edit.subject.rstrip()) - 1
    if edit.subject not in text:
        raise UserError(f"the edit {edit.name!r}: the subject {edit.subject!r} is not in {text!r}")
    encoded = reader.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (start, end) in enumerate(encoded["offset_mapping"]) if start <= last < end]
    if not inside:
        raise UserError(f"the edit {edit.name!r}: no token of {text!r} holds the end of its subject")
    ids: list[int] = encoded["input_ids"]
    return Row(place, ids[: inside[-1]], ids[inside[-1] :], target)


class Batch:
    """Rows as tensors, with the keys and values of what stands before the subjects' last tokens.

    Args:
        reader: the language model, in the weights that the edit is made from.
        rows: what to compute.
        still: whether nothing changes before the subjects' last tokens, so that it is computed once.
    """

    def __init__(self, reader: Reader, rows: Sequence[Row], still: bool = True) -> None:
        self.reader, self.rows = reader, list(rows)
        cache = DynamicCache(config=reader.lm.config)
        cut = still and not any(cache.is_sliding)  # a window would count the padding before it
        before = [row.before if cut else [] for row in rows]
        ends = [([] if cut else row.before) + row.after + row.target[:-1] for row in rows]
        self.at = torch.tensor([0 if cut else len(row.before) for row in rows], device=reader.device)
        """Where the subject's last token stands among `ids`: [R]."""
        self.edit = torch.tensor([row.edit for row in rows], device=reader.device)
        """Which edit each row belongs to: [R]."""
        self._left, self._left_mask = padded(before, reader, left=True)
        self.ids, self._mask = padded(ends, reader, left=False)
        self._cached: list[tuple[Tensor, Tensor]] = []
        if self._left.shape[1]:
            self._fill(cache)

    @torch.no_grad()
    def _fill(self, cache: DynamicCache) -> None:
        positions = (self._left_mask.cumsum(dim=-1) - 1).clamp(min=0)
        self.reader.lm.base_model(
            input_ids=self._left,
            attention_mask=self._left_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        self._cached = [(part.keys, part.values) for part in cache.layers]

    def states(self, chosen: Int[Tensor, " K"] | None = None) -> Float[Tensor, "K T C"]:
        """Return the last states of the rows from the subjects' last tokens on; gradients pass through.

        Args:
            chosen: rows to compute; all where it is None.
        """
        rows = torch.arange(len(self.ids), device=self.ids.device) if chosen is None else chosen
        mask = torch.cat([self._left_mask, self._mask], dim=1)[rows]
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, self._left.shape[1] :]
        given: dict[str, Any] = {"use_cache": False}
        if self._cached:
            cache = DynamicCache(config=self.reader.lm.config)
            for number, (keys, values) in enumerate(self._cached):
                cache.update(keys[rows], values[rows], number)
            given = {"past_key_values": cache, "use_cache": True}
        output = self.reader.lm.base_model(
            input_ids=self.ids[rows], attention_mask=mask, position_ids=positions, **given
        )
        found: Tensor = output.last_hidden_state
        return found


@torch.no_grad()
def at_subject(
    reader: Reader, rows: Sequence[Row], module: nn.Module
) -> tuple[Float[Tensor, "R I"], Float[Tensor, "R C"]]:
    """Return what a module takes and gives at the subject's last token of each row, in float32.

    Layers above it are not computed.
    """
    texts = [[*row.before, row.after[0]] for row in rows]
    ids, mask = padded(texts, reader, left=True)
    seen: list[Tensor] = []

    def look(inputs: tuple[Tensor, ...], output: Any) -> None:
        seen.extend((inputs[0][:, -1].float(), state(output)[:, -1].float()))
        raise StoppedError

    with watched(module, look), suppress(StoppedError):
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        reader.lm.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return seen[0], seen[1]


def padded(
    lists: Sequence[Sequence[int]], reader: Reader, left: bool
) -> tuple[Int[Tensor, "R T"], Int[Tensor, "R T"]]:
    """Return tokens of one width, and which are real, padded on the left or on the right."""
    width = max(map(len, lists))
    ids = torch.full((len(lists), width), reader.stop)
    mask = torch.zeros_like(ids)
    for place, tokens in enumerate(lists):
        seen = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[place, seen] = torch.tensor(tokens, dtype=torch.long)
        mask[place, seen] = 1
    return ids.to(reader.device), mask.to(reader.device)


def means(values: Float[Tensor, "R I"], owners: Int[Tensor, " R"], edits: int) -> Float[Tensor, "E I"]:
    """Return the mean over the rows of each edit, as k* is over its texts (ROME, eq. 3)."""
    sums = values.new_zeros(edits, values.shape[1]).index_add(0, owners, values)
    return sums / torch.bincount(owners, minlength=edits)[:, None]
