"""Real texts of the long-context tasks: questions with their passages, news in order, plays.

All lie below `longcontext/` in the data root: Natural Questions with the passage that answers each (DPR's
oracle set), HotpotQA with ten passages a question, passages of 2WikiMultihopQA, the test set of AG News, and
Shakespeare's plays.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.config import UserError
from pipeline.kg.sources.files import AGAIN, lines, located, parsed_json

QUESTIONS = ("nq", "hotpotqa")
"""Data sets of questions."""
REMEDY = "put the texts of the long-context tasks there, or leave out the tasks that read them"


def check_sets(names: Iterable[str], where: str) -> None:
    """Raise a ValueError that names `where` unless all `names` are of `QUESTIONS`."""
    unknown = sorted(set(names) - set(QUESTIONS))
    if unknown:
        raise ValueError(f"{where} must be of {', '.join(QUESTIONS)}, not {unknown[0]!r}")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text and what it is about."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a data set."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[Passage, ...]
    """Passages that answer it, together where there are several."""


@dataclass(frozen=True, slots=True)
class News:
    """One item of a stream of news."""

    headline: str
    text: str


def questions(name: str) -> list[Asked]:
    """Return the questions of one of `QUESTIONS`, in the order of its file.

    Raises:
        UserError: the file is missing or damaged.
    """
    return natural_questions() if name == "nq" else hotpotqa()


@cache
def natural_questions() -> list[Asked]:
    """Return the questions of Natural Questions' open form, each with its gold passage."""
    path = _file("nq_open_oracle/nq-open-oracle.jsonl")
    found = []
    for number, line in lines(path):
        row = parsed_json(line, f"{path}, line {number}")
        with _shape(path, number):
            gold = tuple(Passage(_plain(one["title"]), _plain(one["text"])) for one in row["ctxs"])
            found.append(Asked(_asking(row["question"]), tuple(row["answers"]), gold))
    return found


@cache
def hotpotqa() -> list[Asked]:
    """Return the questions of HotpotQA, each with the two passages that its answer needs."""
    path = _file("multihop_text/hotpotqa_train.json")
    found = []
    for number, row in enumerate(parsed_json(path.read_bytes(), str(path)), start=1):
        with _shape(path, number):
            needed = {title for title, _ in row["supporting_facts"]}
            texts = [Passage(_plain(title), _plain(" ".join(parts))) for title, parts in row["context"]]
            gold = tuple(one for one in texts if one.title in {_plain(title) for title in needed})
            found.append(Asked(_asking(row["question"]), (row["answer"],), gold))
    return found


@cache
def passages() -> list[Passage]:
    """Return the passages of Wikipedia that all these sets hold, each title's text once, sorted."""
    path = _file("multihop_text/2wikimultihopqa_corpus.json")
    found = {passage for name in QUESTIONS for asked in questions(name) for passage in asked.gold}
    for number, row in enumerate(parsed_json(path.read_bytes(), str(path)), start=1):
        with _shape(path, number):
            found.add(Passage(_plain(row["title"]), _plain(row["text"])))
    path = _file("multihop_text/hotpotqa_train_corpus.json")
    for title, parts in parsed_json(path.read_bytes(), str(path)).items():
        found.add(Passage(_plain(title), _plain(" ".join(parts))))
    return sorted((one for one in found if one.text), key=lambda one: (one.title, one.text))


@cache
def news() -> list[News]:
    """Return the items of AG News' test set, in order."""
    path = _file("ag_news/test.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or any(len(row) != 3 for row in rows):
        raise UserError(f"{path}: must hold a class, a headline and a text a line; {AGAIN}")
    return [News(_plain(headline), _plain(text)) for _, headline, text in rows]


@cache
def plays() -> list[str]:
    """Return the speeches of Shakespeare's plays, in order."""
    text = _file("tiny_shakespeare/input.txt").read_text(encoding="utf-8")
    return [speech.strip() for speech in text.split("\n\n") if speech.strip()]


def _file(name: str) -> Path:
    return located(f"longcontext/{name}", REMEDY)


def _plain(text: str) -> str:
    """Return a text in one line, marks of its former page put right."""
    text = re.sub(r"#39;", "'", re.sub(r"&?(?:amp|quot|lt|gt);|\\", " ", text))
    return " ".join(text.split())


def _asking(question: str) -> str:
    """Return a question as it would be written: the sets differ in capitals and marks."""
    text = _plain(question)
    return text[:1].upper() + text[1:].rstrip("?. ") + "?"


class _shape:  # noqa: N801 - reads as a statement
    """Turns a row of another form into an error that names it."""

    def __init__(self, path: Path, number: int) -> None:
        self.where = f"{path}, entry {number}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError):
            raise UserError(f"{self.where}: another form than expected ({error!r}); {AGAIN}") from error


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, each with the space that parts it from the one before.

    >>> list(sentences("One ends. Another begins"))
    ['One ends.', ' Another begins']
    """
    yield from (part for part in re.split(r"(?<=[.!?])(?= [^a-z])", text) if part)
