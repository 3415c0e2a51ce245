"""The processes of these tests: rooms and gateways that are started, killed and started again on the same ports."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tunewright.gateway import keys

START_SECONDS = 60.0
BOOTSTRAP_KEY = "a-key-of-one-test-session"


class Process:
    """A program that writes its addresses to a ready file."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self._arguments = arguments
        self._environment = environment
        self.folder = folder
        self.addresses: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return once it serves; it keeps the ports it had before."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        environment = {**os.environ, **self._environment, "TUNEWRIGHT_READY_FILE": str(ready), **self._ports()}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-W", "error", *self._arguments],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def wait_until_ready(self) -> None:
        """Return once it serves."""
        assert self._process is not None
        ready = self.folder / "ready.json"
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._arguments} does not come up: {self.log()[-3000:]}")
            time.sleep(0.05)
        self.addresses = json.loads(ready.read_text())

    @property
    def pid(self) -> int:
        """Id of its process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return what it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def terminate(self) -> int:
        """Ask it to end; return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def _ports(self) -> dict[str, str]:
        names = {"grpc": "TUNEWRIGHT_LISTEN", "http": "TUNEWRIGHT_HTTP_LISTEN", "metrics": "TUNEWRIGHT_METRICS_LISTEN"}
        return {variable: str(self.addresses.get(name, "127.0.0.1:0")) for name, variable in names.items()}


def room(name: str, store: dict[str, str], folder: Path) -> Process:
    """Return one room, not started."""
    environment = {**store, "TUNEWRIGHT_WORK_DIR": str(folder / "work"), "TUNEWRIGHT_STOP_GRACE_SECONDS": "3"}
    return Process(["-m", "tests.gateway.room_process", name], environment, folder)


class Gateway(Process):
    """A gateway, and a client that has its key."""

    def __init__(self, rooms: dict[str, Process], store: dict[str, str], folder: Path, **settings: str) -> None:
        environment = {
            **store,
            **{f"TUNEWRIGHT_{name.upper()}_ADDRESS": process.addresses["grpc"] for name, process in rooms.items()},
            "TUNEWRIGHT_WORK_DIR": str(folder / "work"),
            "TUNEWRIGHT_DATABASE_URL": f"sqlite:///{folder}/gateway.sqlite",
            "TUNEWRIGHT_API_KEYS_FILE": str(folder / "keys.json"),
            "TUNEWRIGHT_BOOTSTRAP_API_KEY": BOOTSTRAP_KEY,
            "TUNEWRIGHT_INFERENCE_ENGINE_KEY": "key-of-the-engines",
            "TUNEWRIGHT_STOP_GRACE_SECONDS": "10",
            "TUNEWRIGHT_RECOVERY_WAIT_SECONDS": "0",
            **{f"TUNEWRIGHT_{name.upper()}": value for name, value in settings.items()},
        }
        super().__init__(["-m", "tunewright.gateway"], environment, folder)

    @property
    def url(self) -> str:
        """Root of its HTTP server."""
        return f"http://{self.addresses['http']}"

    def client(self, key: str = BOOTSTRAP_KEY) -> httpx.Client:
        """Return a client; close it."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def key(self, name: str, **settings: Any) -> str:  # noqa: ANN401 - of keys.create
        """Make a key that opens the running gateway; return it."""
        return keys.create(self.folder / "keys.json", name, **settings)

    def get(self, path: str, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON at a path that must exist."""
        with self.client() as client:
            answer = client.get(path, params=query)
            assert answer.status_code == httpx.codes.OK, answer.text
            return answer.json()

    def post(self, path: str, document: object = None) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON that a post must get."""
        with self.client() as client:
            answer = client.post(path, json=document)
            assert answer.is_success, answer.text
            return answer.json()

    def upload(self, text: str = '{"a": 1}\n', name: str = "rows.jsonl") -> str:
        """Upload a file; return its id."""
        with self.client() as client:
            answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, text.encode())})
            assert answer.status_code == httpx.codes.OK, answer.text
            return str(answer.json()["id"])

    def submit(self, recipe: dict[str, Any]) -> str:
        """Start a run; return its id."""
        return str(self.post("/v1/runs", {"recipe": recipe})["id"])

    def wait(self, run_id: str, *states: str, stage: str | None = None, seconds: float = 60) -> Any:  # noqa: ANN401 - JSON
        """Return the run once it has one of these states, or is in this stage."""
        deadline = time.monotonic() + seconds
        while True:
            run = self.get(f"/v1/runs/{run_id}")
            if run["state"] in states or (stage is not None and run["stage"] == stage):
                return run
            assert run["state"] not in {"succeeded", "failed", "cancelled"}, run
            assert time.monotonic() < deadline, f"still {run['state']} in {run['stage']}: {self.log()[-3000:]}"
            time.sleep(0.1)

    def events(self, run_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Return all events of a run, following it to its end."""
        stream = ("GET", f"/v1/runs/{run_id}/events")
        with self.client() as client, client.stream(*stream, params={"after": after}) as answer:
            data = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        return [json.loads(text) for text in data]


def recipe(name: str, file_id: str, **sections: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a recipe on the tiny base."""
    return {"name": name, "base_model": "tiny", "data": [{"file": file_id}], **sections}
