"""Facts in bulk, one a line: an import that is written batch by batch, and an export of everything."""

import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pipeline.config import UserError
from pipeline.memory.facts import Fact
from pipeline.memory.history import BLOCK, everything
from pipeline.memory.lines import LONGEST, from_json
from pipeline.serve.refusals import responses
from pipeline.serve.requests import AsOf, Given
from pipeline.serve.service import Service
from pipeline.serve.shown import fact_id

NDJSON = "application/x-ndjson"
IN_RAM = 1 << 20
"""Bytes of the results of an import that are held in RAM; more are kept in a file."""
LINE = '{"head": "Q142", "relation": "P36", "tail": "Q90", "head_label": "France", '
LINE += '"relation_noun": "capital", "tail_label": "Paris"}\n'
TEXT = {"schema": {"type": "string"}, "examples": {"fact": {"value": LINE}}}
RESULT = '{"line": 1, "written": "WyJRMTQyIiwiUDM2IiwiUTkwIl0"}\n{"lines": 1, "written": 1, "errors": 0, '
RESULT += '"version": 18}\n'


class How(Given):
    """How lines are written."""

    replace: bool = Field(
        False,
        description="Whether a fact supersedes the others of its slot; else they stand side by side.",
        examples=[False],
    )


def routes(service: Service) -> APIRouter:
    """Return the routes of imports and exports."""
    router = APIRouter()
    writes = Depends(HTTPBearer(auto_error=False, description="The server's token; reading needs none."))

    @router.post(
        "/facts/import",
        tags=["facts"],
        dependencies=[writes],
        response_class=StreamingResponse,
        responses=responses(401)
        | {
            200: {
                "description": "JSON, for each line its number as `line`, and `written` (an id) or `error`; "
                "the last one counts them.",
                "content": {
                    NDJSON: {"schema": {"type": "string"}, "examples": {"result": {"value": RESULT}}}
                },
            }
        },
        openapi_extra={"requestBody": {"required": True, "content": {NDJSON: TEXT}}},
    )
    async def take(request: Request, how: Annotated[How, Query()]) -> StreamingResponse:
        """Write facts, one JSON object a line with the fields of an export.

        The body is read and written batch by batch, each of them whole or not at all. The results come once
        all of it was read, so that a client may send first and read then.
        """
        results = await run_in_threadpool(tempfile.SpooledTemporaryFile, IN_RAM)
        taking = Taking(service, how.replace, results)
        try:
            async for batch in _batches(request, service.settings.import_facts):
                await run_in_threadpool(taking.write, batch)
        except ClientDisconnect:
            pass  # what it sent before is written
        except BaseException:
            results.close()
            raise
        return StreamingResponse(taking.told(), media_type=NDJSON)

    @router.get(
        "/facts/export",
        tags=["facts"],
        response_class=StreamingResponse,
        responses=responses() | {200: {"description": "Facts, one a line.", "content": {NDJSON: TEXT}}},
    )
    def give(asked: Annotated[AsOf, Query()]) -> StreamingResponse:
        """Return every fact with every period, one a line; with `as_of`, those that held then.

        It is the memory as it was when this began, whatever changes meanwhile. An import of it into an empty
        memory makes one that answers alike at every date.
        """
        if asked.as_of:
            view = service.memory.as_of(asked.as_of)
            facts: Iterator[Fact] = (
                view.fact(row) for key in view.keys_held(BLOCK) if (row := view.find(*key)) is not None
            )
        else:
            facts = everything(service.memory)
        lines = (json.dumps(_told(fact), ensure_ascii=False) + "\n" for fact in facts)
        return StreamingResponse(lines, media_type=NDJSON)

    return router


def _told(fact: Fact) -> dict[str, str]:
    return {name: text for name, text in asdict(fact).items() if text}


Lines = list[tuple[int, bytes]]
"""Lines with their numbers."""


async def _batches(request: Request, most: int) -> AsyncIterator[Lines]:
    """Yield the lines of a body, some at a time; of an overlong one no more than its beginning is held."""
    batch: Lines = []
    held, number, dropped = b"", 1, False
    async for chunk in request.stream():
        *whole, rest = (held + chunk).split(b"\n")
        for line in whole:
            if line.strip() and not dropped:
                batch.append((number, line[: LONGEST + 1]))
            number, dropped = number + 1, False
            if len(batch) >= most:
                yield batch
                batch = []
        held = rest
        if dropped:
            held = b""
        elif len(rest) > LONGEST:
            batch.append((number, rest[: LONGEST + 1]))
            held, dropped = b"", True
    if held.strip():
        batch.append((number, held))
    if batch:
        yield batch


class Taking:
    """An import.

    Args:
        service: whose memory is written to.
        replace: whether facts supersede the others of their slots.
        results: a file that takes what became of each line.
    """

    def __init__(self, service: Service, replace: bool, results: IO[bytes]) -> None:
        self._service = service
        self._replace = replace
        self._results = results
        self._lines = self._written = self._errors = 0

    def write(self, lines: Lines) -> None:
        """Write the facts of some lines together; where one supersedes, no two of a slot."""
        groups: list[dict[int, Fact]] = [{}]
        outcome: dict[int, dict[str, Any]] = {}
        with self._service.naming:
            for number, line in lines:
                try:
                    fact = self._service.editor.named(from_json(line))
                except UserError as error:
                    outcome[number] = {"error": {"message": str(error)}}
                    continue
                if self._replace and any(fact.key[:2] == other.key[:2] for other in groups[-1].values()):
                    groups.append({})
                groups[-1][number] = fact
        for facts in groups:
            outcome |= self._upsert(facts)
        for number in sorted(outcome):
            self._results.write(json.dumps({"line": number, **outcome[number]}).encode() + b"\n")
        errors = sum("error" in result for result in outcome.values())
        self._lines += len(lines)
        self._errors += errors
        self._written += len(lines) - errors

    def _upsert(self, facts: dict[int, Fact]) -> dict[int, dict[str, Any]]:
        if not facts:
            return {}
        try:
            self._service.memory.upsert(list(facts.values()), replace=self._replace)
        except UserError as error:
            return {number: {"error": {"message": str(error)}} for number in facts}
        return {number: {"written": fact_id(fact.key)} for number, fact in facts.items()}

    def told(self) -> Iterator[bytes]:
        """Yield what became of the lines, and how many there were."""
        with self._results:
            counts = {"lines": self._lines, "written": self._written, "errors": self._errors}
            version = {"version": self._service.version}
            self._results.write(json.dumps(counts | version).encode() + b"\n")
            self._results.seek(0)
            yield from self._results
