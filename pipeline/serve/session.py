"""A trained system in two lines: `session = Session.open()` and `session.ask("Who …?")`."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config import UserError
from pipeline.memory import generations
from pipeline.memory.dates import Period
from pipeline.memory.durable import DurableMemory
from pipeline.memory.history import Stretch, history
from pipeline.memory.statements import Editor, cleaned
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.compiling import Backend
from pipeline.model.fast import Fast
from pipeline.model.system import Reply
from pipeline.serve.changes import Change, relation_labels
from pipeline.serve.start import Started, shared_paths, start

LONGEST = 1000
"""Characters of a question at most."""
PROMPT = 128
"""Tokens of the longest prompt that a compiled session answers fast."""


@dataclass(frozen=True)
class Used:
    """A fact that an answer was read from."""

    key: tuple[str, str, str]
    text: str
    weight: float
    """Probability that the answer stands in this fact, as the system sees it."""
    via: str = ""
    """The fact that led to it, for a question over two facts."""


@dataclass(frozen=True)
class Answer:
    """What the system said to a question, and why."""

    question: str
    text: str
    """Empty where it refused."""
    refused: bool
    refusal: float
    """Probability that no fact of the memory answers."""
    facts: list[Used]
    """Heaviest first."""
    seconds: float


class Session:
    """A system to ask and to tell; what it is told holds from the next question on, and nothing is trained.

    Args:
        started: the system and where it came from.
    """

    def __init__(self, started: Started) -> None:
        self.system = started.system
        self.adapter = started.adapter
        self.origin = started.memory
        self._memory = started.system.memory
        self._fast: Fast | None = None
        self._edit(self._memory)

    def compile(self, backend: Backend = "inductor", ahead: bool = False) -> None:
        """Answer by what torch compiles from now on, and on a GPU records: worth minutes where many ask.

        After thousands of changes, call it again.

        Args:
            backend: what torch compiles with; see `pipeline.model.fast`.
            ahead: likewise; counts at the first call.
        """
        if self._fast is None:
            most = self.system.memory.settings.k * self.system.method.fact_window
            facts = [self.system.method.fact_window, most]
            self._fast = Fast(self.system, 1, PROMPT, self.system.answer_tokens, facts, backend, ahead)
        else:
            self._fast.renew()
        self._fast.warm()

    def _edit(self, memory: KnowledgeMemory) -> None:
        self.system.memory = memory
        self._editor = Editor(memory, relation_labels(shared_paths().kv))

    @property
    def fast(self) -> Fast | None:
        """What answers once `compile` was called."""
        return self._fast

    @property
    def editor(self) -> Editor:
        """What changes the memory by statements, and knows what names mean."""
        return self._editor

    def as_of(self, date: str) -> None:
        """Answer by what held on a date from now on; that can't be changed.

        Args:
            date: a year, a month or a day; empty for the present again.

        Raises:
            UserError: it is no date.
        """
        self._edit(self._memory.as_of(date) if date else self._memory)

    @classmethod
    def open(
        cls,
        adapter: Path | str | None = None,
        memory: Path | str | None = None,
        facts: Path | str | None = None,
        k: int | None = None,
        write: bool = False,
        sync: str = "always",
    ) -> "Session":
        """Return a session; see `pipeline.serve.start.start` for what is taken by default.

        With `write`, every change is in the folder `memory` before it is acknowledged, and no other process
        can write to it until `close` or the end of this one; `sync` is as in `start`.

        Raises:
            UserError: a folder or file is missing or damaged.
        """
        places = [None if place is None else Path(place) for place in (adapter, memory, facts)]
        return cls(start(places[0], places[1], places[2], k, write, sync))

    def close(self) -> None:
        """Let other processes write to the memory's folder, where this session may."""
        if isinstance(self._memory, DurableMemory):
            self._memory.close()

    def ask(self, question: str) -> Answer:
        """Return the answer to `question`.

        Raises:
            UserError: as `checked`.
        """
        question = self.checked(question)
        began = time.perf_counter()
        reply = self._reply(question)
        return self._answer(question, reply, reply.texts[0], time.perf_counter() - began)

    def stream(self, question: str) -> tuple[Answer, Iterator[str]]:
        """Return what `ask` does, with the text as pieces that are computed when they are asked for.

        The answer itself comes without its text, and its seconds end before the first piece. The pieces hold
        until the next question.

        Raises:
            UserError: as `ask`.
        """
        question = self.checked(question)
        began = time.perf_counter()
        if self._fast is None:
            reply = self._reply(question)
            pieces: Iterator[str] = iter(reply.texts)
        else:
            reply, pieces = self._fast.spoken(question)
        return self._answer(question, reply, "", time.perf_counter() - began), pieces

    def checked(self, question: str) -> str:
        """Return a question with single spaces.

        Raises:
            UserError: the question is empty or too long, or the memory holds no fact.
        """
        question = " ".join(question.split())
        if not question:
            raise UserError('the question is empty; ask something: "What is the capital of France?"')
        if len(question) > LONGEST:
            raise UserError(f"the question has {len(question)} characters; shorten it to {LONGEST}")
        if not len(self.system.memory):
            raise UserError(
                "the memory holds no fact; add one by --upsert, or name a file of them by --facts"
            )
        return question

    def _answer(self, question: str, reply: Reply, text: str, seconds: float) -> Answer:
        memory = self.system.memory
        found = zip(reply.facts[0], reply.weights[0], reply.via[0], strict=True)
        used = [
            Used(memory.fact(row).key, memory.text(row), weight, memory.text(via) if via >= 0 else "")
            for row, weight, via in found
        ]
        refused = reply.refused[0] or not used
        return Answer(question, text, refused, reply.refusal[0], used, seconds)

    def search(self, text: str, n: int = 10) -> list[tuple[int, float]]:
        """Return the n facts that the model would find for a text with their scores in nats, best first.

        Args:
            text: as a question.
            n: facts at most; there are no more than the search's own N.
        """
        text = " ".join(text.split())
        if not text or not len(self.system.memory):
            return []
        with torch.no_grad():
            found = self.system.found([text])
        pairs = zip(found.facts[0].tolist(), found.scores[0].tolist(), strict=True)
        return sorted((pair for pair in pairs if pair[0] >= 0), key=lambda pair: -pair[1])[:n]

    def history(self, slot: str) -> list[Stretch]:
        """Return what a slot has held, holds and will hold.

        Args:
            slot: `Head | relation`, by label or key.

        Raises:
            UserError: it has another form, or the memory knows no such slot.
        """
        parts = slot.split("|")
        if len(parts) != 2:
            raise UserError(f'expected Head | relation, got {slot!r}; write "France | capital"')
        head, relation = map(cleaned, parts)
        keys = self._editor.entities.find(head), self._editor.relations.find(relation)
        told = history(self._memory, keys[0], keys[1]) if keys[0] and keys[1] else []
        if not told:
            raise UserError(f"the memory knows nothing of the {relation} of {head}")
        return told

    def _reply(self, question: str) -> Reply:
        if self._fast is not None:
            return self._fast.reply([question])
        with self.system.attached():
            return self.system.reply([question])

    def upsert(self, *statements: str, replace: bool = True, period: Period | None = None) -> Change:
        """Write facts, each `Head | relation | Tail`; several of one slot stand side by side.

        Args:
            statements: the facts; heads, relations and tails by label or key, new ones included.
            replace: whether they supersede the other facts of their slots.
            period: when all of them hold, and who says so.

        Raises:
            UserError: a statement has another form or an ambiguous name, or a date can't be; nothing is
                written then.
        """
        began = time.perf_counter()
        rows, superseded, notes = self._editor.upsert(statements, replace, period)
        memory = self.system.memory
        return Change(
            list(map(memory.text, rows)),
            [],
            list(map(memory.text, superseded)),
            notes,
            time.perf_counter() - began,
        )

    def delete(self, *statements: str) -> Change:
        """Delete facts, each `Head | relation | Tail`.

        Raises:
            UserError: a statement has another form, or is not in the memory; nothing is deleted then.
        """
        began = time.perf_counter()
        return Change([], self._editor.delete(statements), [], [], time.perf_counter() - began)

    def save(self, folder: Path) -> None:
        """Write the memory to `folder`, whole or not at all; other files in there stay.

        A session that writes to that folder has done so already.

        Raises:
            UserError: the folder is one whose changes are in a journal, opened without `write`.
        """
        memory = self.system.memory
        if isinstance(memory, DurableMemory) and folder.resolve() == memory.folder.resolve():
            return
        if generations.current(folder) is not None:
            raise UserError(f"{folder}: keeps its changes in a journal; open the session with write=True")
        memory.add_slots()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            fresh, former = Path(scratch) / "fresh", Path(scratch) / "former"
            if folder.is_dir():
                shutil.copytree(folder, fresh)
            memory.snapshot(fresh)
            if folder.is_dir():
                folder.rename(former)
            fresh.rename(folder)
