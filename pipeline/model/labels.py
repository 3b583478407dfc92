"""What training is told of the facts that answer: all, a part, a guess by the answer, or something wrong."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Query
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.system import Example

COUNTS = ("gold", "noise", "distant", "distant_right", "distant_wrong", "none")
OTHERWISE = ("none", "distant")
SCALE = 20.0
"""Nats a unit of cosine, with which the frozen encoder finds candidates: that of DySK-Attn and rag."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Which gold facts training knows; those of validation are always known."""

    gold: float
    """Share of the training questions of which it is known which facts answer them, or that none does."""
    otherwise: str
    """What the others learn by: `none`, their answer alone, or `distant`, candidates whose tail it is."""
    noise: float
    """Share of the known gold facts in whose place another fact of the candidates stands."""

    def __post_init__(self) -> None:
        for name, share in (("gold", self.gold), ("noise", self.noise)):
            if not 0 <= share <= 1:
                raise ValueError(f"train.labels.{name} must be in [0, 1], not {share}")
        if self.otherwise not in OTHERWISE:
            raise ValueError(
                f"train.labels.otherwise must be one of {', '.join(OTHERWISE)}, not {self.otherwise!r}"
            )


def labelled(
    examples: Sequence[Example], settings: Labels, memory: KnowledgeMemory, encoder: TextEncoder, seed: int
) -> tuple[list[Example], Counter[str]]:
    """Return the examples with the gold facts that training is told of, and how many are told what.

    Each question is drawn by `seed` and its text alone, so what a smaller share knows, a larger one knows
    too, and what a smaller noise mistakes, a larger one mistakes too.

    - A question whose gold is not drawn is untold (`none`), or gets all candidates whose tail is one of its
      answers (`distant`), best first; L_Aux spreads its target evenly over them. Without such a candidate it
      is untold, and so is a question over two facts, whose way no single fact tells. One without an answer
      is told that no fact answers by `distant`, and nothing by `none`.
    - Noise puts one wrong fact in the place of known gold facts: a candidate with another tail, of the same
      head or of the same relation where there is one, else any; for a question over two facts one of the same
      head, reached by the same first fact. Where there is none, the gold facts stay.

    Candidates are the N facts that the frozen encoder finds, before anything is trained.

    Args:
        examples: training questions with their gold facts.
        settings: the shares.
        memory: what the gold facts are of; its N counts.
        encoder: finds candidates, for those questions alone that need them.
        seed: of the draws.

    Returns:
        The examples in their order, the same where their gold is known, and counts of answerable ones:
        `gold`, `noise`, `none` and `distant`; of the last, where a right fact is among the matches
        (`distant_right`), and where a wrong one is (`distant_wrong`).
    """
    known = [_drawn(seed, "gold", example) < settings.gold for example in examples]
    missed = [_drawn(seed, "noise", example) < settings.noise for example in examples]
    needed = [
        row
        for row, example in enumerate(examples)
        if example.gold
        and not example.via
        and (missed[row] if known[row] else settings.otherwise == "distant")
    ]
    found = dict(
        zip(needed, candidates([examples[row].text for row in needed], memory, encoder), strict=True)
    )
    told, counts = [], Counter(dict.fromkeys(COUNTS, 0))
    for row, example in enumerate(examples):
        if known[row]:
            fact = _wrong(example, found.get(row), memory, seed) if missed[row] and example.gold else None
            what = "gold" if fact is None else "noise"
            new = example if fact is None else replace(example, gold=(fact,), right=example.gold)
        else:
            what, new = _unknown(example, found.get(row, []), settings.otherwise, memory)
        told.append(new)
        if example.gold:
            counts[what] += 1
        if example.gold and what == "distant":
            counts["distant_right"] += bool(set(new.gold) & set(example.gold))
            counts["distant_wrong"] += bool(set(new.gold) - set(example.gold))
    return told, counts


def candidates(texts: Sequence[str], memory: KnowledgeMemory, encoder: TextEncoder) -> list[list[int]]:
    """Return the facts that the frozen encoder finds for each question, best first."""
    if not texts:
        return []
    vectors = SCALE * encoder.encode(texts)
    rows: list[list[int]] = memory.search(Query(vectors, vectors)).facts.tolist()
    return [[fact for fact in row if fact >= 0] for row in rows]


def _drawn(seed: int, what: str, example: Example) -> float:
    """Return a number in [0, 1) that belongs to the question."""
    return random.Random(f"{seed}/{what}/{example.text}").random()


def _unknown(
    example: Example, found: Sequence[int], otherwise: str, memory: KnowledgeMemory
) -> tuple[str, Example]:
    """Return what is told of a question whose gold facts are not known."""
    if otherwise == "distant" and not example.gold:
        return "none", example
    matches = tuple(fact for fact in found if _tail(memory, fact) in example.answers)
    if otherwise == "distant" and matches:
        return "distant", replace(example, gold=matches, right=example.gold)
    return "none", replace(example, gold=(), via=(), told=False, right=example.gold)


def _wrong(example: Example, found: Sequence[int] | None, memory: KnowledgeMemory, seed: int) -> int | None:
    """Return a fact that doesn't answer, as hard to tell from the gold ones as there is; None without any."""
    heads, relations = zip(*(memory.triples[fact][:2].tolist() for fact in example.gold), strict=True)
    if found is None:
        found = [fact for head in sorted(set(heads)) for fact in memory.facts_of(head)]
    others = [
        fact for fact in found if fact not in example.gold and _tail(memory, fact) not in example.answers
    ]
    near = []
    for fact in others:
        head, relation = memory.triples[fact][:2].tolist()
        if head in heads or relation in relations:
            near.append(fact)
    chosen = near or others
    return random.Random(f"{seed}/wrong/{example.text}").choice(chosen) if chosen else None


def _tail(memory: KnowledgeMemory, fact: int) -> str:
    return memory.fact(fact).tail_label
