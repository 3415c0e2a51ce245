"""Errors over HTTP: OpenAI's error object, with what only we know beside it in one extension object, `tunewright`.

{"error": {"message": …, "type": …, "param": …, "code": …, "tunewright": {reason, remedy, violations}}}
"""

import logging
from typing import Any

import grpc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tunewright.chassis.errors import (
    Cancelled,
    Conflict,
    DiskFull,
    Interrupted,
    InvalidData,
    InvalidSpec,
    NotFound,
    OutOfResources,
    Refused,
    TunewrightError,
    Unauthenticated,
    Unavailable,
    Violation,
    foreign,
)

RETRY_AFTER_SECONDS = 2
_DISK_RETRY_AFTER_SECONDS = 60

_TEXT = {"anyOf": [{"type": "string"}, {"type": "null"}]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT,
                "code": _TEXT,
                "tunewright": {"type": "object", "description": "reason, remedy, violations: what only we know"},
            },
        }
    },
}
"""The error object in the OpenAPI document."""

_log = logging.getLogger(__name__)


class TooLarge(InvalidData):
    """A body or a file above its limit."""

    reason = "TOO_LARGE"
    default_remedy = "Send less, or raise the limit in the gateway's settings."


class TooManyRequests(OutOfResources):
    """More requests under way than the gateway takes."""

    reason = "RATE_LIMIT_EXCEEDED"
    default_remedy = "Try again after the seconds in Retry-After."

    def __init__(self, message: str, *, remedy: str = "", retry_after: int = 0) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after = retry_after or RETRY_AFTER_SECONDS


class EngineTimeout(TunewrightError):
    """An engine that took a request and said nothing for too long. It is not asked again: the work may be under way."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "ENGINE_TIMEOUT"
    default_remedy = "Ask for fewer tokens, or for a stream."


class Forbidden(TunewrightError):
    """A key that may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "MISSING_SCOPE"
    default_remedy = "Use a key that has the scope named."


class StorageFull(TooLarge):
    """More bytes than a key may keep."""

    reason = "STORAGE_LIMIT_EXCEEDED"
    default_remedy = "Delete files, or ask for a key with a higher limit."


# First match wins, so subclasses stand before their bases. Status, OpenAI's type, seconds of Retry-After (0: none).
_TABLE: list[tuple[type[TunewrightError], int, str, int]] = [
    (TooLarge, 413, "invalid_request_error", 0),
    (InvalidSpec, 400, "invalid_request_error", 0),
    (InvalidData, 400, "invalid_request_error", 0),
    (Refused, 400, "invalid_request_error", 0),
    (Unauthenticated, 401, "authentication_error", 0),
    (Forbidden, 403, "permission_error", 0),
    (NotFound, 404, "not_found_error", 0),
    (Conflict, 409, "conflict_error", 0),
    (Cancelled, 409, "conflict_error", 0),
    (DiskFull, 503, "server_error", _DISK_RETRY_AFTER_SECONDS),
    (OutOfResources, 429, "rate_limit_error", RETRY_AFTER_SECONDS),
    (EngineTimeout, 504, "server_error", 0),
    (Unavailable, 503, "server_error", RETRY_AFTER_SECONDS),
    (Interrupted, 503, "server_error", RETRY_AFTER_SECONDS),
]
_CODES = {"UNAUTHENTICATED": "invalid_api_key"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def install(app: FastAPI) -> None:
    """Let the application answer every error in this shape."""
    app.add_exception_handler(TunewrightError, _on_ours)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)


def public(error: Exception) -> TunewrightError:
    """Return any error as one of ours; what broke inside is logged and not told."""
    mapped = foreign(error)
    if _row(mapped)[0] != 500:  # noqa: PLR2004 - internal error
        return mapped
    _log.error("request failed", exc_info=error)
    return mapped if isinstance(error, TunewrightError) else TunewrightError("The server had an error.")


def error_response(error: TunewrightError) -> JSONResponse:
    """Return the answer that tells this error."""
    status, kind, retry_after = _row(error)
    code = _CODES.get(error.reason, error.reason.lower())
    param = error.violations[0].field if error.violations else None
    extension = {k: v for k, v in error.to_dict().items() if k != "message"}
    retry_after = getattr(error, "retry_after", retry_after)
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    if status == 401:  # noqa: PLR2004 - unauthorized
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_object(error.message, kind, param, code, extension), status, headers)


def error_object(
    message: str, kind: str, param: str | None, code: str | None, extension: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return OpenAI's error object, all four keys always there."""
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if extension is not None:
        error["tunewright"] = extension
    return {"error": error}


def type_of_status(status: int) -> str:
    """Return OpenAI's error type for a status that comes without one."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004


def _row(error: TunewrightError) -> tuple[int, str, int]:
    for cls, status, kind, retry_after in _TABLE:
        if isinstance(error, cls):
            return status, kind, retry_after
    return 500, "server_error", 0


async def _on_ours(_request: Request, error: Exception) -> JSONResponse:
    return error_response(public(error))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise TypeError("not an HTTPException") from error
    texts = {
        404: f"Unknown request URL: {request.method} {request.url.path}.",
        405: f"Not allowed to {request.method} on {request.url.path}.",
    }
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    message = texts.get(error.status_code, str(error.detail))
    body = error_object(message, type_of_status(error.status_code), None, codes.get(error.status_code))
    return JSONResponse(body, error.status_code, dict(error.headers or {}))


async def _on_validation(_request: Request, error: Exception) -> JSONResponse:
    """Answer 400, not FastAPI's 422: the status that OpenAI's clients know."""
    if not isinstance(error, RequestValidationError):
        raise TypeError("not a RequestValidationError") from error
    violations = [
        Violation(
            ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0]),
            str(item["msg"]).removeprefix("Value error, "),
        )
        for item in error.errors()
    ]
    text = "; ".join(f"{v.field}: {v.description}" for v in violations)
    return error_response(InvalidSpec(text, violations=violations))
