"""A method through a stream of edits, step by step, and what it was worth after each."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.evaluation.intervals import Interval, bootstrap
from pipeline.evaluation.methods import Answerer
from pipeline.evaluation.metrics import exact_match, normalise
from pipeline.evaluation.streams import UNTOUCHED, Asked, Stream, Streams


def followed(answerer: Answerer, given: Stream, settings: Streams) -> list[dict[str, Any]]:
    """Edit `answerer` step by step; return one row a question and step, and one an update.

    A question row has `kind`, `question` (its place in the stream), `step`, `since` (the step from which its
    answer is right), `em`, `stale` (whether it said what is no longer right), `same` (whether it said what it
    did before any edit; untouched slots alone), and `seconds`. An update row has `step`, `edits` and
    `seconds`.
    """
    rows: list[dict[str, Any]] = []
    first: dict[int, str] = {}
    done = 0
    for step in range(len(given.lengths) + 1):
        if step:
            began = perf_counter()
            answerer.update(given.graph, step)
            made = given.lengths[step - 1] - done
            done += made
            rows.append({"kind": "update", "step": step, "edits": made, "seconds": perf_counter() - began})
        places = [place for place, one in enumerate(given.asked) if one.step <= step]
        for place, said, seconds in _said(answerer, given.asked, places, settings.batch_size, step):
            one = given.asked[place]
            row: dict[str, Any] = {"kind": one.kind, "question": place, "step": step, "since": one.step}
            row |= {"em": exact_match(said, one.answers), "seconds": seconds}
            row["stale"] = exact_match(said, one.former) if one.former else None
            row["same"] = float(normalise(first.setdefault(place, said)) == normalise(said))
            rows.append(row)
    return rows


def _said(
    answerer: Answerer, asked: Sequence[Asked], places: Sequence[int], batch: int, step: int
) -> list[tuple[int, str, float]]:
    """Return what is said to the questions in `places`, and the seconds of each."""
    found = []
    order = sorted(places, key=lambda place: len(asked[place].text))
    with tqdm(total=len(order), desc=f"{answerer.name} step {step}", unit="question") as progress:
        for start in range(0, len(order), batch):
            mine = order[start : start + batch]
            began = perf_counter()
            answers = answerer.answer([asked[place].text for place in mine])
            seconds = (perf_counter() - began) / len(mine)
            found += [
                (place, "" if refused else text, seconds)
                for place, text, refused in zip(mine, answers.texts, answers.refused, strict=True)
            ]
            progress.update(len(mine))
    return found


def summed(rows: Sequence[dict[str, Any]], lengths: Sequence[int], samples: int) -> list[dict[str, Any]]:
    """Return the figures of each step, over all seeds: shares with 95 % intervals, None of no question.

    `efficacy`, `generality` and `portability` are EM on what changed in this step, told, in another wording
    and followed; `retention` is EM (told) on what changed in earlier steps; `stale` the share of former
    values among the answers to what changed so far; `locality` the share of questions about untouched slots
    that get the answer of before, `beside` and `far` their EM.
    """
    told = []
    for step, length in enumerate([0, *lengths]):
        mine = [row for row in rows if row["step"] == step]
        fresh = [row for row in mine if row.get("since") == step and step]
        early = [row for row in mine if 0 < row.get("since", 0) < step]
        untouched = [row for row in mine if row["kind"] in UNTOUCHED]
        figures: dict[str, Any] = {
            "edits": length,
            "efficacy": _share(fresh, "em", samples, "told"),
            "generality": _share(fresh, "em", samples, "other"),
            "portability": _share(fresh, "em", samples, "portable"),
            "retention": _share(early, "em", samples, "told"),
            "stale": _share([*fresh, *early], "stale", samples, "told"),
            "locality": _share(untouched, "same", samples),
            "beside": _share(untouched, "em", samples, "beside"),
            "far": _share(untouched, "em", samples, "far"),
        }
        updates = [row for row in mine if row["kind"] == "update"]
        if updates:
            figures["ms an edit"] = [round(1000 * row["seconds"] / row["edits"], 3) for row in updates]
        asked = [row["seconds"] for row in mine if row["kind"] != "update"]
        figures["ms a question, median"] = round(1000 * float(np.median(asked)), 2)
        told.append(figures)
    return told


def _share(
    rows: Sequence[dict[str, Any]], figure: str, samples: int, kind: str | None = None
) -> dict[str, Any] | None:
    """Return the mean of a figure over questions; the same question under several seeds is one."""
    values: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        if kind in (None, row["kind"]) and row[figure] is not None:
            values.setdefault((row.get("seed", 0), row["question"]), []).append(row[figure])
    if not values:
        return None
    means = np.array([np.mean(found) for found in values.values()])
    interval: Interval = bootstrap(means, samples, 0)[0]
    return interval._asdict() | {"n": len(means)}
