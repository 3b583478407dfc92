"""The three experiments that the project began with, each with what was measured and a verdict.

1. The coarse search finds France's facts for "What is the capital of France?", and the right one is selected.
2. A new fact is asked at once: the answer follows without retraining.
3. Reading k selected facts is faster than reading all N candidates, and the answers are no worse.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from pipeline.evaluation.metrics import exact_match, token_f1
from pipeline.kg.facts import read_table
from pipeline.model.factreader import FactReader
from pipeline.reporting.tables import Cell, Table
from pipeline.serve.session import Session
from pipeline.serve.start import EXAMPLES, shared_paths

CAPITAL = "What is the capital of France?"
QUESTIONS = 20
"""Questions of the third experiment."""

Figures = dict[str, Any]
Question = tuple[str, list[str]]
"""A text and its right answers."""


def experiments(session: Session) -> Figures:
    """Return the figures and the verdict of each experiment."""
    return {
        "adapter": str(session.adapter),
        "memory": str(session.origin),
        "facts": len(session.system.memory),
        "capital": capital(session),
        "update": update(session),
        "sparse": sparse(session, questions(session)),
    }


def capital(session: Session) -> Figures:
    """Return where France's facts stand among the candidates, and whether the right one is read."""
    if _capital_of_france(session) is None:
        session = Session.open(session.adapter, facts=EXAMPLES)
    memory, gold = session.system.memory, _capital_of_france(session)
    with torch.no_grad():
        query = session.system.query([CAPITAL])
    found = [row for row in memory.search(query).facts[0].tolist() if row >= 0]
    ranks = [rank for rank, row in enumerate(found, start=1) if memory.fact(row).head_label == "France"]
    answer = session.ask(CAPITAL)
    weights = {used.key: used.weight for used in answer.facts}
    weight = weights.get(memory.fact(gold).key) if gold is not None else None
    return {
        "memory": str(session.origin),
        "candidates": len(found),
        "rank_of_france": min(ranks, default=None),
        "facts_of_france": len(ranks),
        "rank_of_the_fact": found.index(gold) + 1 if gold in found else None,
        "weight_of_the_fact": weight,
        "answer": answer.text,
        "confirmed": bool(ranks) and weight is not None,
    }


def update(session: Session) -> Figures:
    """Return how long a new fact and its replacement took, and what was answered at once."""
    question = "Who is the CEO of CompanyX?"
    before = session.ask(question)
    seconds, said = [], []
    for tail in ("PersonY", "PersonZ"):
        change = session.upsert(f"CompanyX | CEO | {tail}")
        seconds.append(change.seconds)
        said.append(session.ask(question).text)
    session.delete("CompanyX | CEO | PersonZ")
    return {
        "before": before.text,
        "refusal_before": before.refusal,
        "added": said[0],
        "replaced": said[1],
        "seconds_to_add": seconds[0],
        "seconds_to_replace": seconds[1],
        "confirmed": bool(exact_match(said[0], ["PersonY"]) and exact_match(said[1], ["PersonZ"])),
    }


def sparse(session: Session, asked: Sequence[Question]) -> Figures:
    """Return time and F1 of reading k facts beside those of reading every candidate."""
    settings = session.system.memory.settings
    figures: Figures = {"questions": len(asked)}
    for name, k in (("sparse", settings.k), ("dense", settings.N)):
        with reading(session, k, session.system.method.mass if name == "sparse" else 1.0):
            session.ask(asked[0][0])  # the first call sets up what later ones share
        with reading(session, k, session.system.method.mass if name == "sparse" else 1.0):
            answers = [session.ask(text) for text, _ in tqdm(asked, desc=name, unit="question")]
        scores = [token_f1(answer.text, right) for answer, (_, right) in zip(answers, asked, strict=True)]
        figures[name] = {
            "k": min(k, len(session.system.memory)),
            "facts_read": sum(len(answer.facts) for answer in answers) / len(asked),
            "ms_per_question": 1000 * sum(answer.seconds for answer in answers) / len(asked),
            "f1": sum(scores) / len(asked),
        }
    few, all_ = figures["sparse"], figures["dense"]
    faster, no_worse = few["ms_per_question"] < all_["ms_per_question"], few["f1"] >= all_["f1"]
    return figures | {"faster": faster, "no_worse": no_worse, "confirmed": faster and no_worse}


@contextmanager
def reading(session: Session, k: int, mass: float) -> Iterator[None]:
    """Let the session read k facts, fewer where they hold `mass` of the probability, none from the cache."""
    system = session.system
    settings, method, facts = system.memory.settings, system.method, system.facts
    system.memory.settings = replace(settings, k=k)
    system.method = replace(method, mass=mass)
    system.facts = FactReader(system.reader, method.first_layer, method.fact_window, method.fact_cache)
    try:
        yield
    finally:
        system.memory.settings, system.method, system.facts = settings, method, facts


def questions(session: Session, count: int = QUESTIONS, seed: int = 0) -> list[Question]:
    """Return questions about facts of the memory: those of the split `unseen`, or templated ones."""
    memory, paths = session.system.memory, shared_paths()
    draw = random.Random(seed)
    if session.origin == paths.index and (paths.kv / "questions.parquet").is_file():
        rows = read_table(paths.kv, "questions").select(["text", "answers", "split"]).to_pylist()
        unseen = [(row["text"], row["answers"]) for row in rows if row["split"] == "unseen"]
        if unseen:
            return draw.sample(unseen, min(count, len(unseen)))
    slots: dict[str, list[str]] = {}
    for head in range(len(memory.entities)):
        for row in memory.facts_of(head):
            fact = memory.fact(row)
            text = f"What is the {fact.relation_noun} of {fact.head_label}?"
            slots.setdefault(text, []).append(fact.tail_label)
    return draw.sample(sorted(slots.items()), min(count, len(slots)))


def told(figures: Figures) -> str:
    """Return the figures as a text, with the verdicts."""
    first, second, third = figures["capital"], figures["update"], figures["sparse"]
    rows = [
        [Cell(name), *(Cell(f"{third[name][key]:.{digits}f}") for key, digits in SHOWN)]
        for name in ("sparse", "dense")
    ]
    found = (
        f"Among {first['candidates']} candidates the first fact of France has rank "
        f"{first['rank_of_france']}, (France, capital, Paris) rank {first['rank_of_the_fact']}; "
    )
    weight = first["weight_of_the_fact"]
    found += "it is not read" if weight is None else f"it is read with weight {weight:.3f}"
    return "\n".join(
        [
            f"1. {CAPITAL} → {_said(first['answer'])}",
            f"   {found}.",
            f"   {_verdict(first)}: the coarse search finds France's facts and the right one is selected.",
            "",
            f"2. Who is the CEO of CompanyX? Before: {_said(second['before'])}, probability of no answer "
            f"{second['refusal_before']:.2f}.",
            f"   Added PersonY in {1000 * second['seconds_to_add']:.0f} ms → {_said(second['added'])}",
            f"   Replaced by PersonZ in {1000 * second['seconds_to_replace']:.0f} ms → "
            f"{_said(second['replaced'])}",
            f"   {_verdict(second)}: the answer follows a new fact without retraining.",
            "",
            f"3. {third['questions']} questions, read by k facts (sparse) and by all candidates (dense):",
            *(f"   {line}" for line in Table(["", *(name for name, _ in SHOWN)], rows).plain().splitlines()),
            f"   {_verdict(third)}: sparse is faster ({_yes(third['faster'])}) "
            f"and its F1 is no worse ({_yes(third['no_worse'])}).",
        ]
    )


SHOWN = (("k", 0), ("facts_read", 1), ("ms_per_question", 0), ("f1", 3))


def _capital_of_france(session: Session) -> int | None:
    memory = session.system.memory
    for head, label in enumerate(memory.entities.texts):
        if label == "France":
            for row in memory.facts_of(head):
                fact = memory.fact(row)
                if fact.relation_noun == "capital" and fact.tail_label == "Paris":
                    return row
    return None


def _verdict(figures: Figures) -> str:
    return "Confirmed" if figures["confirmed"] else "Not confirmed"


def _said(answer: str) -> str:
    return f'"{answer}"' if answer else "I don't know"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
