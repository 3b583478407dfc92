"""The routes of facts and entities: look up, search, write, delete, what a slot has held."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.security import HTTPBearer

from pipeline.memory.dates import day, today
from pipeline.memory.dating import written
from pipeline.memory.facts import Fact, Key
from pipeline.memory.history import history
from pipeline.memory.statements import cleaned
from pipeline.memory.store import KnowledgeMemory
from pipeline.serve import bulk, entities, snapshots
from pipeline.serve.finding import found
from pipeline.serve.idempotency import Given, Repeats, checked, digest
from pipeline.serve.refusals import Refusal, responses
from pipeline.serve.requests import (
    AsOf,
    Deleted,
    FactsAsked,
    Listed,
    OneFact,
    Scored,
    SlotHistory,
    Upsert,
    Value,
    Written,
)
from pipeline.serve.service import Service
from pipeline.serve.shown import ShownFact, fact_id, fact_key, fact_tag, shown, shown_at, slot_tag, unknown

WRITES = Depends(HTTPBearer(auto_error=False, description="The server's token; reading needs none."))
"""Says in the OpenAPI document what `pipeline.serve.limits.Guard` checks."""
IfMatch = Annotated[
    str | None,
    Header(description="An ETag: nothing is changed where it isn't that of the slot (or fact) any more."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(description="Any text: the same request with the same key gets the same answer and is done once."),
]


def routes(service: Service) -> APIRouter:
    """Return the routes of facts, of entities and of snapshots."""
    router = APIRouter()
    router.include_router(bulk.routes(service))  # before /facts/{id}
    router.include_router(entities.routes(service))
    router.include_router(snapshots.routes(service))
    facts = Facts(service)

    @router.get("/facts", tags=["facts"], responses=responses(503))
    def look_up(asked: Annotated[FactsAsked, Query()], response: Response) -> Listed:
        """Search facts by a text, or list those of a head, of a slot, or all."""
        if asked.query is not None:
            return facts.search(asked)
        listed, tag = facts.listed(asked)
        if tag:
            response.headers["ETag"] = tag
        return listed

    @router.get("/facts/{id}", tags=["facts"], responses=responses())
    def one(id: str, response: Response) -> OneFact:
        """Return a fact, that holds or of which a period is known."""
        fact, response.headers["ETag"] = facts.one(fact_key(id), id)
        return fact

    @router.get("/facts/{id}/history", tags=["facts"], responses=responses())
    def values(id: str, asked: Annotated[AsOf, Query()]) -> SlotHistory:
        """Return what the slot of a fact has held, holds and will hold."""
        return facts.history(fact_key(id), id, asked.as_of)

    @router.post(
        "/facts",
        tags=["facts"],
        status_code=201,
        dependencies=[WRITES],
        response_model=Written,
        responses=responses(401, 412, 422, 503)
        | {200: {"model": Written, "description": "It held already; dates may have changed."}},
    )
    def upsert(wanted: Upsert, if_match: IfMatch = None, idempotency_key: IdempotencyKey = None) -> Response:
        """Write a fact; it is in the memory's folder, and the next question sees it, when this answers."""
        return facts.upsert(wanted, if_match, idempotency_key)

    @router.delete("/facts/{id}", tags=["facts"], dependencies=[WRITES], responses=responses(401, 412, 503))
    def delete(id: str, if_match: IfMatch = None) -> Deleted:
        """Delete a fact, for all dates."""
        return facts.delete(fact_key(id), id, if_match)

    return router


class Facts:
    """What the routes of facts do.

    Args:
        service: whose memory is looked up and changed.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._memory = service.memory
        self._repeats = Repeats(service.memory.folder, service.settings.repeats)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let what is looked up inside this block stay as it is until the block has changed it."""
        with self._service.naming, self._memory.alone():
            yield

    def _at(self, date: str) -> KnowledgeMemory:
        return self._memory.as_of(date) if date else self._memory

    def search(self, asked: FactsAsked) -> Listed:
        """Return the facts that the model would find for a text, best first."""
        if asked.head is not None or asked.relation is not None or asked.cursor is not None:
            raise Refusal(400, "query goes without head, relation and cursor", "query", "invalid_value")
        version, memory = self._service.version, self._at(asked.as_of)
        pairs = found(self._service, memory, asked.query or "", asked.n)
        scored = [Scored(**shown(memory, row), score=score) for row, score in pairs]
        return Listed(facts=scored, next=None, version=version)

    def listed(self, asked: FactsAsked) -> tuple[Listed, str]:
        """Return a page of facts by head and relation, and the ETag of the slot where both are given."""
        most = min(asked.limit, self._service.settings.page)
        memory, tag = self._at(asked.as_of), ""
        with self._service.naming:
            named = self._service.editor.entities, self._service.editor.relations
            head, relation = (
                None if name is None else of.find(name) or name
                for of, name in zip(named, (asked.head, asked.relation), strict=True)
            )
        if relation is not None and head is None:
            raise Refusal(400, "relation goes with head", "relation", "invalid_value")
        start = asked.cursor or 0
        with self._memory.still():
            version = self._service.version
            if head is None:
                rows = memory.page(start, most + 1)
            else:
                rows = [row for row in _rows(memory, head, relation) if row >= start][: most + 1]
                if relation is not None and not asked.as_of:
                    tag = slot_tag(self._memory, head, relation)
            page = [Scored(**shown(memory, row), score=None) for row in rows[:most]]
        later = rows[most] if len(rows) > most else None
        return Listed(facts=page, next=later, version=version), tag

    def one(self, key: Key, known_by: str) -> tuple[OneFact, str]:
        """Return a fact and its ETag."""
        with self._memory.still():
            row = self._row(key, known_by)
            fact = OneFact(
                **shown(self._memory, row), holds=self._memory.holds(row), version=self._service.version
            )
            return fact, fact_tag(self._memory, row)

    def _row(self, key: Key, known_by: str) -> int:
        if (row := self._memory.known(key)) is None:
            raise unknown(known_by)
        return row

    def history(self, key: Key, known_by: str, as_of: str) -> SlotHistory:
        """Return the values of a fact's slot; those that hold on a date, by default now, say so."""
        memory = self._memory
        with memory.still():
            told = history(memory, key[0], key[1])
            if not told:
                raise unknown(known_by)
            at = day(written(as_of or memory.chronicle.on or today()))
            values = [
                Value(
                    **shown_at(memory, row, period),
                    written=period.on,
                    holds=period.covers(at),
                    superseded_by=[fact_id(memory.key(later)) for later in by],
                )
                for row, period, by in told
            ]
            first, version = values[0], self._service.version
            return SlotHistory(head=first.head, relation=first.relation, values=values, version=version)

    def upsert(self, wanted: Upsert, if_match: str | None, repeated: str | None) -> Response:
        """Write a fact; return what it did, or what it did when it came before."""
        asked = digest("POST /facts", wanted.model_dump_json(), if_match or "")
        names = cleaned(wanted.head), cleaned(wanted.relation), cleaned(wanted.tail)
        dates = (cleaned(text) if text.strip() else "" for text in (wanted.start, wanted.end, wanted.source))
        with self._changing():
            if repeated is not None and (given := self._repeats.find(checked(repeated), asked)):
                return _answer(given)
            fact = self._service.editor.named(Fact(*names, "", "", "", *dates))
            fact.period("")
            if if_match is not None:
                held = self._memory.recorded(fact.head, fact.relation)
                _match(if_match, [slot_tag(self._memory, fact.head, fact.relation)], bool(held))
            fresh = self._memory.find(*fact.key) is None
            rows, superseded, notes = self._service.editor.write([fact], wanted.replace)
            told = Written(
                written=ShownFact(**shown(self._memory, rows[0])),
                superseded=[ShownFact(**shown(self._memory, row)) for row in superseded],
                notes=notes,
                version=self._service.version,
            )
            tag = slot_tag(self._memory, fact.head, fact.relation)
            answer = Given(repeated or "", asked, 201 if fresh else 200, tag, told.model_dump_json())
            if repeated is not None:
                self._repeats.keep(answer)
        return _answer(answer)

    def delete(self, key: Key, known_by: str, if_match: str | None) -> Deleted:
        """Delete a fact."""
        with self._changing():
            row = self._row(key, known_by)
            if if_match is not None:
                tags = [fact_tag(self._memory, row), slot_tag(self._memory, key[0], key[1])]
                _match(if_match, tags, True)
            deleted = ShownFact(**shown(self._memory, row))
            self._memory.delete([key])
            return Deleted(deleted=deleted, version=self._service.version)


def _rows(memory: KnowledgeMemory, head: str, relation: str | None) -> list[int]:
    """Return the facts of a head, or of a slot, that hold; none where there is no such thing."""
    entity = memory.entities.find(head)
    if entity is None:
        return []
    if relation is None:
        return sorted(memory.facts_of(entity))
    kind = memory.relations.find(relation)
    return [] if kind is None else sorted(memory.slot(entity, kind))


def _match(given: str, tags: list[str], there: bool) -> None:
    """Refuse a change whose header If-Match names none of these ETags."""
    wanted = [tag.strip() for tag in given.split(",")]
    if not (there if wanted == ["*"] else set(wanted) & set(tags)):
        raise Refusal(412, REASON, "if-match", "changed_meanwhile")


REASON = "it has changed since that ETag was read; read it again, and decide anew"


def _answer(given: Given) -> Response:
    return Response(given.body, given.status, {"ETag": given.tag}, "application/json")
