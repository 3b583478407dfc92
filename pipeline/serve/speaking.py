"""How the engine's thread answers: it finds facts, reads, says token by token, and tells."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch

from pipeline.cluster.sharded import ShardedMemory
from pipeline.config import UserError
from pipeline.memory.durable import DurableMemory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.attention import FactTokens
from pipeline.model.system import Reply
from pipeline.serve.batch import Batch, together
from pipeline.serve.metrics import Metrics
from pipeline.serve.session import Session
from pipeline.serve.spoken import Spoken
from pipeline.serve.tickets import Began, Ended, Said, Shared, Ticket

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Speaking:
    """A question that is being answered."""

    ticket: Ticket
    spoken: Spoken
    limit: int
    """Tokens of the answer at most."""
    prompt: list[int] = field(default_factory=list)
    facts: FactTokens | None = None
    """What it reads: one row. None before that is known, and for a refusal."""
    first_token: float = 0.0
    """Seconds from its arrival."""


class Voice:
    """Answers by one system; all of it is for the thread that owns the language model.

    Args:
        session: whose system answers.
        metrics: where it counts.
        fast: whether a question that is alone is answered by `Session.compile`.
    """

    def __init__(self, session: Session, metrics: Metrics, fast: bool) -> None:
        self._session, self._system, self._metrics, self._fast = session, session.system, metrics, fast
        self._memory = session.system.memory
        self._batch = Batch(session.system)

    def attached(self) -> AbstractContextManager[None]:
        """Attach the system to its model inside a block, in which all else is called."""
        return self._system.attached()

    def warm(self) -> None:
        """Answer once, so that everything is loaded and the first client needn't wait for it."""
        system = self._system
        if self._fast:
            self._session.compile()
        if not len(self._memory):
            system.reader.generate(system.reader.tokens(["Who?"]), 1)
            return
        fact = self._memory.some_fact()
        system.reply([f"What is the {fact.relation_noun} of {fact.head_label}?"])

    def begin(self, tickets: Sequence[Ticket]) -> list[Speaking]:
        """Look up questions, tell what was found, and read those that have an answer.

        Returns:
            Those whose first token was said and that go on: from now on the last rows of the batch.
        """
        groups: defaultdict[tuple[str, int | None, int], list[Speaking]] = defaultdict(list)
        for ticket in tickets:
            limit = min(ticket.asked.limit or self._system.answer_tokens, self._system.answer_tokens)
            one = Speaking(ticket, Spoken(self._system.reader.tokenizer), limit)
            apart = limit if self._system.method.isolate else 0
            groups[ticket.asked.as_of, ticket.asked.k, apart].append(one)
        for group in groups.values():
            self._each(group, self._find)
        found = [one for group in groups.values() for one in group if one.facts is not None]
        return self._taken_up(found)

    def step(self, running: Sequence[Speaking]) -> list[Speaking]:
        """Say one token of each row of the batch; return those that go on."""
        going = self._kept(running, [not self._left(one) for one in running])
        if not going:
            return []
        self._metrics.batch.observe(len(going))
        began = time.perf_counter()
        try:
            tokens = self._batch.step()
        except Exception:
            logger.exception("a step of %d answers failed; they are taken up anew", len(going))
            self.forget()
            return self._taken_up(going)
        self._metrics.stepped.observe(time.perf_counter() - began)
        return self._kept(going, [self._goes_on(*one) for one in zip(going, tokens, strict=True)])

    def alone(self, ticket: Ticket) -> bool:
        """Answer one question the fast way; return whether it is one for it, else nothing was told."""
        fast, asked, system = self._session.fast, ticket.asked, self._system
        if fast is None or asked.as_of or asked.k is not None:
            return False
        one = Speaking(
            ticket, Spoken(system.reader.tokenizer), min(asked.limit or 1 << 30, system.answer_tokens)
        )
        try:
            began, version = time.perf_counter(), self._version
            question = self._session.checked(asked.question)
            found = fast.first([question])
            if found is None:
                return False
            chosen, first = found
            prompt = len(system.reader.prompts([question])[0])
            self._tell(one, chosen, 0, self._memory, version, prompt, began)
            if chosen.refused[0] or not chosen.facts[0]:
                self._end(one, "refused")
            else:
                while self._goes_on(one, int(first[0])) and not self._left(one):
                    first = fast.step()
        except Exception as error:
            self.fail(ticket, error)
        return True

    def forget(self) -> None:
        """Drop the batch."""
        self._batch = Batch(self._system)

    def fail(self, ticket: Ticket, error: Exception) -> None:
        """Tell that there is no answer."""
        self._metrics.questions.labels("failed").inc()
        if not isinstance(error, UserError):
            logger.error("a question failed", exc_info=error)
        ticket.tell(error)

    def _each(self, some: Sequence[Speaking], work: Callable[[Sequence[Speaking]], None]) -> None:
        """Do `work` for all at once; where that fails, for each alone, so that only those fail that must."""
        if not some:
            return
        try:
            work(some)
        except Exception as error:
            if len(some) == 1:
                some[0].facts = None
                self.fail(some[0].ticket, error)
            else:
                for one in some:
                    self._each([one], work)

    def _find(self, group: Sequence[Speaking]) -> None:
        """Look up questions as of one date, with as many facts each; tell what was found."""
        system, began, version = self._system, time.perf_counter(), self._version
        with self._seeing(group[0]) as memory:
            questions = [self._session.checked(one.ticket.asked.question) for one in group]
            if system.method.isolate:
                chosen = system.reply(questions)
            else:
                chosen, log_shares = system.select(questions)
            going = [row for row, no in enumerate(chosen.refused) if not no and chosen.facts[row]]
            tokens = None
            if going and not system.method.isolate:
                tokens = system.fact_tokens(going, chosen, log_shares)
            prompts = system.reader.prompts(questions)
            self._metrics.found.observe(time.perf_counter() - began)
            for row, one in enumerate(group):
                self._tell(one, chosen, row, memory, version, len(prompts[row]), began)
                if row not in going:
                    self._end(one, "refused")
                elif tokens is None:
                    self._end(one, "stop", chosen.texts[row])
                else:
                    at = torch.tensor([going.index(row)], device=tokens.shift.device)
                    one.prompt, one.facts = prompts[row], tokens.of(at)

    def _taken_up(self, some: Sequence[Speaking]) -> list[Speaking]:
        """Read questions with what was said of their answers; return those that go on."""
        going: list[Speaking] = []

        def read(part: Sequence[Speaking]) -> None:
            held = len(self._batch)
            facts = together([one.facts for one in part if one.facts is not None])
            tokens = self._batch.join([one.prompt + one.spoken.tokens for one in part], facts)
            on = [self._goes_on(*pair) for pair in zip(part, tokens, strict=True)]
            self._batch.keep([*range(held), *(held + row for row, goes in enumerate(on) if goes)])
            going.extend(one for one, goes in zip(part, on, strict=True) if goes)

        self._each(some, read)
        return going

    def _kept(self, running: Sequence[Speaking], on: Sequence[bool]) -> list[Speaking]:
        rows = [row for row, goes in enumerate(on) if goes]
        self._batch.keep(rows)
        return [running[row] for row in rows]

    def _goes_on(self, one: Speaking, token: int) -> bool:
        """Take the next token of an answer; tell what it says; return whether the answer goes on."""
        if not one.first_token:
            one.first_token = time.perf_counter() - one.ticket.arrived
        if token == self._system.reader.stop:
            self._end(one, "stop")
            return False
        if piece := one.spoken.add(token):
            one.ticket.tell(Said(piece))
        if len(one.spoken.tokens) == one.limit:
            self._end(one, "length")
            return False
        return True

    def _left(self, one: Speaking) -> bool:
        if one.ticket.cancelled:
            self._metrics.questions.labels("cancelled").inc()
        return one.ticket.cancelled

    def _tell(
        self,
        one: Speaking,
        chosen: Reply,
        row: int,
        memory: KnowledgeMemory,
        version: int,
        prompt_tokens: int,
        began: float,
    ) -> None:
        shared = _shared(memory, chosen, row)
        refused = chosen.refused[row] or not shared
        read = [] if refused else [fact.text + "\n" for fact in shared]
        window = self._system.method.fact_window
        tokens = sum(min(len(ids), window) for ids in self._system.reader.plain(read)) if read else 0
        waited, took = began - one.ticket.arrived, time.perf_counter() - began
        told = Began(refused, chosen.refusal[row], shared, version, prompt_tokens, tokens, waited, took)
        one.ticket.tell(told)

    def _end(self, one: Speaking, how: str, text: str = "") -> None:
        """Tell the end of an answer, whose whole text is `text` where it wasn't said token by token."""
        total = time.perf_counter() - one.ticket.arrived
        first = one.first_token or total
        if piece := text or one.spoken.rest():
            one.ticket.tell(Said(piece))
        reason, count = "length" if how == "length" else "stop", len(one.spoken.tokens)
        if text:
            count = len(self._system.reader.encode([text])[0])
        one.ticket.tell(Ended(text or one.spoken.text, reason, count, first, total))
        self._metrics.questions.labels(how).inc()
        self._metrics.tokens.inc(count)
        self._metrics.first_token.observe(first)
        self._metrics.answered.observe(total)

    @property
    def _version(self) -> int:
        return self._memory.version if isinstance(self._memory, DurableMemory | ShardedMemory) else 0

    @contextmanager
    def _seeing(self, one: Speaking) -> Iterator[KnowledgeMemory]:
        """Let the system see what a question asks about: the memory as of a date, and as many facts of it."""
        system, asked, longest = self._system, one.ticket.asked, self._system.answer_tokens
        memory = self._memory.as_of(asked.as_of) if asked.as_of else self._memory
        settings = memory.settings
        system.memory, system.answer_tokens = memory, one.limit
        try:
            if asked.k is not None:
                try:
                    memory.settings = replace(settings, k=asked.k)
                except ValueError as error:
                    raise UserError(f"k: {error}") from error
            yield memory
        finally:
            system.memory, memory.settings, system.answer_tokens = self._memory, settings, longest


def _shared(memory: KnowledgeMemory, chosen: Reply, row: int) -> list[Shared]:
    found = zip(chosen.facts[row], chosen.weights[row], chosen.via[row], strict=True)
    return [
        Shared(
            memory.fact(fact),
            memory.text(fact),
            weight,
            (memory.fact(via), memory.text(via)) if via >= 0 else None,
        )
        for fact, weight, via in found
    ]
