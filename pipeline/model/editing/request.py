"""What an edit asks for, and which edits the changes of a graph ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import UserError
from pipeline.kg.facts import FOLDS, Graph


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One fact that a language model shall answer with from now on.

    Raises:
        UserError: the subject, the target or the questions are empty; the text names the fact.
    """

    subject: str
    """Name of the entity that the fact is about, as it stands in the questions."""
    noun: str
    """What is asked of it: "capital"."""
    target: str
    """The answer that is to be given, without the space that goes before it."""
    questions: tuple[str, ...]
    """Wordings that the edit is made with."""
    answers: tuple[str, ...] = ()
    """Every right answer, the target among them; the target alone where this is empty."""
    former: tuple[str, ...] = ()
    """The answers that were right before; none for a fact that is new."""

    def __post_init__(self) -> None:
        for name in ("subject", "target"):
            if not getattr(self, name).strip():
                raise UserError(f"the edit {self.name!r} has an empty {name}: give every edited fact a label")
        if not self.questions:
            raise UserError(f"the edit {self.name!r} has no question to be made with: give it a wording")
        for question in self.questions:
            if self.subject not in question:
                raise UserError(
                    f"the edit {self.name!r}: the subject {self.subject!r} is not in its question "
                    f"{question!r}; word it with the entity's label"
                )

    @property
    def name(self) -> str:
        """The fact, as errors call it."""
        return f"{self.subject} | {self.noun} | {self.target}"

    @property
    def right(self) -> tuple[str, ...]:
        """Every right answer."""
        return self.answers or (self.target,)


def worded(template: str, noun: str, name: str) -> str:
    """Return the question of `template` about the noun of a name."""
    return template.replace("{noun}", noun).replace("{name}", name)


def changed(
    graph: Graph, first: int, last: int, wordings: Sequence[str], folds: Sequence[str] = FOLDS
) -> list[Edit]:
    """Return an edit for each slot that has another value in snapshot `last` than in `first`, or a new one.

    A slot with several values is edited to the oldest of those that are new. A slot that lost a value and got
    none asks for nothing: there is no text that weights could be taught in its stead.

    Args:
        graph: the tables.
        first: the snapshot that the model knows.
        last: the snapshot that it shall know.
        wordings: templates of questions with {noun} and {name}.
        folds: of which folds the new facts may be.
    """
    before, after = graph.live(first), graph.live(last)
    triples = graph.triples
    slots: dict[tuple[int, int], list[int]] = {}
    allowed = np.isin(graph.facts["fold"].to_pylist(), list(folds))
    for fact in np.flatnonzero(after & ~before & allowed).tolist():
        slots.setdefault((int(triples[fact, 0]), int(triples[fact, 1])), []).append(fact)
    held: dict[tuple[int, int], tuple[list[int], list[int]]] = {slot: ([], []) for slot in slots}
    for fact in np.flatnonzero(before | after).tolist():
        slot = int(triples[fact, 0]), int(triples[fact, 1])
        if slot in held:
            for place, live in enumerate((before, after)):
                if live[fact]:
                    held[slot][place].append(fact)
    edits = []
    for (head, relation), fresh in slots.items():
        old, new = ([graph.labels[triples[fact, 2]] for fact in facts] for facts in held[head, relation])
        target = graph.labels[triples[fresh[0], 2]]
        if target in old:
            continue  # another entity of the same name: no new answer in words
        edits.append(_edit(graph, head, relation, target, new, old, wordings))
    return edits


def counterfactual(
    graph: Graph, snapshot: int, wordings: Sequence[str], folds: Sequence[str], count: int, seed: int
) -> list[Edit]:
    """Return edits of facts that hold to what they are not: another tail of the same relation, drawn.

    As CounterFact does (ROME, §3.3): where few facts change, and where the model must know nothing of them.

    Args:
        graph: the tables.
        snapshot: whose facts are edited.
        wordings: templates of questions with {noun} and {name}.
        folds: of which folds the facts are.
        count: edits at most, one a slot.
        seed: of what is drawn.
    """
    draw = np.random.default_rng(seed)
    triples, live = graph.triples, graph.live(snapshot)
    held: dict[tuple[int, int], list[str]] = {}
    tails: dict[int, dict[str, None]] = {}
    for head, relation, tail in triples[live].tolist():
        held.setdefault((head, relation), []).append(graph.labels[tail])
        tails.setdefault(relation, {})[graph.labels[tail]] = None
    allowed = live & np.isin(graph.facts["fold"].to_pylist(), list(folds))
    edits: dict[tuple[int, int], Edit] = {}
    for head, relation, _ in triples[draw.permutation(np.flatnonzero(allowed))].tolist():
        old = held[head, relation]
        others = [label for label in tails[relation] if label not in old]
        if (head, relation) in edits or not others:
            continue
        target = others[int(draw.integers(len(others)))]
        edits[head, relation] = _edit(graph, head, relation, target, [target], old, wordings)
        if len(edits) == count:
            break
    return list(edits.values())


def _edit(
    graph: Graph,
    head: int,
    relation: int,
    target: str,
    new: Sequence[str],
    old: Sequence[str],
    wordings: Sequence[str],
) -> Edit:
    noun, name = graph.nouns[relation], graph.labels[head]
    return Edit(
        subject=name,
        noun=noun,
        target=target,
        questions=tuple(worded(template, noun, name) for template in wordings),
        answers=tuple(dict.fromkeys(new)),
        former=tuple(dict.fromkeys(old)),
    )
