"""Every error of the server in one form, that of OpenAI's API: {"error": {message, type, param, code}}."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from pipeline.config import UserError
from pipeline.memory.journal import JournalError

LONGEST = 500
"""Characters of a message at most."""
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    412: "conflict_error",
    429: "rate_limit_error",
}
"""What `type` says beside a status; other ones below 500 are `invalid_request_error`."""
REASONS = {
    400: "Something in the request can't be used; `param` names it.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another origin.",
    404: "There is no such thing.",
    405: "The path knows no such method.",
    409: "There is one of that name already.",
    412: "It has changed since the ETag was read.",
    413: "The body is longer than the server takes.",
    414: "The address is longer than the server takes.",
    415: "The body is of another kind than the path takes.",
    421: "The Host header names another server.",
    422: "The Idempotency-Key was used with another request.",
    429: "Too many requests; Retry-After says when to come again.",
    503: "It can't be done now; Retry-After says when to come again.",
}
FASTAPIS = "HTTPValidationError"
"""The form of errors that FastAPI describes by itself."""
LATER = "60"
"""Seconds after which a client may try again where the disk failed."""

logger = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(description="What is wrong and what to do.", examples=["the token is missing"])
    type: str = Field(description="Kind of error.", examples=["authentication_error"])
    param: str | None = Field(description="Field or header that is wrong, if one is.", examples=["tail"])
    code: str | None = Field(description="The error in one word, for programs.", examples=["bad_token"])


class ErrorBody(BaseModel):
    """An error."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorDetail


class Refusal(Exception):  # noqa: N818 - what is refused is no fault of the server
    """A request that is refused.

    Args:
        status: of HTTP.
        message: what is wrong and what to do.
        param: field or header that is wrong.
        code: the error in one word.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(
            message=_readable(message)[:LONGEST],
            type=TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            param=None if param is None else _readable(param)[:LONGEST],
            code=code,
        )
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return it as a response."""
        return JSONResponse({"error": self.detail.model_dump()}, self.status, self.headers)


def _readable(text: str) -> str:
    """Return a text in which half characters, which UTF-8 can't hold, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of these statuses; the ones of every route are added."""
    common = (400, 403, 404, 405, 413, 414, 415, 421, 429)
    return {
        status: {"model": ErrorBody, "description": REASONS[status]}
        for status in sorted({*common, *statuses})
    }


def install(app: FastAPI) -> None:
    """Let every error that a route raises leave `app` in the one form, and the OpenAPI document say so."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        return refusal_of(error).response()

    for kind in (Refusal, RequestValidationError, HTTPException, UserError, Exception):
        app.add_exception_handler(kind, refused)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        for path in document["paths"].values():
            for operation in path.values():
                if FASTAPIS in str(
                    operation["responses"].get("422")
                ):  # where a request is invalid, which is 400
                    del operation["responses"]["422"]
        for name in (FASTAPIS, "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def refusal_of(error: Exception) -> Refusal:
    """Return what an error is to the client; what no one expected is logged and told without details."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, HTTPException):
        told = error.detail if isinstance(error.detail, str) else REASONS.get(error.status_code, "refused")
        code = HTTPStatus(error.status_code).name.lower()
        return Refusal(error.status_code, told, code=code, headers=error.headers)
    if isinstance(error, JournalError):
        logger.error("%s", error)
        told = "the server can't keep changes now; its log says why"
        return Refusal(503, told, code="unavailable", headers={"Retry-After": LATER})
    if isinstance(error, UserError):
        return Refusal(400, str(error), code="invalid_value")
    logger.error("unexpected error", exc_info=error)
    return Refusal(500, "the server met an error that nobody expected; its log says more", code="internal")


def _invalid(errors: Sequence[Any]) -> Refusal:
    """Return the first of the errors that pydantic found, without what was sent."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header"))
    if first["type"] == "json_invalid":
        return Refusal(400, "the body is no JSON", code="json_invalid")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    where = f"{place}: " if place else ""
    return Refusal(400, f"{where}{first['msg']}{more}", place or None, str(first["type"]))
