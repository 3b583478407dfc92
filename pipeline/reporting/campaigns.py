"""What finished jobs of a campaign found, one row an answer.

Below a root lie `evaluate/LABEL/SEED/METHOD`, and the same of `streams` and `timeline`; LABEL.1 and LABEL.2
are parts of one label. A task is LABEL/SPLIT, or `LABEL, 10 edits/efficacy` and the like.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import UserError
from pipeline.evaluation.streams import UNTOUCHED
from pipeline.evaluation.walking import FIGURES

WALKED = ("efficacy", "insertion", "retention", "unchanged", "locality")
"""Figures of a timeline."""
STREAMED = ("efficacy", "generality", "portability", "retention", "locality")
"""Figures of a stream."""
ENDINGS = {"single": "", "multi": ", two facts"}

Frame = Any
"""A pandas table; pandas' own types of what columns do are too wide to be checked."""


def gathered(roots: Sequence[Path]) -> Frame:
    """Return a row an answer: task, method, seed, question, value.

    Answers of splits have refusal, tokens, prompts and ms besides.

    Raises:
        UserError: no finished job lies below the roots.
    """
    found = [frame for root in roots for frame in _frames(root)]
    if not found:
        raise UserError(
            f"{', '.join(map(str, roots))}: no finished job of evaluate, streams or timeline there"
        )
    return pd.concat(found, ignore_index=True)


def _frames(root: Path) -> Iterator[Frame]:
    for kind, rows in (("evaluate", _splits), ("streams", _streams), ("timeline", _timeline)):
        for about in sorted((root / kind).glob("*/*/*/provenance.json")):
            label, seed, method = about.parts[-4:-1]
            [file] = about.parent.glob("*.parquet")
            frame = rows(pd.read_parquet(file), label.partition(".")[0])
            yield frame.assign(method=method, seed=int(seed))


def _splits(rows: Frame, label: str) -> Frame:
    """Return EM by split, with what an answer cost."""
    kept = rows[["question", "refusal", "tokens", "prompts"]]
    return kept.assign(task=label + "/" + rows["split"], value=rows["em"], ms=1000 * rows["seconds"])


def _streams(rows: Frame, label: str) -> Frame:
    """Return the figures of `pipeline.evaluation.stepwise.summed` after each step."""
    updates = rows[rows["kind"] == "update"].drop_duplicates("step").set_index("step")["edits"].cumsum()
    told = {step: _stream(label, int(edits)) for step, edits in updates.items()}
    asked = rows[(rows["kind"] != "update") & (rows["step"] > 0)]
    fresh, early = asked["since"] == asked["step"], asked["since"].between(1, asked["step"] - 1)
    groups = {
        "efficacy": (fresh & (asked["kind"] == "told"), "em"),
        "generality": (fresh & (asked["kind"] == "other"), "em"),
        "portability": (fresh & (asked["kind"] == "portable"), "em"),
        "retention": (early & (asked["kind"] == "told"), "em"),
        "locality": (asked["kind"].isin(UNTOUCHED), "same"),
    }
    return pd.concat(
        _valued(asked[mine], figure, [f"{told[step]}/{name}" for step in asked["step"][mine]], "text")
        for name, (mine, figure) in groups.items()
    )


def _stream(label: str, edits: int) -> str:
    return f"{label}, {edits:,} edit{'s' * (edits > 1)}"


def streamed(files: Sequence[Path], label: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return figures by task and method of files that the benchmark `streams` wrote by itself."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in files:
        told = json.loads(file.read_text(encoding="utf-8"))
        for entry, steps in told["figures"].items():
            method, made = entry.partition(":")[0], f"{told['command']}; commit {told['commit']}"
            for step, name in ((step, name) for step in steps[1:] for name in STREAMED if step[name]):
                task = f"{_stream(label, step['edits'])}/{name}"
                found.setdefault(task, {})[method] = step[name] | {"from": made}
    return found


def _timeline(rows: Frame, label: str) -> Frame:
    """Return the figures of `pipeline.evaluation.walking.summed`, over all snapshots."""
    found = []
    for name in WALKED:
        group, (figure, *_) = FIGURES[name]
        mine = rows[(rows["group"] == group) & rows[figure].notna()]
        tasks = [f"{label}/{name}{ENDINGS[hops]}" for hops in mine["hops"]]
        found.append(_valued(mine, figure, tasks, "question"))
    return pd.concat(found)


def _valued(rows: Frame, figure: str, tasks: list[str], question: str) -> Frame:
    """Return a figure of rows under the names of their tasks."""
    return pd.DataFrame({"question": rows[question], "task": tasks, "value": rows[figure]})


def provenances(roots: Sequence[Path]) -> dict[str, Any]:
    """Return the commands of the campaigns, and what their finished jobs were made with.

    Raises:
        UserError: a root has no campaign in it.
    """
    told = [json.loads(file.read_text(encoding="utf-8")) for root in roots for file in _told(root)]
    files = [file for root in roots for file in sorted(root.rglob("provenance.json"))]
    jobs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    commits = sorted({job["commit"] for job in jobs})
    return {
        "command": "; ".join(one["command"] for one in told),
        "commit": ", ".join(commits),
        "versions": told[0]["versions"],
        "machine": told[0]["machine"],
        "seeds": sorted({seed for job in jobs for seed in job["seeds"]}),
        "jobs": [one["states"] for one in told],
        "minutes": [one.get("minutes") for one in told],
    }


def _told(root: Path) -> list[Path]:
    found = sorted(root.glob("campaign-*.json"))
    if not found:
        raise UserError(f"{root}: no campaign-*.json in it; run python -m pipeline.benchmarks.campaign first")
    return found
