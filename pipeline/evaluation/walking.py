"""A method through the snapshots of a timeline, and what it was worth in each."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.evaluation.intervals import bootstrap, paired
from pipeline.evaluation.methods import Answerer
from pipeline.evaluation.metrics import exact_match, normalise, token_f1
from pipeline.evaluation.prompttokens import counted, reader_of
from pipeline.evaluation.systems import SystemAnswerer
from pipeline.evaluation.timeline import Plan
from pipeline.evaluation.ways import HOPS
from pipeline.model.closedbook import ClosedBookSystem

Row = dict[str, Any]

FIGURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "before": ("coming", ("em", "f1")),
    "already": ("coming", ("other",)),
    "efficacy": ("changed", ("em", "f1")),
    "stale": ("changed", ("other",)),
    "insertion": ("inserted", ("em", "f1")),
    "retention": ("earlier", ("em", "f1")),
    "unchanged": ("unchanged", ("em", "f1")),
    "locality": ("unchanged", ("same",)),
}
"""Each figure's group of questions and what is averaged over them."""
COMPARED = ("efficacy", "insertion", "retention", "unchanged")


def walked(answerer: Answerer, plan: Plan, batch: int) -> tuple[list[Row], list[Row]]:
    """Lead `answerer` through the snapshots; return a row a question and one a snapshot.

    A question's row has `snapshot` (of `coming` the one to come), `group`, `hops`, `question`, `answers`,
    `said` ("" where it declined), `em`, `f1`, `other` (whether it said what was right before, of `coming`
    what will be) and `same` (whether it said what it did one snapshot before; None where it wasn't asked
    then). A snapshot has `snapshot`, `slots`, `update` and `asking` (seconds), `asked`, `reads` (whether
    it has a language model), `prompts` and `tokens`.
    """
    rows: list[Row] = []
    steps: list[Row] = []
    last: dict[int, str] = {}
    reader = reader_of(answerer)
    for snapshot, due in enumerate(plan.due):
        began = perf_counter()
        if snapshot and _follows(answerer):
            answerer.update(plan.graph, snapshot)
        took = perf_counter() - began
        texts = {one.way: plan.ways[one.way].text for one in due}
        began = perf_counter()
        with counted(reader) as prompts:
            said = _said(answerer, texts, batch, snapshot)
        step: Row = {"snapshot": snapshot, "slots": plan.changed[snapshot], "update": took}
        step |= {"asking": perf_counter() - began, "asked": len(texts), "reads": reader is not None}
        steps.append(step | vars(prompts))
        for one in due:
            text, before = said[one.way], last.get(one.way)
            row: Row = {"snapshot": snapshot + (one.group == "coming"), "group": one.group}
            row |= {"hops": plan.ways[one.way].hops, "question": texts[one.way]}
            row |= {"answers": list(one.answers), "said": text}
            row |= {"em": exact_match(text, one.answers), "f1": token_f1(text, one.answers)}
            row["other"] = exact_match(text, one.other) if one.other else None
            row["same"] = None if before is None else float(normalise(before) == normalise(text))
            rows.append(row)
        last = said
    return rows, steps


def _follows(answerer: Answerer) -> bool:
    """Return whether a change can reach what a method says; `closed_book` never reads its memory."""
    return not (isinstance(answerer, SystemAnswerer) and isinstance(answerer.system, ClosedBookSystem))


def _said(answerer: Answerer, texts: Mapping[int, str], batch: int, snapshot: int) -> dict[int, str]:
    """Return what is said to each text; alike in length they go together."""
    found: dict[int, str] = {}
    order = sorted(texts, key=lambda place: (len(texts[place]), place))
    with tqdm(total=len(order), desc=f"{answerer.name} snapshot {snapshot}", unit="question") as progress:
        for start in range(0, len(order), batch):
            mine = order[start : start + batch]
            answers = answerer.answer([texts[place] for place in mine])
            for place, text, refused in zip(mine, answers.texts, answers.refused, strict=True):
                found[place] = "" if refused else text
            progress.update(len(mine))
    return found


def summed(rows: Sequence[Row], steps: Sequence[Row], samples: int) -> list[dict[str, Any]]:
    """Return the figures of each snapshot over all seeds, for `single` and `multi` apart.

    Means have 95 % intervals over questions, None where there is none; the same question under several seeds
    is one. Times are of each seed. `ms an answer` and `prompt tokens an answer` count the answers that a
    language model generated: it is not asked again what it can't say otherwise.
    """
    told = []
    for snapshot in sorted({step["snapshot"] for step in steps}):
        mine = [step for step in steps if step["snapshot"] == snapshot]
        figures: dict[str, Any] = {"slots changed": mine[0]["slots"]}
        if snapshot:
            figures["ms a changed slot"] = [
                round(1000 * step["update"] / max(step["slots"], 1), 3) for step in mine
            ]
        figures["ms an answer"] = [_each(1000 * step["asking"], step) for step in mine]
        if any(step["reads"] for step in mine):
            figures["prompt tokens an answer"] = [_each(step["tokens"], step) for step in mine]
        for hops in HOPS:
            here = [row for row in rows if row["snapshot"] == snapshot and row["hops"] == hops]
            if here:
                figures[hops] = {
                    name: _shares([row for row in here if row["group"] == group], kinds, samples)
                    for name, (group, kinds) in FIGURES.items()
                }
        told.append(figures)
    return told


def _each(total: float, step: Row) -> float | None:
    number = step["prompts"] if step["reads"] else step["asked"]
    return round(total / number, 2) if number else None


def _shares(rows: Sequence[Row], kinds: Sequence[str], samples: int) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for kind in kinds:
        values = list(_by_question(rows, kind).values())
        if values:
            [interval] = bootstrap(np.array(values), samples, 0)
            found |= {kind: interval._asdict(), "n": len(values)}
    return found or None


def _by_question(rows: Sequence[Row], kind: str) -> dict[str, float]:
    """Return the mean of each question that has any, in the order of their texts."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row[kind] is not None:
            values.setdefault(row["question"], []).append(row[kind])
    return {question: float(np.mean(found)) for question, found in sorted(values.items())}


def compared(first: Sequence[Row], second: Sequence[Row], samples: int) -> dict[str, Any]:
    """Return by how much the first method's EM is above the second's, question by question.

    A question that is asked in several snapshots counts once, by its mean over them.
    """
    told: dict[str, Any] = {}
    for hops in HOPS:
        for name in COMPARED:
            group = FIGURES[name][0]
            mine, other = (
                _by_question([row for row in rows if (row["hops"], row["group"]) == (hops, group)], "em")
                for rows in (first, second)
            )
            if mine:
                found = paired(list(mine.values()), list(other.values()), samples, 0)
                told.setdefault(hops, {})[name] = {
                    **found._asdict(),
                    "difference": found.difference._asdict(),
                    "n": len(mine),
                }
    return told
