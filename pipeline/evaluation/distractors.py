"""Generated facts that fill a memory beyond its graph: is the right one told apart from millions?

A distractor is a new entity that looks like two real heads: its label is the first half of one's and the
last half of the other's, and its facts are those of the first one, half of their tails exchanged for
distractors. So degrees, relations, which of them occur together and popular tails are spread as in the graph
(by Zipf's law, in Wikidata's case) without anything to fit. Only new entities head generated facts: none of
these is a fact of the graph or answers a question about it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import UserError
from pipeline.memory.names import Names
from pipeline.memory.planning import slot_key
from pipeline.memory.store import KnowledgeMemory

VECTORS = ("mixed", "encoded")
"""Where the vectors of new names come from; see `add_distractors`."""
REPLACED = 0.5
"""Share of tails that are distractors."""
BLOCK = 1 << 16
"""Vectors that are mixed at a time."""


@dataclass(frozen=True)
class Drawn:
    """Generated facts, in rows of a memory whose own entities the new ones follow."""

    triples: Int[np.ndarray, "n 3"]
    like: Int[np.ndarray, " n"]
    """The fact of the memory that each one is made from."""
    first: Int[np.ndarray, " E"]
    """The head whose label begins that of a new entity …"""
    second: Int[np.ndarray, " E"]
    """… and the one whose label ends it; the two labels differ."""


def add_distractors(
    memory: KnowledgeMemory, real: Int[np.ndarray, " M"], count: int, vectors: str, seed: int
) -> int:
    """Add `count` facts to `memory` with the entities that head them; return how many these are.

    Args:
        memory: holds the facts `real`.
        real: ids of the facts that are imitated.
        count: of facts.
        vectors: `encoded` encodes the new labels: an hour a million on a CPU, a minute on a GPU. `mixed`
            approximates that by (a + b) / ‖a + b‖ of the vectors a, b of the two heads whose labels are
            combined; in the slot layout, of the first one's slot and the second one. Such mixtures lie
            nearer to the mean of all vectors than those of texts do.
        seed: the same one adds the same facts to the same memory.

    Raises:
        UserError: the heads of the facts have fewer than two labels to combine.
    """
    drawn, before = draw(memory, real, count, seed), len(memory.entities)
    labels = combined(memory.entities.texts, drawn.first.tolist(), drawn.second.tolist())
    names = {f"distractor/{before + place}": label for place, label in enumerate(labels)}
    held = memory.entities.vectors
    mixing = vectors == "mixed"
    _name(memory.entities, names, mixed(held, drawn.first, held, drawn.second) if mixing else None)
    if memory.settings.layout == "slot":
        one = _firsts(*drawn.triples.T[:2])
        slots = memory.adjacency.slot.cpu().numpy()[drawn.like[one]]
        ends = drawn.second[drawn.triples[one, 0] - before]
        texts = {slot_key(h, r): memory.slot_text(h, r) for h, r, _ in drawn.triples[one].tolist()}
        _name(memory.slots, texts, mixed(memory.slots.vectors, slots, held, ends) if mixing else None)
    memory.append(drawn.triples)
    return len(labels)


def _name(names: Names, texts: dict[str, str], vectors: Float[Tensor, "n P"] | None) -> None:
    if vectors is None:
        names.add(texts)
    else:
        names.restore(list(texts), list(texts.values()), vectors)


def draw(memory: KnowledgeMemory, real: Int[np.ndarray, " M"], count: int, seed: int) -> Drawn:
    """Return `count` different facts in the likeness of the facts `real`.

    Raises:
        UserError: the heads of the facts have fewer than two labels to combine.
    """
    before = len(memory.entities)
    rng = np.random.default_rng([seed, before])
    order = real[memory.triples[real, 0].argsort(kind="stable")]
    heads, start, degree = np.unique(memory.triples[order, 0], return_index=True, return_counts=True)
    known: dict[str, int] = {}
    texts = (memory.entities.texts[head].casefold() for head in heads.tolist())
    labels, label = np.unique(
        [known.setdefault(text, place) for place, text in enumerate(texts)], return_inverse=True
    )
    if len(labels) < 2:
        raise UserError(
            f"grounding.sizes: {count:,} facts beyond the data are to be generated, which takes heads of two "
            f"labels at least and finds {len(labels)}; ask for as many facts as there are"
        )
    first = rng.integers(len(heads), size=count)
    ends = degree[first].cumsum()
    first = first[: int(np.searchsorted(ends, count)) + 1]
    second = labels[(label[first] + rng.integers(1, len(labels), size=len(first))) % len(labels)]

    owner = np.repeat(np.arange(len(first)), degree[first])[:count]
    within = np.arange(count) - (ends[: len(first)] - degree[first])[owner]
    like = order[start[first[owner]] + within]
    _, relation, tail = memory.triples[like].T
    other = before + rng.integers(len(first), size=count)
    other = np.where(rng.random(count) < REPLACED, other, tail)
    # Two new tails of a slot may be one: the later fact keeps the tail that it is made from.
    alone = np.zeros(count, dtype=np.bool_)
    alone[_firsts(owner, relation, other)] = True
    triples = np.stack([before + owner, relation, np.where(alone, other, tail)], axis=1)
    return Drawn(triples, like, heads[first], heads[second])


def _firsts(*columns: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Return where each combination of values stands for the first time."""
    one = np.ravel_multi_index(columns, [int(column.max()) + 1 for column in columns])
    return np.unique(one, return_index=True)[1]


def combined(texts: Sequence[str], first: Sequence[int], second: Sequence[int]) -> list[str]:
    """Return labels of the first half of one text's words and the last half of another's.

    A label that an entity has already, whatever its case, gets a number.

    Args:
        texts: labels that there are.
        first: places of those that begin the new ones.
        second: places of those that end them.
    """
    taken = {text.casefold() for text in texts}
    labels = []
    for one, other in zip(first, second, strict=True):
        start, end = texts[one].split(), texts[other].split()
        plain = label = " ".join([*start[: (len(start) + 1) // 2], *end[len(end) // 2 :]])
        number = 1
        while label.casefold() in taken:
            number += 1
            label = f"{plain} {number}"
        taken.add(label.casefold())
        labels.append(label)
    return labels


def mixed(
    first: Float[Tensor, "n P"],
    first_rows: Int[np.ndarray, " m"],
    second: Float[Tensor, "k P"],
    second_rows: Int[np.ndarray, " m"],
) -> Float[Tensor, "m P"]:
    """Return (a + b) / ‖a + b‖ of rows a of `first` and b of `second`, in 16 bits as a memory keeps them."""

    def parts() -> Iterator[Float[Tensor, "n P"]]:
        for start in range(0, len(first_rows), BLOCK):
            part = slice(start, start + BLOCK)
            one, other = (torch.from_numpy(rows[part]).to(first.device) for rows in (first_rows, second_rows))
            yield F.normalize(first[one].float() + second[other].float(), dim=-1).half()

    return torch.cat(list(parts()))
