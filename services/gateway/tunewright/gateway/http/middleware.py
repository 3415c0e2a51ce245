"""Around every request: an id, a limit on its body, security headers, one log line, metrics.

Plain ASGI, because Starlette's own middleware base would buffer between a stream and its reader.
"""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewright.gateway import metrics
from tunewright.gateway.http.errors import TooLarge, error_response, public

_UPLOADS = re.compile(r"/v1/files|/v1/uploads/[^/]+/parts")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_CLIENT_GONE = 499

_log = logging.getLogger("tunewright.gateway.access")


class Envelope:
    """The middleware.

    Args:
        app: what answers.
        max_body_bytes: largest body, files excepted: those have their own limit.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Files have a limit of their own, kept where they are read.
        limit = None if _UPLOADS.fullmatch(scope["path"]) else self._max_body_bytes
        exchange = _Exchange(scope, receive, send, limit)
        metrics.HTTP_OPEN.inc()
        try:
            await self._answer(scope, exchange)
        finally:
            metrics.HTTP_OPEN.dec()
            exchange.end()

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        try:
            exchange.check_declared()
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if exchange.begun:
                raise
            refusal = exchange.refusal or public(error)
            await error_response(refusal)(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int | None) -> None:
        asked = Headers(scope=scope).get("x-request-id", "")
        self.id = asked if _REQUEST_ID.fullmatch(asked) else f"req_{uuid.uuid4().hex}"
        self.begun = False
        self.refusal: TooLarge | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limit = limit
        self._seen_bytes = 0
        self._started = time.perf_counter()
        self._status = _CLIENT_GONE

    def check_declared(self) -> None:
        """Look at the length that the body says it has. Raises TooLarge."""
        text = Headers(scope=self._scope).get("content-length", "0")
        if self._limit is not None and text.isdigit() and int(text) > self._limit:
            raise _too_large(self._limit)

    async def receive(self) -> Message:
        """Pass on a piece of the body. Raises TooLarge once it is longer than allowed."""
        message = await self._receive()
        self._seen_bytes += len(message.get("body", b""))
        if self._limit is not None and self._seen_bytes > self._limit:
            raise _too_large(self._limit)
        return message

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer, with the request's id and the common headers. Raises TooLarge, once."""
        if self._limit is not None and self._seen_bytes > self._limit and not self.begun:
            # FastAPI takes the error of the reading for one of parsing: what it wants to answer is replaced, once.
            self.refusal = _too_large(self._limit)
            self._limit = None
            raise self.refusal
        if message["type"] == "http.response.start":
            self.begun = True
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in {**_HEADERS, **self._scope.get("tunewright.rate", {})}.items():
                headers.setdefault(name, value)
        await self._send(message)

    def end(self) -> None:
        """Count and log the request, however it ended."""
        seconds = time.perf_counter() - self._started
        method = self._scope["method"] if self._scope["method"] in _METHODS else "OTHER"
        route = getattr(self._scope.get("route"), "path", "(none)")
        metrics.HTTP_REQUESTS.labels(method, route, str(self._status)).inc()
        metrics.HTTP_SECONDS.labels(method, route).observe(seconds)
        _log.info(
            "%s %s %s",
            method,
            self._scope["path"],
            self._status,
            extra={"request_id": self.id, "key": self._scope.get("tunewright.key"), "seconds": round(seconds, 4)},
        )


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body of the request is larger than {limit} bytes.")
