"""The way to the engines: kept-alive connections, answers passed on as they come, every failure as one error.

aiohttp, because its parser is compiled: beside httpx it takes less than half of the gateway's CPU time for a streamed
event (bench/gateway.py). Knows no model and no route.
"""

import ssl
from collections.abc import AsyncIterator, Mapping

import aiohttp

_CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 2.0
"""Shorter than the 5 s after which vLLM closes idle connections: else a request may meet the closing one."""
_BUFFER_BYTES = 1 << 16


class EngineGone(Exception):
    """The engine did not answer, or broke off. The message is the kind of failure."""


class EngineSilent(EngineGone):
    """The engine took the request and said nothing for too long: it may still be at it, so it is not asked again."""


class EngineAnswer:
    """An engine's answer: its head is there, its body comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    @property
    def media_type(self) -> str:
        """The body's content type; JSON if it names none."""
        return self._response.headers.get("content-type", "application/json")

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises EngineGone, EngineSilent."""
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except aiohttp.SocketTimeoutError as error:
            raise EngineSilent(type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineGone(type(error).__name__) from error

    async def close(self) -> None:
        """Give the connection back; cut it where the body has not come to its end, which ends the engine's work."""
        self._response.close()


class Engines:
    """Connections to all engines. Belongs to one event loop, the one that asks first.

    Args:
        tls: what engines under https are checked against; True for the system's authorities.
        read_seconds: longest silence within one answer.
    """

    def __init__(self, *, tls: ssl.SSLContext | bool, read_seconds: float) -> None:
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=read_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> EngineAnswer:
        """Ask; return once the head of the answer is there.

        Raises:
            EngineGone: nobody answers.
            EngineSilent: it took the request and does not answer.
        """
        try:
            return EngineAnswer(await self._opened().post(url, data=body, headers=headers))
        except aiohttp.SocketTimeoutError as error:
            raise EngineSilent(type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineGone(type(error).__name__) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS, ssl=self._tls)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_BUFFER_BYTES,
                skip_auto_headers=("User-Agent", "Accept"),
            )
        return self._session
