"""From one row a question to the figures of a split, each with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.evaluation.intervals import Interval, bootstrap
from pipeline.evaluation.metrics import auroc

GROUNDING_AT = (1, 5)

ANSWERS = pa.schema(
    [
        ("question", pa.int64()),
        ("split", pa.string()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("prediction", pa.string()),
        ("em", pa.float64()),
        ("f1", pa.float64()),
        ("facts", pa.list_(pa.int64())),
        ("weights", pa.list_(pa.float64())),
        ("read", pa.list_(pa.string())),
        ("gold", pa.list_(pa.int64())),
        ("read_place", pa.int64()),
        ("candidate_place", pa.int64()),
        ("answer_seen", pa.bool_()),
        ("refused", pa.bool_()),
        ("refusal", pa.float64()),
        ("seconds", pa.float64()),
        ("prompts", pa.float64()),
        ("tokens", pa.float64()),
    ]
)
"""One row a question of `answers.parquet`.

`read` holds the facts that were read as text. `read_place` and `candidate_place` are the places, from 1, of
the first gold fact among the facts read and among the coarse candidates: 0 where it is not among them, null
where the question has no gold fact or the method has no such list. `answer_seen` says whether a right answer
is an answer of a training question, null where there is no answer. `seconds`, `prompts` and `tokens` are the
batch's over its size: the time, the prompts that the language model generated from, and the tokens in them.
"""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: the number of resamples and the seed of their draws."""

    samples: int
    seed: int


def summarise(rows: pd.DataFrame, recall_at: Sequence[int], how: Bootstrap) -> dict[str, dict[str, Any]]:
    """Return the figures of each split of `rows`, in order of first appearance.

    Each split has `n` and, as mean, low and high: `em`, `f1`, `refused`, `acc@1` and `acc@5` (a gold fact
    among the first facts read), `recall@N` (among the first N candidates), and EM on questions whose answer
    is (`em_answer_seen`) or is not (`em_answer_new`) an answer of a training question, each with its own
    `n`. A figure that has no meaning is None: grounding of a method that reads nothing, recall of one
    without a coarse search, both for questions that no fact answers.

    Costs are plain means. `ms` are those of a question, whether it is answered or refused; `prompt_tokens`
    those of a prompt that the language model generated from, None where it generated from none. Facts that
    are read as vectors or cached states are none of them. Neither has an interval: batches are few.

    Rows with the same question (several training seeds) are averaged first: they are one draw of a
    question, and counting each as another question would make the interval too narrow.
    """
    return {
        str(split): _split(rows[rows["split"] == split], recall_at, how) for split in rows["split"].unique()
    }


def refusal_auroc(rows: pd.DataFrame) -> float | None:
    """Return the AUROC of refusal scores of `unseen` against `unanswerable`; None where one is absent."""
    answerable = rows.loc[rows["split"] == "unseen", "refusal"]
    unanswerable = rows.loc[rows["split"] == "unanswerable", "refusal"]
    return auroc(answerable, unanswerable) if len(answerable) and len(unanswerable) else None


def per_question(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the mean of `columns` over the rows of each question, indexed by question id in order."""
    return rows.groupby("question", sort=True)[list(columns)].mean()


def _split(rows: pd.DataFrame, recall_at: Sequence[int], how: Bootstrap) -> dict[str, Any]:
    columns = {name: rows[name].astype(float) for name in ("em", "f1", "refused")}
    absent = []
    for place, label, depths in (
        ("read_place", "acc", GROUNDING_AT),
        ("candidate_place", "recall", recall_at),
    ):
        if rows[place].isna().any():
            absent += [f"{label}@{depth}" for depth in depths]
        else:
            columns |= {f"{label}@{depth}": rows[place].between(1, depth).astype(float) for depth in depths}
    values = per_question(pd.DataFrame({"question": rows["question"], **columns}), list(columns))
    figures: dict[str, Any] = {"n": len(values)}
    for name, interval in zip(columns, bootstrap(values.to_numpy(), how.samples, how.seed), strict=True):
        figures[name] = interval._asdict()
    figures |= dict.fromkeys(absent)
    figures["ms"] = 1000 * float(rows["seconds"].mean())
    prompts = float(rows["prompts"].sum())
    figures["prompt_tokens"] = float(rows["tokens"].sum()) / prompts if prompts else None
    for name, wanted in (("em_answer_seen", True), ("em_answer_new", False)):
        figures[name] = _part(rows[rows["answer_seen"].eq(wanted).fillna(False).astype(bool)], how)
    return figures


def _part(rows: pd.DataFrame, how: Bootstrap) -> dict[str, Any] | None:
    if rows.empty:
        return None
    values = per_question(rows, ["em"]).to_numpy(dtype=np.float64)
    interval: Interval = bootstrap(values, how.samples, how.seed)[0]
    return {"n": len(values), **interval._asdict()}
