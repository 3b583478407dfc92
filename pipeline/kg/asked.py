"""Questions that come with a source: which entities they may train on, and their rows of the table.

A publisher's split of questions decides the fold of the entities that they are about, test before valid
before train; a question that would then train on, or choose settings by, something kept out is dropped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.config import UserError
from pipeline.kg.numbering import Numbered
from pipeline.kg.sources import SourceQuestion

STRENGTH = {"train": 0, "valid": 1, "test": 2}


def assign(questions: Sequence[SourceQuestion], folds: Mapping[str, str]) -> dict[str, str]:
    """Return `folds` (by entity key) with the folds that the questions' splits ask for in their place."""
    asked: dict[str, str] = {}
    for question in questions:
        if question.split not in STRENGTH:
            raise UserError(
                f"the question {question.text!r} has the split {question.split!r}; "
                "it must be train, valid or test"
            )
        for head, _ in question.slots:
            asked[head] = max(asked.get(head, question.split), question.split, key=STRENGTH.__getitem__)
    return {**folds, **asked}


def rows(
    questions: Sequence[SourceQuestion], graph: Numbered, folds: Mapping[str, str], held_out: set[str]
) -> dict[str, list[Any]]:
    """Return the table of questions; what is dropped is counted in `graph.repairs`.

    A test question about slots whose facts are the same in the first and the last snapshot is `unseen`, one
    about a slot that the first leaves empty `added`, any other `updated`; the last two are answered by the
    last snapshot. Its answers are the publisher's, or the last slot's tails where it gives none.
    """
    slots = _Slots(graph)
    table: dict[str, list[Any]] = {name: [] for name in ("id", "text", "kind", "facts", "answers", "split")}
    for question in sorted(set(questions), key=lambda q: (q.text, q.slots, q.split, q.kind, q.answers)):
        facts, change = slots.find(question)
        split = _split(question, change, folds, held_out)
        if split is None:
            graph.repairs["questions about what their split must not see dropped"] += 1
            continue
        if bool(facts) == (question.kind == "unanswerable"):
            reason = (
                "unanswerable questions whose slot has a fact"
                if facts
                else "questions whose slot has no fact"
            )
            graph.repairs[f"{reason} dropped"] += 1
            continue
        last = [fact for fact in facts if (graph.triples[fact, :2] == graph.triples[facts[-1], :2]).all()]
        answers = list(question.answers) or [graph.labels[graph.triples[fact, 2]] for fact in last]
        row = (len(table["id"]), question.text, question.kind, facts, answers, split)
        for name, value in zip(table, row, strict=True):
            table[name].append(value)
    graph.repairs["repeated questions left out"] += len(questions) - len(set(questions))
    return table


class _Slots:
    """Finds the facts of a slot in the first and in the last snapshot."""

    def __init__(self, graph: Numbered) -> None:
        self.entity = {key: i for i, key in enumerate(graph.entities)}
        self.relation = {key: i for i, key in enumerate(graph.relations)}
        self.codes = graph.triples[:, 0] * len(graph.relations) + graph.triples[:, 1]
        self.live = graph.live

    def find(self, question: SourceQuestion) -> tuple[list[int], str]:
        """Return the facts that answer `question`, in hop order, and how its slots changed."""
        before, after, change = [], [], "unseen"
        for head, relation in question.slots:
            code = self.entity.get(head, -1) * len(self.relation) + self.relation.get(relation, -1)
            if head not in self.entity or relation not in self.relation:
                return [], change
            facts = np.arange(*np.searchsorted(self.codes, [code, code + 1]))
            first, last = facts[self.live[0, facts]].tolist(), facts[self.live[-1, facts]].tolist()
            if not (first or last):
                return [], change
            if not first:
                change = "added"
            elif first != last and change == "unseen":
                change = "updated"
            before += first
            after += last
        return (before, change) if change == "unseen" else (after, change)


def _split(question: SourceQuestion, change: str, folds: Mapping[str, str], held_out: set[str]) -> str | None:
    """Return the split of the row, or None where the question must not be asked in its publisher's split."""
    strongest = max(
        (folds[head] for head, _ in question.slots), key=STRENGTH.__getitem__, default=question.split
    )
    hidden = any(relation in held_out for _, relation in question.slots)
    if strongest != question.split or (hidden and question.split != "test"):
        return None
    if question.kind == "unanswerable" and question.split == "test":
        return "unanswerable"
    if question.split != "test":
        return question.split
    return "unseen_relation" if hidden else change
