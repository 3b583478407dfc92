"""Counts what a build holds, for the report: facts by snapshot, fold and relation, and what can be asked."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.kg.facts import FOLDS, Ids
from pipeline.kg.numbering import Numbered


def count(
    graph: Numbered, fold: Sequence[str], names: Sequence[str], relations: dict[str, str]
) -> dict[str, Any]:
    """Return the counts of a build; `fold` is by fact, `names` by snapshot, `relations` labels by key."""
    slots = graph.triples[:, 0] * len(graph.relations) + graph.triples[:, 1]
    folds = np.array(fold)
    twins = [number for number in Counter(graph.labels).values() if number > 1]
    return {
        "facts": len(slots),
        "slots": len(np.unique(slots)),
        "entities": len(graph.entities),
        "heads": len(np.unique(graph.triples[:, 0])),
        "snapshots": [
            {
                "name": name,
                "facts": int(live.sum()),
                "added": int((live & ~before).sum()),
                "deleted": int((before & ~live).sum()),
            }
            for name, live, before in zip(names, graph.live, (graph.live[0], *graph.live), strict=False)
        ],
        "folds": {
            name: {"facts": int((folds == name).sum()), "slots": len(np.unique(slots[folds == name]))}
            for name in FOLDS
        },
        "relations": {
            relations[key]: {
                "facts": int((graph.triples[:, 1] == i).sum()),
                "slots": len(np.unique(slots[graph.triples[:, 1] == i])),
                "held out": bool((folds[graph.triples[:, 1] == i] == "unseen_relation").all()),
            }
            for i, key in enumerate(graph.relations)
        },
        "testable slots": testable(slots, graph.triples[:, 2], graph.live, folds),
        "entities that share their label": sum(twins),
        "labels shared": len(twins),
        "guessable": guessable(graph.triples, graph.live[-1], folds),
        "repairs": dict(sorted(graph.repairs.items())),
    }


def testable(slots: Ids, tails: Ids, live: NDArray[np.bool_], folds: NDArray[np.str_]) -> dict[str, int]:
    """Return how many slots of fold test the last snapshot answers as the first, otherwise, newly, not.

    A slot is known by its number (`slots`, [M]); its answer is the set of its tails (`tails`, [M]).
    """
    kept = folds == "test"
    before, after = (_answers(slots[kept & now], tails[kept & now]) for now in (live[0], live[-1]))
    both = before.keys() & after.keys()
    same = sum(before[slot] == after[slot] for slot in both)
    hidden = folds == "unseen_relation"
    return {
        "base": len(before),
        "unchanged": same,
        "updated": len(both) - same,
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "unseen_relation": len(np.unique(slots[hidden & live[0]])),
    }


def guessable(triples: Ids, live: NDArray[np.bool_], folds: NDArray[np.str_]) -> dict[str, int]:
    """Return how many slots of fold test can be answered without reading their facts.

    "by the training facts": training holds a fact of the slot, which would be a leak. "by the commonest
    answer": the tail that the relation has most often in training is among the slot's.
    """
    train, test = (triples[live & (folds == name)] for name in ("train", "test"))
    commonest: dict[int, int] = {}
    for relation in np.unique(train[:, 1]).tolist():
        tails, times = np.unique(train[train[:, 1] == relation, 2], return_counts=True)
        commonest[relation] = int(tails[np.argmax(times)])
    known = {(head, relation) for head, relation, _ in train.tolist()}
    asked = {(head, relation) for head, relation, _ in test.tolist()}
    guessed = {(head, relation) for head, relation, tail in test.tolist() if commonest.get(relation) == tail}
    return {
        "slots": len(asked),
        "by the training facts": len(asked & known),
        "by the commonest answer": len(guessed),
    }


def _answers(slots: Ids, tails: Ids) -> dict[int, set[int]]:
    answers: dict[int, set[int]] = {}
    for slot, tail in zip(slots.tolist(), tails.tolist(), strict=True):
        answers.setdefault(slot, set()).add(tail)
    return answers
