"""The gateway over HTTP: files, runs, events, models, chat. Every failure becomes one CliError with a remedy.

Knows nothing of how answers are shown.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx

from tunewright.cli.endpoint import Endpoint
from tunewright.cli.errors import CliError

JSON = dict[str, Any]
Progress = Callable[[int], None]
"""Called with the bytes sent since the last call."""

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
"""States of a run after which nothing more happens."""
PATIENCE_SECONDS = 600.0
"""How long a gateway that does not answer is asked again while a run is watched."""
LONGEST_PAUSE_SECONDS = 10.0
EVENT_SILENCE_SECONDS = 90.0
"""After this long without a word, not even a keep-alive, the connection is taken for lost."""


class ApiError(CliError):
    """The gateway refused; keeps what it said for callers that know more, such as a recipe's line numbers."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        body = document.get("error")
        body = body if isinstance(body, Mapping) else {}
        self.status = status
        extension = body.get("tunewright")
        extension = extension if isinstance(extension, Mapping) else {}
        self.violations: list[tuple[str, str]] = [
            (str(item.get("field", "")), str(item.get("description", ""))) for item in extension.get("violations") or ()
        ]
        message = str(body.get("message") or f"the gateway answered with status {status}")
        super().__init__(message, remedy=str(extension.get("remedy") or _REMEDIES.get(status, "")))


_FILE = re.compile(r"(stages\[\d+\]\.)?data\[\d+\]\.file")
_REMEDIES = {
    401: "The key is wrong: set TUNEWRIGHT_API_KEY, or use the local stack's own (var/stack/api_key).",
    403: "This key may not do that.",
    404: "Check the name: `tunewright runs` and `tunewright models` list what there is.",
    429: "Wait until another run or request ends.",
    502: "A service does not answer: see `tunewright status`.",
    503: "A service does not answer yet: see `tunewright status`, then try again.",
}


class Gateway:
    """A connection to one gateway. Close it, or use it as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        timeout = httpx.Timeout(30, connect=5)
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        self._http = httpx.Client(base_url=endpoint.url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int) -> JSON:
        """Return the JSON at a path.

        Raises:
            CliError: the gateway does not answer; ApiError: it refuses.
        """
        return self._json("GET", path, params=query)

    def change(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str) -> JSON:
        """Ask for a change and return what it gave. Not repeated if the answer is lost.

        Raises:
            CliError: the gateway does not answer; ApiError: it refuses.
        """
        return self._json(method, path, json=body, params=query)

    def upload(self, path: Path, progress: Progress) -> str:
        """Send a file; return its id, `file-…`.

        Raises:
            CliError: the file cannot be read, the gateway does not answer, or it refuses.
        """
        try:
            with path.open("rb") as file:
                files = {"file": (path.name, _Counted(file, progress), "application/octet-stream")}
                answer = self._json(
                    "POST",
                    "/v1/files",
                    files=files,
                    data={"purpose": "fine-tune"},
                    timeout=httpx.Timeout(600, connect=5),
                )
        except OSError as error:
            raise CliError(
                f"{path} cannot be read: {error.strerror}", remedy="Check the path and its rights."
            ) from error
        return str(answer["id"])

    def download(self, path: str, target: Path) -> None:
        """Write what lies at a path into a file.

        Raises:
            CliError: the gateway does not answer; ApiError: it refuses.
        """
        try:
            with (
                self._http.stream("GET", path, timeout=httpx.Timeout(600, connect=5)) as response,
                target.open("wb") as file,
            ):
                _raise_for_refusal(response)
                for data in response.iter_bytes():
                    file.write(data)
        except httpx.HTTPError as error:
            raise self._unreachable(str(error)) from error

    def check(self, recipe: Mapping[str, Any]) -> None:
        """Let the gateway look for unknown fields and wrong types before anything is uploaded.

        Raises:
            ApiError: it found some. Files that are not there yet are no fault.
        """
        checked = _with_absent_files(recipe)
        if "stages" in recipe:
            checked["stages"] = [_with_absent_files(stage) for stage in recipe["stages"]]
        body = {"recipe": checked, "validate_only": True}
        try:
            self._json("POST", "/v1/runs", json=body, timeout=120)
        except ApiError as error:
            if not all(_FILE.fullmatch(field) for field, _ in error.violations):
                raise

    def submit(self, recipe: Mapping[str, Any]) -> JSON:
        """Start a run and return it; a lost answer is asked for again without starting a second run."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        try:
            return self._json("POST", "/v1/runs", json={"recipe": recipe}, headers=headers, timeout=120)
        except ApiError:
            raise
        except CliError:
            time.sleep(1)
            return self._json("POST", "/v1/runs", json={"recipe": recipe}, headers=headers, timeout=120)

    def run(self, run_id: str) -> JSON:
        """Return a run with its stages."""
        return self.get(f"/v1/runs/{run_id}")

    def cancel(self, run_id: str) -> JSON:
        """Ask a run to end and return it."""
        return self._json("POST", f"/v1/runs/{run_id}/cancel")

    def pause(self, run_id: str) -> JSON:
        """Ask a run to stop working until it is resumed, and return it."""
        return self._json("POST", f"/v1/runs/{run_id}/pause")

    def resume(self, run_id: str) -> JSON:
        """Let a paused run go on, and return it."""
        return self._json("POST", f"/v1/runs/{run_id}/resume")

    def events(self, run_id: str, *, after: int = 0, lost: Callable[[str], None] | None = None) -> Iterator[JSON]:
        """Yield a run's events in order until it ends; a lost connection is taken up where it broke.

        Args:
            run_id: the run.
            after: events with a greater sequence number are told.
            lost: told why, each time the connection is lost.

        Raises:
            CliError: the gateway stays away for ten minutes, or refuses.
        """
        failures, away_since = 0, time.monotonic()
        while True:
            try:
                for event in self._event_stream(run_id, after):
                    after, failures, away_since = int(event["sequence"]), 0, time.monotonic()
                    yield event
                    if event["type"] == "run" and event.get("data", {}).get("state") in TERMINAL:
                        return
                why = "the gateway ended the stream"
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
            except ApiError as error:
                if error.status < httpx.codes.INTERNAL_SERVER_ERROR:
                    raise
                why = error.message
            if time.monotonic() - away_since > PATIENCE_SECONDS:
                raise self._unreachable(why)
            failures += 1
            if lost is not None and failures > 1:
                lost(why)
            time.sleep(min(0.25 * 2**failures, LONGEST_PAUSE_SECONDS))

    def chat(self, model: str, messages: list[JSON], **settings: Any) -> Iterator[str]:  # noqa: ANN401 - OpenAI's settings
        """Yield the pieces of an answer as they come.

        Raises:
            CliError: the gateway does not answer, refuses, or the answer breaks off.
        """
        body = {"model": model, "messages": messages, "stream": True, **settings}
        timeout = httpx.Timeout(600, connect=5)
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body, timeout=timeout) as response:
                _raise_for_refusal(response)
                for data in server_sent_data(response.iter_lines()):
                    if data == "[DONE]":
                        return
                    yield from _pieces(json.loads(data))
        except httpx.HTTPError as error:
            raise self._unreachable(str(error)) from error
        raise CliError("the answer broke off", remedy="Ask again; `tunewright logs inference` may say why.")

    def _event_stream(self, run_id: str, after: int) -> Iterator[JSON]:
        timeout = httpx.Timeout(EVENT_SILENCE_SECONDS, connect=5)
        path = f"/v1/runs/{run_id}/events"
        headers = {"Accept": "text/event-stream"}
        with self._http.stream("GET", path, params={"after": after}, headers=headers, timeout=timeout) as response:
            _raise_for_refusal(response)
            for data in server_sent_data(response.iter_lines()):
                event = json.loads(data) if data != "[DONE]" else {}
                if "sequence" in event:
                    yield event

    def _json(self, method: str, path: str, **request: Any) -> JSON:  # noqa: ANN401 - httpx's own keywords
        try:
            response = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise self._unreachable(str(error)) from error
        _raise_for_refusal(response)
        document: JSON = response.json()
        return document

    def _unreachable(self, why: str) -> CliError:
        remedy = "Is the stack up? `tunewright status` shows it, `tunewright up` starts it."
        return CliError(f"{self.endpoint.url} ({self.endpoint.origin}) does not answer: {why}", remedy=remedy)


class _Counted:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._progress(len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


def server_sent_data(lines: Iterator[str]) -> Iterator[str]:
    """Yield the data of each server-sent event; comments, names and numbers are passed over."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def _pieces(chunk: JSON) -> Iterator[str]:
    if "error" in chunk:
        raise ApiError(httpx.codes.BAD_GATEWAY, chunk)
    for choice in chunk.get("choices", ()):
        if text := choice.get("delta", {}).get("content"):
            yield text


def _raise_for_refusal(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        document = response.json()
    except ValueError:
        document = {}
    raise ApiError(response.status_code, document if isinstance(document, dict) else {})


def _with_absent_files(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe, or a stage of one, whose local files are replaced by an upload that does not exist."""
    absent = f"file-{'0' * 64}"
    if "data" not in part:
        return dict(part)
    data = [
        item if "file" in item else {key: value for key, value in item.items() if key != "path"} | {"file": absent}
        for item in part["data"]
    ]
    return {**part, "data": data}
