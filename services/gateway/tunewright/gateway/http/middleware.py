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
from tunewright.gateway.http.errors import TooLarge, error_response

UPLOAD_PATH = "/v1/files"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

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
        exchange = _Exchange(scope, send)
        if scope["path"] != UPLOAD_PATH:
            receive = _Limited(receive, self._max_body_bytes)
            if _declared_bytes(scope) > self._max_body_bytes:
                await error_response(_too_large(self._max_body_bytes))(scope, receive, exchange.send)
                exchange.end()
                return
        metrics.HTTP_OPEN.inc()
        try:
            await self._app(scope, receive, exchange.send)
        finally:
            metrics.HTTP_OPEN.dec()
            exchange.end()


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        asked = Headers(scope=scope).get("x-request-id", "")
        self.id = asked if _REQUEST_ID.fullmatch(asked) else f"req_{uuid.uuid4().hex}"
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self._status = 499

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    def end(self) -> None:
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


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class _Limited:
    """A body that ends with an error once it is longer than it may be."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._seen = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise _too_large(self._limit)
        return message


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body of the request is larger than {limit} bytes.")


def _declared_bytes(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "0")
    return int(text) if text.isdigit() else 0
