"""A small real engine: OpenAI's chat over HTTP with a bearer key, told by the last message how to behave.

echo …    the words, one chunk each, a tenth of a second apart
die       tells after the first chunk that its core died, as vLLM does
break     ends the connection after the first chunk
too long  400 as vLLM says it; tools, too warm, hot, none of it: likewise, of other things
busy      429
slow      waits ten seconds before its headers

Models of some names misbehave, whatever they are told: the second version of `half-broken` answers every other question
with 500, that of `slow-second` takes LATE_SECONDS to its first word.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "key-of-the-engines"
CHUNK_SECONDS = 0.1
REFUSALS = {
    "tools": {"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'},
    "too warm": {"message": "[{'type': 'less_than_equal', 'loc': ('body', 'temperature'), 'msg': 'too large'}]"},
    "hot": {"message": "no number", "param": "body.temperature"},
    "none of it": {"message": "n must be at least 1, got 0."},
}
"""As vLLM writes them, several ways."""
_SLOW_SECONDS = 10.0
LATE_SECONDS = 0.3
DEATH = (
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
    b'"type": "InternalServerError", "param": null, "code": 500}}\n\ndata: [DONE]\n\n'
)


class Engine(ThreadingHTTPServer):
    """The server; `aborted` counts the answers whose reader went away, `asked` keeps the models that were asked."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.aborted = 0
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """OpenAI-compatible root."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        self._json(200, {"aborted": self.server.aborted, "asked": self.server.asked})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self._json(401, {"error": "Unauthorized"})
            return
        self.server.asked.append(body["model"])
        if body["model"] == "half-broken-v2" and self.server.asked.count("half-broken-v2") % 2:
            self._json(500, {"error": {"message": "broken", "type": "InternalServerError", "code": 500}})
            return
        if body["model"] == "slow-second-v2":
            time.sleep(LATE_SECONDS)
        told = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        if told == "too long":
            text = "This model's maximum context length is 512 tokens. However, you requested 900 tokens."
            self._json(400, {"error": {"message": text, "type": "BadRequestError", "param": None, "code": 400}})
        elif told in REFUSALS:
            self._json(400, {"error": {"type": "BadRequestError", "code": 400, "param": None, **REFUSALS[told]}})
        elif told == "busy":
            self._json(429, {"error": {"message": "busy", "type": "TooManyRequests", "param": None, "code": 429}})
        elif told == "slow":
            self._wait_for_reader()
        elif body.get("stream"):
            self._stream(body["model"], told)
        else:
            self._json(200, _answer(body["model"], told))

    def _stream(self, model: str, told: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for data in stream_lines(model, told):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                if told == "die":
                    self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(DEATH), DEATH))
                    return
                if told == "break":
                    self.close_connection = True
                    return
                time.sleep(CHUNK_SECONDS)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.aborted += 1

    def _wait_for_reader(self) -> None:
        """Wait before the headers, looking whether the reader is still there."""
        self.connection.settimeout(_SLOW_SECONDS)
        try:
            gone = self.connection.recv(1) == b""
        except TimeoutError:
            gone = False
        except OSError:
            gone = True
        self.server.aborted += gone
        self.close_connection = True

    def _json(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def stream_lines(model: str, told: str) -> list[bytes]:
    """Return the exact bytes of each chunk of a streamed answer."""
    words = told.split()
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": f"{word} "} for word in words)]
    chunks = [_chunk(model, delta, None) for delta in deltas] + [_chunk(model, {}, "stop")]
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def _chunk(model: str, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}


def _answer(model: str, told: str) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    message = {"role": "assistant", "content": told}
    choice = {"index": 0, "message": message, "text": told, "finish_reason": "stop", "logprobs": None}
    return {
        "id": "chat-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage
    }  # fmt: skip
