"""ASGI middleware that vLLM loads: every path but /health asks for the engine's key.

vLLM's own --api-key guards the paths below /v1, /v2 and /inference only; /tokenize, /invocations, /generative_scoring
and /metrics would stay open to the whole network. Runs in the engine's process; imports nothing of ours.
"""

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN_PATHS = {"/health"}
_BODY = (
    b'{"error":{"message":"no key, or a wrong one: send Authorization: Bearer <key>",'
    b'"type":"invalid_request_error","param":null,"code":"invalid_api_key"}}'
)


class RequireKey:
    """Passes on requests that carry the key in VLLM_API_KEY; answers 401 to others, in OpenAI's shape."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._expected = _digest(f"Bearer {os.environ['VLLM_API_KEY']}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan" or scope["path"] in _OPEN_PATHS or self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _BODY})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _has_key(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(_digest(given), self._expected)


def _digest(value: bytes) -> bytes:
    # Of equal length whatever is sent, so that the comparison tells nothing by its time.
    return hashlib.sha256(value).digest()
