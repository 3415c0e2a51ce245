"""An engine that only streams: OpenAI's events at a steady pace, for as many readers as come. One process, one thread.

    python -m bench.stream_engine PORT

Stands in for vLLM where the gateway alone is measured; costs about 40 µs an event. The request's `max_tokens` is the
number of events, its `gap` the seconds between two.
"""

import asyncio
import json
import sys

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    b"connection: keep-alive\r\n\r\n"
)


def _chunk(delta: dict[str, str], model: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    text = b"data: " + json.dumps({**document, "choices": [choice]}).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(text), text)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().lower().split("\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
            body = json.loads(await reader.readexactly(length))
            await _stream(writer, body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _stream(writer: asyncio.StreamWriter, body: dict[str, object]) -> None:
    model, gap = str(body["model"]), float(str(body.get("gap", 0)))
    writer.write(_HEAD + _chunk({"role": "assistant", "content": ""}, model))
    word = _chunk({"content": "word "}, model)
    for _ in range(int(str(body["max_tokens"]))):
        if gap:
            await asyncio.sleep(gap)
        writer.write(word)
        await writer.drain()
    end = b"data: [DONE]\n\n"
    writer.write(_chunk({}, model, "stop") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))
    await writer.drain()


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(_answer, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
