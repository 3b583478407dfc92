"""What the two sides of a relation are called: once per relation and side, from four sources in order.

(a) the reviewed table `nouns.tsv` beside this file; (b) answers that a language model gave before, cached by
prompt and model; (c) a language model; (d) a rule. What a model says is checked, since a small one often
answers with a sentence, or with the same noun for both sides.
"""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.config import UserError
from pipeline.kg.nouns import TABLE, clean, fault, read_table, reviewed, rule

log = logging.getLogger(__name__)

CACHE_COLUMNS = ("version", "model", "side", "label", "answer", "prompt_tokens", "answer_tokens")
SIDES = ("tail", "head")


class NounWriter(Protocol):
    """A language model that completes a prompt."""

    def complete(self, prompt: str) -> tuple[str, int, int]:
        """Return the completion, and how many tokens the prompt and the completion had."""
        ...


@dataclass(frozen=True, kw_only=True)
class Example:
    """A worked example of the prompt."""

    relation: str
    """Label of the relation."""
    tail: str
    """What its tail is called."""
    head: str
    """What its head is called."""


@dataclass(frozen=True, kw_only=True)
class Nouns:
    """Where the nouns of relations come from."""

    ask: str
    """`table_first`, or `llm_only` to measure what the model would have cost without the table."""
    writer: str
    """`local` (the model of conf/lm), `endpoint` (any OpenAI-compatible one), or `none` (table and rule)."""
    words: int
    """Words of a noun at most."""
    instruction: str
    """What stands above the examples."""
    question: str
    """How a relation is put, with {relation} and {side}; the answer follows."""
    examples: list[Example]
    """Worked examples, put to the model as `question` and answer."""
    cache: Path
    """Answers of the model so far; it lies outside the outputs so that a rerun asks for nothing twice."""

    def __post_init__(self) -> None:
        if self.ask not in ("table_first", "llm_only"):
            raise ValueError(f"synthesis.nouns.ask must be table_first or llm_only, not {self.ask!r}")
        if self.writer not in ("local", "endpoint", "none"):
            raise ValueError(f"synthesis.nouns.writer must be local, endpoint or none, not {self.writer!r}")
        if self.ask == "llm_only" and self.writer == "none":
            raise ValueError(
                "synthesis.nouns.writer must be local or endpoint where ask is llm_only, not 'none'"
            )
        if self.words < 1:
            raise ValueError(f"synthesis.nouns.words must be at least 1, not {self.words}")
        if "{relation}" not in self.question or "{side}" not in self.question:
            raise ValueError(
                f"synthesis.nouns.question must hold {{relation}} and {{side}}, not {self.question!r}"
            )

    def prompt(self, label: str, side: str) -> str:
        """Return what the model is asked for one relation and side."""
        shots = [
            f"{self._put(example.relation, shown)} {getattr(example, shown)}"
            for example in self.examples
            for shown in SIDES
        ]
        return "\n".join([self.instruction.strip(), *shots, self._put(label, side)])

    @property
    def version(self) -> str:
        """A hash of everything in the prompt but the relation."""
        return hashlib.sha256(self.prompt("", "").encode()).hexdigest()[:12]

    def _put(self, label: str, side: str) -> str:
        return self.question.replace("{relation}", label).replace("{side}", side)


@dataclass
class Spent:
    """Where nouns came from, and the tokens of the model's answers (cached ones included)."""

    asked: int = 0
    table: int = 0
    cache: int = 0
    called: int = 0
    accepted: int = 0
    fallback: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    """Of all answers that this result rests on, prompt and answer."""
    tokens_now: int = 0
    """Of the calls of this run; less than `tokens` by what the cache saved."""


def name_relations(
    relations: Iterable[tuple[str, str]],
    symmetric: Sequence[bool],
    nouns: Nouns,
    model: str,
    writer: Callable[[], NounWriter],
    table: Path = TABLE,
) -> tuple[tuple[list[str], list[str]], Spent]:
    """Return the nouns of tails and of heads, in the order of `relations`, and where they came from.

    Args:
        relations: key and label of each.
        symmetric: of which relations the mirrored facts hold too, so that one noun may serve both sides.
        nouns: the order of sources, and the prompt.
        model: what the cache calls the model.
        writer: loads the model; called once, when the first question has to be put to it.
        table: the reviewed nouns.
    """
    known = read_table(table) if nouns.ask == "table_first" else {}
    asked = _Asked(nouns, model, writer)
    spent = asked.spent
    tails: list[str] = []
    heads: list[str] = []
    try:
        for (key, label), mirrored in zip(relations, symmetric, strict=True):
            spent.asked += 2
            row = reviewed(known, key, label)
            if row is not None:
                spent.table += 2
                tails.append(row.noun_tail)
                heads.append(row.noun_head)
                continue
            tail = asked.noun(label, "tail", unlike=None)
            tails.append(tail)
            heads.append(asked.noun(label, "head", unlike=None if mirrored else tail))
    finally:
        asked.save()  # what was paid for outlives a failure
    log.info("nouns of %d relations: %s", len(tails), spent)
    return (tails, heads), spent


class _Asked:
    """Answers of the model, cached ones first."""

    def __init__(self, nouns: Nouns, model: str, writer: Callable[[], NounWriter]) -> None:
        self.nouns = nouns
        self.model = model
        self.spent = Spent()
        self._load = writer
        self._writer: NounWriter | None = None
        self._answers = _read_cache(nouns.cache) if nouns.writer != "none" else {}
        self._fresh = False

    def noun(self, label: str, side: str, unlike: str | None) -> str:
        """Return the noun of a side: the model's where it passes the checks, else the rule's."""
        if self.nouns.writer != "none":
            noun = clean(self._answer(label, side))
            reason = fault(noun, self.nouns.words)
            if reason is None and unlike is not None and noun.casefold() == unlike.casefold():
                reason = "head is tail"
            if reason is None:
                self.spent.accepted += 1
                return noun
            self.spent.rejected[reason] += 1
        self.spent.fallback += 1
        return rule(label, side)

    def _answer(self, label: str, side: str) -> str:
        key = (self.nouns.version, self.model, side, label)
        if key in self._answers:
            self.spent.cache += 1
        else:
            self._writer = self._writer or self._load()
            text, *tokens = self._writer.complete(self.nouns.prompt(label, side))
            # One line and no tab: what follows the first line is never used, and the cache has tabs.
            line = (text.strip().splitlines() or [""])[0].replace("\t", " ")
            self._answers[key] = (line, tokens[0], tokens[1])
            self.spent.called += 1
            self.spent.tokens_now += sum(tokens)
            self._fresh = True
        answer, prompt_tokens, answer_tokens = self._answers[key]
        self.spent.tokens += prompt_tokens + answer_tokens
        return answer

    def save(self) -> None:
        """Write the cache where it grew, in one step."""
        if not self._fresh:
            return
        path = self.nouns.cache
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, dialect="excel-tab", lineterminator="\n")
            writer.writerow(CACHE_COLUMNS)
            writer.writerows((*key, *answer) for key, answer in sorted(self._answers.items()))
        part.replace(path)


def _read_cache(path: Path) -> dict[tuple[str, str, str, str], tuple[str, int, int]]:
    if not path.is_file():
        return {}
    answers: dict[tuple[str, str, str, str], tuple[str, int, int]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for number, cells in enumerate(csv.reader(stream, dialect="excel-tab"), start=1):
            if number == 1 and tuple(cells) == CACHE_COLUMNS:
                continue
            try:
                version, model, side, label, answer, prompt_tokens, answer_tokens = cells
                answers[version, model, side, label] = (answer, int(prompt_tokens), int(answer_tokens))
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number}: not a cached answer ({error}); delete the file"
                ) from error
    return answers
