"""Texts to learn retrieval from: many needles and passages in one text, each with a question of its own.

One reading of a text so gives dozens of questions. Their wordings differ, that of the pass key test among
them; numbers, names and beginnings of the filler are drawn anew, and questions of data sets are split by
their hash: what is trained on is never measured.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.longcontext import corpora, passkey, ragqa
from pipeline.longcontext.episodes import Window
from pipeline.longcontext.fillers import Filler, filler
from pipeline.longcontext.samples import encoded
from pipeline.longcontext.settings import Teaching

TRAIN, VALID, TEST = FOLDS = ("train", "valid", "test")
ENDS = (0.5, 0.6, 1.0)
"""Where each fold ends, of names, questions and the filler."""
THINGS = (
    *("pass key", "access code", "door code", "magic number", "locker number"),
    *("account number", "phone number", "launch code", "registration number", "ticket number"),
    *("parcel number",),
)
FIRST = (
    *("Mary", "Robert", "Linda", "David", "Susan"),
    *("Joseph", "Karen", "Daniel", "Helen", "Frank"),
    *("Laura", "Peter", "Alice", "Henry", "Clara"),
)
LAST = (
    *("Smith", "Brown", "Garcia", "Miller", "Wilson"),
    *("Moore", "Taylor", "Jackson", "Harris", "Lewis"),
    *("Walker", "Young", "Adams", "Baker"),
)
NEEDLES = (
    (passkey.NEEDLE.replace("pass key", "{thing}"), passkey.TAIL.replace("pass key", "{thing}")),
    (" The {thing} of {name} is {key}.", "\n\nWhat is the {thing} of {name}? The {thing} of {name} is"),
    (" {name} wrote down: the {thing} is {key}.", "\n\nWhich {thing} did {name} write down? The {thing} is"),
)
"""What is hidden, and how it is asked for. The first names nobody: each thing once a text."""
IGNORED = -100


def fold_of(text: str) -> str:
    """Return the fold of a name or question, by its hash."""
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return next(fold for fold, end in zip(FOLDS, ENDS, strict=True) if place < end)


@dataclass(frozen=True, slots=True)
class Piece:
    """What stands in a text to be asked for."""

    text: str
    question: str
    answer: str
    kind: str
    """needle, or the data set."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """R texts of one length, and B questions about them."""

    ids: Int[Tensor, "R n"]
    rows: Int[Tensor, " B"]
    """The text of each question."""
    asked: Int[Tensor, "B T"]
    """The tokens that ask."""
    answers: Int[Tensor, "B A"]
    """Of the right answer, -100 behind its end."""
    gold: Bool[Tensor, "B N"]
    """Blocks of the question's own text that hold its needle, or the passage that answers."""
    exact: Bool[Tensor, "B N"]
    """Those of them that hold the answer's own words."""
    alike: Int[Tensor, " B"]
    """Equal for questions of one wording, which another text may answer otherwise."""
    kinds: tuple[str, ...]

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        moved: dict[str, Any] = {
            name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)
        }
        return replace(self, **moved)


def lessons(tokenizer: Any, teaching: Teaching, window: Window, fold: str, seed: int) -> Lessons:
    """Return texts of a fold and their questions.

    Args:
        tokenizer: of the model that is asked.
        teaching: what they are made of.
        window: which blocks can be fetched.
        fold: one of `FOLDS`.
        seed: of all draws.

    Raises:
        UserError: files of a data set or of a filler are missing.
    """
    fillers = [filler(kind, tokenizer) for kind in teaching.fillers]
    pool = [_pieces_of(name, fold) for name in teaching.sets]
    made = _Made(tokenizer, teaching, window)
    for number in range(teaching.texts[fold]):
        generator = np.random.default_rng([seed, FOLDS.index(fold), number])
        made.add(fillers[number % len(fillers)], pool, fold, generator)
    return made.lessons()


def _pieces_of(name: str, fold: str) -> list[tuple[Piece, ...]]:
    """Return the questions of a data set with the passages that answer them."""
    found = []
    for one in corpora.questions(name):
        if fold_of(one.text) == fold and one.gold:
            question = ragqa.QUESTION.format(question=one.text)
            found.append(tuple(Piece(ragqa.shown(part), question, one.answers[0], name) for part in one.gold))
    return found


def needles(digits: int, fold: str, generator: np.random.Generator) -> list[Piece]:
    """Return needles of all kinds in random order; no two are asked for alike."""
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    names = [name for name in names if fold_of(name) == fold]
    generator.shuffle(names)
    found = []
    for place in range(len(THINGS) + len(names)):
        kind = 0 if place < len(THINGS) else 1 + int(generator.integers(len(NEEDLES) - 1))
        words = {
            "thing": THINGS[place if kind == 0 else int(generator.integers(len(THINGS)))],
            "key": "".join(map(str, generator.integers(10, size=digits))),
            "name": names[place - len(THINGS)],
        }
        text, question = NEEDLES[kind]
        found.append(Piece(text.format(**words), question.format(**words), words["key"], "needle"))
    generator.shuffle(found)
    return found


class _Made:
    """Gathers texts and questions."""

    def __init__(self, tokenizer: Any, teaching: Teaching, window: Window) -> None:
        self.tokenizer, self.teaching, self.window = tokenizer, teaching, window
        self.texts: list[np.ndarray] = []
        self.rows: list[tuple[Any, ...]] = []
        self.wordings: dict[str, int] = {}

    def add(
        self,
        text: Filler,
        pool: Sequence[Sequence[tuple[Piece, ...]]],
        fold: str,
        generator: np.random.Generator,
    ) -> None:
        """Make one text."""
        chosen, length = self._chosen(pool, fold, generator), self.teaching.tokens
        head = encoded(self.tokenizer, ragqa.HEAD if pool and generator.random() < 0.5 else passkey.HEAD)
        flat = [(number, piece) for number, pieces in enumerate(chosen) for piece in pieces]
        generator.shuffle(flat)
        parts = [encoded(self.tokenizer, piece.text) for _, piece in flat]
        room = length - len(head) - sum(map(len, parts))
        before = ENDS[FOLDS.index(fold) - 1] if fold != TRAIN else 0.0
        share = before + (ENDS[FOLDS.index(fold)] - before) * generator.random()
        sentence = int(share * len(text.starts))
        filling = text.taken(sentence, room)
        cuts = sorted(text.parted(sentence, int(cut)) for cut in generator.integers(room + 1, size=len(flat)))
        ids, spans = [np.array(head, np.int64)], []
        place, start = len(head), 0
        for cut, part in zip(cuts, parts, strict=True):
            ids += [filling[start:cut], np.array(part, np.int64)]
            place += cut - start
            spans.append((place, place + len(part)))
            place, start = place + len(part), cut
        self.texts.append(np.concatenate([*ids, filling[start:]]))
        for number, pieces in enumerate(chosen):
            own = [(spans[at], piece) for at, (owner, piece) in enumerate(flat) if owner == number]
            self._ask(pieces[0], own, text.taken(sentence + len(flat), self.teaching.asked))

    def _chosen(
        self, pool: Sequence[Sequence[tuple[Piece, ...]]], fold: str, generator: np.random.Generator
    ) -> list[tuple[Piece, ...]]:
        """Return pieces that fill the share of the text that needles and passages take together."""
        hidden = needles(self.teaching.digits, fold, generator)
        room = int(self.teaching.share * self.teaching.tokens)
        chosen: dict[str, tuple[Piece, ...]] = {}
        while hidden and room > 0:
            pieces: tuple[Piece, ...] = (hidden.pop(),)
            if pool and generator.random() < self.teaching.passages:
                of_set = pool[int(generator.integers(len(pool)))]
                pieces = of_set[int(generator.integers(len(of_set)))] if of_set else pieces
            room -= sum(len(encoded(self.tokenizer, piece.text)) for piece in pieces)
            if room > 0 and len(self._answer(pieces[0])) <= self.teaching.answer_tokens:
                chosen[pieces[0].question] = pieces
        return list(chosen.values())

    def _answer(self, piece: Piece) -> list[int]:
        return encoded(self.tokenizer, f" {piece.answer}")

    def _ask(self, piece: Piece, spans: list[tuple[tuple[int, int], Piece]], filling: np.ndarray) -> None:
        question = encoded(self.tokenizer, piece.question)
        lead = filling.tolist() if piece.kind == "needle" else encoded(self.tokenizer, ragqa.EXAMPLES)
        asked = [*filling.tolist(), *lead, *question][-self.teaching.asked :]
        answer = self._answer(piece)
        gold = [span for span, _ in spans]
        exact = [part for span, of in spans for part in self._words(span, of)] or gold
        number = self.wordings.setdefault(piece.question, len(self.wordings))
        answer += [IGNORED] * (self.teaching.answer_tokens - len(answer))
        row = len(self.texts) - 1
        self.rows.append((row, asked, answer, self._blocks(gold), self._blocks(exact), number, piece.kind))

    def _words(self, span: tuple[int, int], piece: Piece) -> list[tuple[int, int]]:
        """Return where the answer's words stand inside a piece, at their first place there."""
        at = piece.text.lower().find(piece.answer.lower())
        if at < 0:
            return []
        ends = (piece.text[:at], piece.text[: at + len(piece.answer)])
        first, last = (len(encoded(self.tokenizer, part)) for part in ends)
        return [(span[0] + max(0, first - 1), min(span[1], span[0] + last))]

    def _blocks(self, spans: list[tuple[int, int]]) -> list[bool]:
        window, length = self.window, self.teaching.tokens
        starts = range(window.sinks, length - window.tokens, window.block)
        return [
            any(first < start + window.block and last > start for first, last in spans) for start in starts
        ]

    def lessons(self) -> Lessons:
        """Return what was gathered."""
        rows, asked, answers, gold, exact, alike, kinds = zip(*self.rows, strict=True)
        return Lessons(
            ids=torch.from_numpy(np.stack(self.texts)),
            rows=torch.tensor(rows),
            asked=torch.tensor(asked),
            answers=torch.tensor(answers),
            gold=torch.tensor(gold),
            exact=torch.tensor(exact),
            alike=torch.tensor(alike),
            kinds=kinds,
        )
