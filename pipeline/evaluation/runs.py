"""Asks a method the questions of every split, before and after the graph changes, and keeps each answer."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline.config import UserError
from pipeline.evaluation.environment import machine, versions
from pipeline.evaluation.methods import Answerer, Answers
from pipeline.evaluation.metrics import exact_match, normalise, place_of_gold, token_f1
from pipeline.evaluation.prompttokens import counted, reader_of
from pipeline.evaluation.splits import AFTER, BEFORE
from pipeline.evaluation.summary import ANSWERS, Bootstrap, refusal_auroc, summarise
from pipeline.kg.facts import Graph
from pipeline.place import first
from pipeline.processes import everyones, share

logger = logging.getLogger(__name__)

KINDS = ("template", "human", "multihop", "unanswerable")

Question = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is asked, and how answers are counted."""

    questions_per_split: int
    """Questions drawn from each split by the seed; 0 asks all."""
    splits: list[str]
    """Which splits are asked, of `BEFORE` and `AFTER`; each side is asked in this order."""
    kinds: list[str]
    """Kinds of questions that are asked: template, human, multihop, unanswerable."""
    batch_size: int
    """Questions that are answered at once."""
    recall_at: list[int]
    """Depths N of recall@N."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        if self.questions_per_split < 0:
            raise ValueError(
                f"evaluate.questions_per_split must be 0 (all) or more, not {self.questions_per_split}"
            )
        for name in ("batch_size", "bootstrap_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluate.{name} must be at least 1, not {getattr(self, name)}")
        unknown = [split for split in self.splits if split not in (*BEFORE, *AFTER)]
        if unknown or not self.splits:
            known = ", ".join((*BEFORE, *AFTER))
            raise ValueError(f"evaluate.splits must be some of {known}, not {self.splits}")
        if not self.kinds or (odd := set(self.kinds) - set(KINDS)):
            named = ", ".join(sorted(odd)) if self.kinds else "none"
            raise ValueError(f"evaluate.kinds must be some of {', '.join(KINDS)}, not {named}")
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"evaluate.recall_at must hold numbers from 1, not {self.recall_at}")


def run(
    answerer: Answerer, graph: Graph, questions: pa.Table, evaluate: Evaluate, seed: int, out: Path
) -> dict[str, Any]:
    """Ask `answerer` every split, write `answers.parquet` and `metrics.json` to `out`, return the metrics.

    The splits of `BEFORE` are asked on the base graph; then `answerer.update` follows the graph to its last
    snapshot, and those of `AFTER` are asked. The sample of a split depends on the seed alone, so all
    methods get the same questions, and `unchanged_after` those of `unchanged`. Where no fact answers, a
    refusal counts as right (EM and F1 of 1) and any answer as wrong. Processes that were started together
    share the batches; the first one writes.

    Raises:
        UserError: none of the splits has a question, or a question that should have an answer has none.
        ValueError: the method's answers do not fit the questions; the text names the method.
    """
    known = _training_answers(questions)
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for split in (split for split in evaluate.splits if split in BEFORE):
        rows += _ask(answerer, graph, _sample(questions, split, evaluate, seed), split, evaluate, known)
    later = [split for split in evaluate.splits if split in AFTER]
    if later and graph.last_snapshot > 0:
        began = perf_counter()
        answerer.update(graph, graph.last_snapshot)
        seconds["update_seconds"] = perf_counter() - began
        for split in later:
            rows += _ask(answerer, graph, _sample(questions, split, evaluate, seed), split, evaluate, known)
    elif later:
        logger.warning("the graph has one snapshot, so %s can't be asked", ", ".join(later))
    if not rows:
        raise UserError(
            f"no question in the splits {', '.join(evaluate.splits)}; check evaluate.splits, or run "
            "`dvc repro synthesize` with a data choice that has these splits"
        )
    for column in ("read_place", "candidate_place"):
        _count_misses(rows, column)
    table = pa.Table.from_pylist(rows, schema=ANSWERS)
    metrics = _metrics(answerer.name, table, graph, evaluate, seed) | seconds
    if first():
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out / "answers.parquet", compression="zstd")
        text = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False)
        (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    return metrics


def _metrics(name: str, table: pa.Table, graph: Graph, evaluate: Evaluate, seed: int) -> dict[str, Any]:
    frame = table.to_pandas(integer_object_nulls=True)
    return {
        "method": name,
        "seed": seed,
        "recall_at": list(evaluate.recall_at),
        "bootstrap_samples": evaluate.bootstrap_samples,
        "splits": summarise(frame, evaluate.recall_at, Bootstrap(evaluate.bootstrap_samples, seed)),
        "refusal_auroc": refusal_auroc(frame),
        "seconds_per_question": float(np.median(frame["seconds"])),
        "update_changes": graph.changes.num_rows,
        "versions": versions(),
        "machine": machine(),
    }


def _sample(questions: pa.Table, split: str, evaluate: Evaluate, seed: int) -> list[Question]:
    """Return the questions of a split in order of their ids, drawn by the seed where there are too many."""
    source = split.removesuffix("_after")
    rows = drawn(questions, source, evaluate.kinds, evaluate.questions_per_split, seed)
    if not rows:
        logger.warning("the split %s has no question", source)
    for row in rows:
        if row["kind"] != "unanswerable" and not (row["answers"] and row["facts"]):
            raise UserError(
                f"question {row['id']} ({row['text']!r}) of split {source} has no answer or no gold fact; "
                "run `dvc repro synthesize`"
            )
    return rows


def drawn(questions: pa.Table, split: str, kinds: Sequence[str], most: int, seed: int) -> list[Question]:
    """Return questions of a split in order of their ids, drawn by the seed where there are more than `most`.

    Args:
        questions: the table `questions`.
        split: of which they are.
        kinds: of which each is one.
        most: 0 for all.
        seed: of the draw.
    """
    asked = compute.equal(questions["split"], split)
    asked = compute.and_(asked, compute.is_in(questions["kind"], pa.array(list(kinds), pa.string())))
    rows: list[Question] = questions.filter(asked).sort_by("id").to_pylist()
    if most and len(rows) > most:
        chosen = np.random.default_rng([seed, *split.encode()]).choice(len(rows), most, replace=False)
        rows = [rows[place] for place in sorted(chosen.tolist())]
    return rows


def _training_answers(questions: pa.Table) -> frozenset[str]:
    answers = questions.filter(compute.equal(questions["split"], "train"))["answers"]
    return frozenset(map(normalise, compute.unique(compute.list_flatten(answers)).to_pylist()))


def _ask(
    answerer: Answerer,
    graph: Graph,
    asked: list[Question],
    split: str,
    evaluate: Evaluate,
    known: frozenset[str],
) -> list[dict[str, Any]]:
    """Return a row a question; several processes share the batches, and each returns the rows of all."""
    asked = sorted(asked, key=lambda question: len(question["text"]))  # alike in length, so little padding
    reader = reader_of(answerer)
    starts = share(range(0, len(asked), evaluate.batch_size))
    batches = [asked[start : start + evaluate.batch_size] for start in starts]
    made: list[list[dict[str, Any]]] = []
    hidden = not asked or not first()
    with tqdm(
        total=sum(map(len, batches)), desc=f"{answerer.name} {split}", unit="question", disable=hidden
    ) as progress:
        for batch in batches:
            began = perf_counter()
            with counted(reader) as prompts:
                answers = answerer.answer([question["text"] for question in batch])
            spent = {"seconds": perf_counter() - began, "prompts": prompts.prompts, "tokens": prompts.tokens}
            shares = {name: value / len(batch) for name, value in spent.items()}
            if len(answers) != len(batch):
                raise ValueError(f"{answerer.name} gave {len(answers)} answers to {len(batch)} questions")
            for fact in (fact for facts in answers.facts for fact in facts):
                if not 0 <= fact < len(graph.triples):
                    raise ValueError(
                        f"{answerer.name} read fact {fact} of a graph of {len(graph.triples)} facts"
                    )
            rows = [_row(q, split, answers, place, graph, known) | shares for place, q in enumerate(batch)]
            made.append(rows)
            progress.update(len(batch))
    return [row for rows in everyones(made) for row in rows]


def _row(
    question: Question, split: str, answers: Answers, place: int, graph: Graph, known: frozenset[str]
) -> dict[str, Any]:
    said, right = answers.texts[place], question["answers"]
    gold = set(graph.hops(question["facts"])[-1] if question["kind"] == "multihop" else question["facts"])
    refused = bool(answers.refused[place])
    unanswerable = question["kind"] == "unanswerable"
    read, found = [int(fact) for fact in answers.facts[place]], answers.candidates[place]
    return {
        "question": question["id"],
        "split": split,
        "kind": question["kind"],
        "text": question["text"],
        "answers": right,
        "prediction": said,
        "em": float(refused) if unanswerable else 0.0 if refused else exact_match(said, right),
        "f1": float(refused) if unanswerable else 0.0 if refused else token_f1(said, right),
        "facts": read,
        "weights": [float(weight) for weight in answers.weights[place]],
        "read": [_fact_text(graph, fact) for fact in read],
        "gold": sorted(gold),
        "read_place": None if unanswerable or not read else place_of_gold(read, gold),
        "candidate_place": None if unanswerable or not found else place_of_gold(found, gold),
        "answer_seen": None if unanswerable else any(normalise(answer) in known for answer in right),
        "refused": refused,
        "refusal": float(answers.refusal[place]),
    }


def _count_misses(rows: list[dict[str, Any]], column: str) -> None:
    """Turn null into 0 (not found) for questions with gold, if the method has any such list at all."""
    if any(row[column] is not None for row in rows):
        for row in rows:
            if row[column] is None and row["kind"] != "unanswerable":
                row[column] = 0


def _fact_text(graph: Graph, fact: int) -> str:
    head, relation, tail = graph.triples[fact].tolist()
    return f"{graph.labels[head]} | {graph.relation_labels[relation]} | {graph.labels[tail]}"
