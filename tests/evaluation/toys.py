"""A graph of countries, questions about it, and an answerer that looks answers up."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.evaluation.methods import Answers
from pipeline.kg.facts import SCHEMAS, Graph

LABELS = ["Aland", "Borland", "Cland", "Paris", "Lyon", "French", "Dutch", "Nice"]
# head, relation (0 capital, 1 official language), tail, snapshot, fold
FACTS = [
    (0, 0, 3, 0, "train"),
    (1, 0, 3, 0, "train"),
    (0, 1, 5, 0, "train"),
    (1, 1, 6, 0, "train"),
    (2, 0, 3, 0, "test"),
    (2, 1, 6, 0, "test"),
    (2, 0, 4, 1, "test"),
    (2, 0, 7, 1, "test"),
]


def table(name: str, rows: Sequence[Sequence[object]]) -> pa.Table:
    schema = SCHEMAS[name]
    return pa.table([[row[place] for row in rows] for place in range(len(schema))], schema=schema)


def graph(snapshots: int = 2) -> Graph:
    changes = [(1, "delete", 4), (1, "upsert", 6), (1, "upsert", 7)] if snapshots == 2 else []
    return Graph(
        table("entities", [(place, f"Q{place}", label, "", []) for place, label in enumerate(LABELS)]),
        table(
            "relations",
            [(0, "P36", "capital", "capital", ""), (1, "P37", "language", "official language", "")],
        ),
        table("facts", [(place, *fact[:3], "", "", "toy", *fact[3:]) for place, fact in enumerate(FACTS)]),
        table("changes", changes),
    )


QUESTIONS = [
    (0, "What is the capital of Aland?", "template", [0], ["Paris"], "train"),
    (1, "The official language of Aland?", "template", [2], ["French"], "train"),
    (2, "Aland has which capital?", "template", [0], ["Paris"], "seen"),
    (3, "Borland has which capital?", "template", [1], ["Paris"], "seen"),
    (4, "What is the capital of Cland?", "template", [4], ["Paris"], "unseen"),
    (5, "What is spoken in Cland?", "human", [5], ["Dutch"], "unseen"),
    (6, "What is the mass of Cland?", "unanswerable", [], [], "unanswerable"),
    (7, "What is the mass of Dland?", "unanswerable", [], [], "unanswerable"),
    (8, "Cland has which official language?", "template", [5], ["Dutch"], "unchanged"),
    (9, "Cland has which capital?", "template", [6, 7], ["Lyon", "Nice"], "updated"),
]


def questions(rows: Sequence[Sequence[object]] = QUESTIONS) -> pa.Table:
    return table("questions", rows)


class LookUp:
    """Knows the facts of each question by its text, and refuses what it does not know.

    It answers by the heaviest fact that holds in its snapshot; facts of other snapshots are not read.
    """

    def __init__(self, graph: Graph, name: str = "look_up", mistakes: Sequence[int] = ()) -> None:
        self.name = name
        self.graph = graph
        self.live = graph.live(0)
        self.asked: list[list[str]] = []
        self.updates: list[int] = []
        self.slots = {row[1]: [] if row[0] in mistakes else row[3] for row in QUESTIONS}

    def answer(self, questions: Sequence[str]) -> Answers:
        self.asked.append(list(questions))
        facts = [[fact for fact in self.slots[text] if self.live[fact]] for text in questions]
        tails = [self.graph.labels[self.graph.triples[found[0], 2]] if found else "" for found in facts]
        return Answers(
            texts=tails,
            facts=facts,
            weights=[[1 / len(found) for _ in found] for found in facts],
            candidates=[[0, *found] for found in facts],
            refusal=[0.1 if found else 0.9 for found in facts],
            refused=[not found for found in facts],
        )

    def update(self, graph: Graph, snapshot: int) -> None:
        self.updates.append(snapshot)
        self.live = graph.live(snapshot)
