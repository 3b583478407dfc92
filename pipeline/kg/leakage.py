"""What could be answered without reading: a check on the splits, counted for each."""

from collections import defaultdict

import numpy as np
import pyarrow as pa

from pipeline.kg.facts import Graph, Ids
from pipeline.kg.slots import Mask

TRAINED_ON = ("train", "valid", "seen")


def training_facts(graph: Graph) -> Mask:
    """Return which facts may be trained on, those of fold train that hold in the base: [M]."""
    return np.asarray((graph.facts["fold"].to_numpy(zero_copy_only=False) == "train") & graph.live(0))


def leakage(graph: Graph, questions: pa.Table) -> dict[str, dict[str, float]]:
    """Return, for each split that is tested, which shares of its answerable questions could leak.

    - `answer_in_training`: a gold fact (slot and answer) is a training fact;
    - `slot_in_training`: the slot has a training fact, of whatever answer;
    - `pair_in_training`: a training fact joins the head and an answer, in either direction;
    - `commonest_answer`: the relation's commonest training answer is right;
    - `answer_in_question`: an answer's words stand in the question.

    `seen` and `train` are trained on by design and left out; multi-hop questions count by their last hop.
    """
    trained = graph.triples[training_facts(graph)]
    facts = set(map(tuple, trained.tolist()))
    slots = {(head, relation) for head, relation, _ in facts}
    pairs = {(head, tail) for head, _, tail in facts} | {(tail, head) for head, _, tail in facts}
    commonest = commonest_tails(trained)
    found: dict[str, list[list[bool]]] = defaultdict(list)
    for row in questions.to_pylist():
        if row["split"] in TRAINED_ON or not row["facts"]:
            continue
        last = graph.triples[row["facts"][-1]]
        slot = (int(last[0]), int(last[1]))
        gold = [tuple(graph.triples[fact].tolist()) for fact in row["facts"]]
        gold = [fact for fact in gold if fact[:2] == slot]
        common = graph.labels[commonest[slot[1]]].casefold() if slot[1] in commonest else None
        answers = {answer.casefold() for answer in row["answers"]}
        text = f" {row['text'].casefold()} "
        found[row["split"]].append(
            [
                any(fact in facts for fact in gold),
                slot in slots,
                any((head, tail) in pairs for head, _, tail in gold),
                common in answers,
                any(answer in text for answer in answers),
            ]
        )
    names = (
        "answer_in_training",
        "slot_in_training",
        "pair_in_training",
        "commonest_answer",
        "answer_in_question",
    )
    return {
        split: {"questions": len(rows)}
        | {name: round(float(share), 4) for name, share in zip(names, np.mean(rows, axis=0), strict=True)}
        for split, rows in sorted(found.items())
    }


def commonest_tails(triples: Ids) -> dict[int, int]:
    """Return the commonest tail of each relation of `triples` [M, 3]; ties go to the lowest id."""
    pairs, counts = np.unique(triples[:, 1:], axis=0, return_counts=True)
    best: dict[int, int] = {}
    for position in np.lexsort((pairs[:, 1], -counts)):
        best.setdefault(int(pairs[position, 0]), int(pairs[position, 1]))
    return best
