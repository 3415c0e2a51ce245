"""Asks streams from a server, as many at once as wanted; a process of its own, so that its work is not the server's.

    python -m bench.stream_load '{"url": …, "key": …, "model": …, "requests": 64, "concurrency": 32, "max_tokens": 32}'

Prints one JSON line: events, errors, seconds, times to the first event in milliseconds. Reads HTTP by hand, for about a
tenth of a client library's CPU time.
"""

import asyncio
import json
import ssl
import sys
import time
from typing import Any
from urllib.parse import urlsplit


class _Load:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        parts = urlsplit(settings["url"])
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path
        body = {"model": settings["model"], "max_tokens": settings["max_tokens"], "stream": True, "temperature": 0}
        body |= {
            "messages": [{"role": "user", "content": settings.get("content", "Hello")}],
            **settings.get("extra", {}),
        }
        data = json.dumps(body).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {settings['key']}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.request = head.encode() + data
        self.left = int(settings["requests"])
        self.events = self.errors = self.done = 0
        self.first: list[float] = []
        self.open = self.most_open = 0

    async def worker(self) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while self.left > 0:
            self.left -= 1
            try:
                await self._one(reader, writer)
            except (OSError, asyncio.IncompleteReadError, ssl.SSLError, ValueError):
                self.errors += 1
                writer.close()
                reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.perf_counter()
        writer.write(self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:16]:
            raise ValueError(head[:100])
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        events, tail = 0, b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            if not data:
                raise ValueError("cut off")
            if not events:
                self.first.append((time.perf_counter() - began) * 1000)
            events += data.count(b"data: {")
            tail = (tail + data)[-8:]
        self.open -= 1
        self.events += events
        self.done += 1


async def main(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask, and return what came."""
    load = _Load(settings)
    began = time.perf_counter()
    await asyncio.gather(*(load.worker() for _ in range(settings["concurrency"])))
    seconds = time.perf_counter() - began
    return {
        "done": load.done,
        "errors": load.errors,
        "events": load.events,
        "seconds": seconds,
        "most_open": load.most_open,
        "first_ms": load.first,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))) + "\n")
