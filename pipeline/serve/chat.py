"""The chat in the form of OpenAI's API: whole answers, and answers piece by piece as events."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from pipeline.serve.completions import (
    MODEL,
    UNCHANGING,
    UNHONOURED,
    UNKNOWN,
    ChatAsked,
    Completion,
    Model,
    Models,
    more_of,
)
from pipeline.serve.refusals import Refusal, refusal_of, responses
from pipeline.serve.service import Service
from pipeline.serve.shown import fact_fields
from pipeline.serve.tickets import Asked, Began, BusyError, ClosedError, Ended, Event, Said, Shared, Ticket

EVENTS = "text/event-stream"


def routes(service: Service) -> APIRouter:
    """Return the routes of the chat."""
    router = APIRouter(prefix="/v1", tags=["chat"])
    started = int(time.time())
    model = Model(
        id=MODEL,
        object="model",
        created=started,
        owned_by=service.session.system.reader.settings.name,
    )

    @router.post(
        "/chat/completions",
        response_model=Completion,
        responses=responses(503)
        | {200: {"description": "The answer, or events of its pieces.", "content": {EVENTS: {}}}},
    )
    async def complete(asked: ChatAsked, request: Request) -> Response:
        """Answer the last message of the user from the facts that the memory holds."""
        question = _question(service, asked)
        hearing = Hearing(service, question)
        try:
            began = await hearing.began(request)
            if asked.stream:
                usage = bool(asked.stream_options and asked.stream_options.include_usage)
                return StreamingResponse(_events(hearing, began, usage), media_type=EVENTS)
            return JSONResponse(_whole(began, await hearing.ended(request)))
        except BaseException:
            hearing.leave()
            raise

    @router.get("/models", responses=responses())
    def models() -> Models:
        """List the one model."""
        return Models(object="list", data=[model])

    @router.get("/models/{id}", responses=responses())
    def one(id: str) -> Model:
        """Return the one model."""
        _known(id)
        return model

    return router


def _known(model: str) -> None:
    if model != MODEL:
        raise Refusal(404, f"there is no such model; there is {MODEL}", "model", "model_not_found")


def _question(service: Service, asked: ChatAsked) -> Asked:
    """Return what is asked.

    Raises:
        Refusal: the request asks for what can't be honoured, or for nothing.
    """
    _known(asked.model)
    more = more_of(asked)
    for name, why in UNHONOURED.items():
        if more.get(name):
            raise Refusal(400, f"{name} can't be honoured: {why}", name, "unsupported_parameter")
    if unknown := sorted(more.keys() - UNHONOURED.keys() - UNCHANGING):
        raise Refusal(400, f"there is no field {unknown[0][:80]!r}", unknown[0], "unknown_parameter")
    if asked.response_format is not None and asked.response_format.type != "text":
        raise Refusal(400, "answers are text", "response_format", "unsupported_parameter")
    if more.get("modalities") not in (None, ["text"]):
        raise Refusal(400, "answers are text", "modalities", "unsupported_parameter")
    said = [message for message in asked.messages if message.role == "user"]
    if not said or not said[-1].text.strip():
        raise Refusal(400, "no message of the role `user` asks anything", "messages", "no_question")
    limits = [limit for limit in (asked.max_tokens, asked.max_completion_tokens) if limit is not None]
    as_of, k = (asked.knowledge.as_of, asked.knowledge.k) if asked.knowledge else ("", None)
    most = service.memory.settings.N
    if k is not None and k > most:
        raise Refusal(400, f"k is {k}, but the search finds {most} facts", "knowledge.k", "invalid_value")
    return Asked(said[-1].text, as_of, k, min(limits, default=None))


class Hearing:
    """An answer as a route hears it.

    Args:
        service: whose engine is asked.
        asked: the question.

    Raises:
        Refusal: it can't be taken.
    """

    def __init__(self, service: Service, asked: Asked) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        later = {"Retry-After": str(service.settings.retry_after)}
        try:
            self._ticket: Ticket = service.engine.ask(asked, self._told)
        except BusyError:
            raise Refusal(429, "too many questions wait", code="busy", headers=later) from None
        except ClosedError:
            raise Refusal(503, "the server is stopping", code="stopping", headers=later) from None

    def _told(self, event: Event) -> None:
        """Take an event, by the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended, and every client is gone
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def leave(self) -> None:
        """Give up the place in the batch."""
        self._ticket.cancel()

    async def next(self) -> Event:
        """Return the next event.

        Raises:
            Refusal: the answer doesn't come.
        """
        event = await self._events.get()
        if isinstance(event, ClosedError):
            raise Refusal(503, "the server is stopping", code="stopping", headers={"Retry-After": "1"})
        if isinstance(event, Exception):
            raise refusal_of(event)
        return event

    async def began(self, request: Request) -> Began:
        """Return what is known before the answer is said, unless the client goes away."""
        event = await self._unless_gone(request)
        assert isinstance(event, Began)
        return event

    async def ended(self, request: Request) -> Ended:
        """Return the end of the answer, unless the client goes away."""
        while not isinstance(event := await self._unless_gone(request), Ended):
            pass
        return event

    async def _unless_gone(self, request: Request) -> Event:
        """Return the next event.

        Raises:
            Refusal: as `next`, or the client has gone, whom no answer reaches.
        """
        coming, gone = asyncio.ensure_future(self.next()), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            raise Refusal(499, "the client has gone", code="gone")
        finally:
            coming.cancel()
            gone.cancel()


async def _gone(request: Request) -> None:
    """Return once the client has closed its connection; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _whole(began: Began, ended: Ended) -> dict[str, Any]:
    """Return the fields of `Completion`."""
    content = UNKNOWN if began.refused else ended.text
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended.reason}
    more = {"usage": _usage(began, ended), "knowledge": _knowledge(began, ended)}
    return _named("chat.completion") | {"choices": [choice]} | more


async def _events(hearing: Hearing, began: Began, usage: bool) -> AsyncIterator[bytes]:
    """Yield the events of an answer: the facts first, then its pieces, then what is known at the end."""
    name = _named("chat.completion.chunk")
    nothing: dict[str, Any] = {"usage": None} if usage else {}

    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event(name | {"choices": [choice]} | nothing | more)

    try:
        yield chunk({"role": "assistant", "content": ""}, knowledge=_knowledge(began))
        if began.refused:
            yield chunk({"content": UNKNOWN})
        while not isinstance(event := await hearing.next(), Ended):
            if isinstance(event, Said):
                yield chunk({"content": event.text})
        yield chunk({}, event.reason, knowledge=_knowledge(began, event))
        if usage:
            yield _event(name | {"choices": [], "usage": _usage(began, event)})
        yield b"data: [DONE]\n\n"
    except Refusal as refusal:  # the response has begun, so this is all that can be said
        yield _event({"error": refusal.detail.model_dump()})
    finally:
        hearing.leave()


def _named(kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
    }


def _event(fields: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(fields, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def _usage(began: Began, ended: Ended) -> dict[str, Any]:
    prompt = began.prompt_tokens + began.fact_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": ended.tokens,
        "total_tokens": prompt + ended.tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "fact_tokens": began.fact_tokens},
    }


def _knowledge(began: Began, ended: Ended | None = None) -> dict[str, Any]:
    milliseconds = {"waiting": began.waiting, "finding": began.finding}
    if ended is not None:
        milliseconds |= {"first_token": ended.first_token, "total": ended.total}
    return {
        "refused": began.refused,
        "refusal": began.refusal,
        "facts": list(map(_fact, began.facts)),
        "version": began.version,
        "milliseconds": {name: round(1000 * seconds, 3) for name, seconds in milliseconds.items()},
    }


def _fact(shared: Shared) -> dict[str, Any]:
    via = None if shared.via is None else fact_fields(*shared.via)
    return fact_fields(shared.fact, shared.text) | {"weight": shared.weight, "via": via}
