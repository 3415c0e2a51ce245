"""A small real HTTP server that speaks the gateway's contract and breaks off where a test wants it to."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

KEY = "tw-a-key-for-one-test"


@dataclass
class Script:
    """What the server knows, and what it was asked."""

    events: list[dict[str, Any]] = field(default_factory=list)
    breaks_after: list[int] = field(default_factory=list)
    """Sequence numbers after which the event stream is cut, once each."""
    refuse_runs: dict[str, Any] | None = None
    cursors: list[int] = field(default_factory=list)
    uploads: list[bytes] = field(default_factory=list)
    recipes: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the dataset's held-out file."""
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Artifact reference → metrics of its manifest."""
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Artifact reference → its whole manifest as the gateway shows it."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path below /v1/artifacts/, such as `datasets/aa…/files/train.jsonl` → content."""
    lineage: list[dict[str, Any]] = field(default_factory=list)
    """Manifests, each before its parents."""
    state: str = "succeeded"
    failure: dict[str, Any] | None = None

    def run(self) -> dict[str, Any]:
        stages = [
            {"name": "prepare", "state": "succeeded", "seconds": 1.5, "result": f"datasets/{'a' * 64}"},
            {"name": "train", "state": self.state, "seconds": 61.0, "result": None},
        ]
        artifacts = {"prepare": f"datasets/{'a' * 64}"}
        names = {"id": "run-1", "name": "bot", "base_model": "bot-base"}
        return {**names, "state": self.state, "stages": stages, "artifacts": artifacts, "failure": self.failure}


@contextmanager
def gateway_server(script: Script) -> Iterator[str]:
    """Serve `script` on a port of the OS's choice and yield the address."""

    class Handler(_Handler):
        pass

    Handler.script = script
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    script: Script

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if not self._known():
            return
        if url.path.endswith("/events"):
            self._events(int(parse_qs(url.query).get("after", ["0"])[0]))
        elif url.path.removeprefix("/v1/artifacts/") in self.script.files:
            self._body(self.script.files[url.path.removeprefix("/v1/artifacts/")], 200)
        elif url.path.endswith("/files/validation.jsonl"):
            self._body("\n".join(json.dumps(row) for row in self.script.validation).encode(), 200)
        elif url.path.endswith("/lineage"):
            self._json({"data": self.script.lineage})
        elif url.path.startswith("/v1/artifacts/"):
            reference = url.path.removeprefix("/v1/artifacts/")
            files = [{"path": path.rpartition("/")[2]} for path in self.script.files if path.startswith(reference)]
            shown = {"metrics": self.script.manifests.get(reference, {}), "files": files}
            self._json(self.script.documents.get(reference, shown))
        elif url.path == "/v1/models":
            self._json({"data": [{"id": "bot", "created": 1, "owned_by": "tunewright"}]})
        elif url.path == "/v1/runs":
            self._json({"data": [self.script.run()]})
        elif url.path == "/v1/runs/run-1":
            self._json(self.script.run())
        else:
            self._json({"error": {"message": f"no run {url.path!r}"}}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._known():
            return
        if self.path == "/v1/files":
            content = re.search(rb"\r\n\r\n(.*?)\r\n--", body[body.index(b"filename=") :], re.DOTALL)
            assert content is not None
            self.script.uploads.append(content.group(1))
            self._json({"id": f"file-{'f' * 64}"})
        elif self.path == "/v1/runs":
            self._runs(json.loads(body))
        elif self.path == "/v1/chat/completions":
            self._chat(json.loads(body))

    def _runs(self, body: dict[str, Any]) -> None:
        if self.script.refuse_runs:
            self._json({"error": self.script.refuse_runs}, 400)
        elif body.get("validate_only"):
            absent = {"violations": [{"field": "data[0].file", "description": "there is no such file"}]}
            self._json({"error": {"message": "the recipe is not valid", "tunewright": absent}}, 400)
        else:
            self.script.recipes.append(body["recipe"])
            self._json(self.script.run())

    def _known(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {KEY}":
            return True
        self._json({"error": {"message": "the API key is not valid"}}, 401)
        return False

    def _events(self, after: int) -> None:
        self.script.cursors.append(after)
        self._stream()
        for event in self.script.events:
            if event["sequence"] <= after:
                continue
            self.wfile.write(f": alive\n\nid: {event['sequence']}\nevent: x\ndata: {json.dumps(event)}\n\n".encode())
            if event["sequence"] in self.script.breaks_after:
                self.script.breaks_after.remove(event["sequence"])
                return

    def _chat(self, body: dict[str, Any]) -> None:
        pieces = ("you said: ", body["messages"][-1]["content"])
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(pieces)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._json(
                {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
            )
            return
        self._stream()
        for piece in pieces:
            chunk = {"choices": [{"delta": {"content": piece}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        if body["model"] != "breaks-off":
            self.wfile.write(b"data: [DONE]\n\n")

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def _json(self, document: dict[str, Any], status: int = 200) -> None:
        self._body(json.dumps(document).encode(), status)

    def _body(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def event(sequence: int, type_: str, stage: str | None = None, message: str = "", **data: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    return {
        "sequence": sequence,
        "time": 1_790_000_000 + sequence,
        "type": type_,
        "stage": stage,
        "severity": "info",
        "message": message or type_,
        "data": data,
    }


def story() -> list[dict[str, Any]]:
    """Return the events of a short run that succeeds."""
    return [
        event(1, "run", message="running", state="running"),
        event(2, "stage", "train", "train: running", state="running"),
        event(3, "progress", "train", step=1, total=2, unit="steps", loss=2.5, eval_loss=2.25),
        event(4, "progress", "train", step=2, total=2, unit="steps", loss=1.5, tokens_per_second=512.4),
        event(5, "stage", "train", "train: succeeded", state="succeeded", result=f"adapters/{'b' * 64}", seconds=61.0),
        event(6, "run", message="succeeded", state="succeeded"),
    ]
