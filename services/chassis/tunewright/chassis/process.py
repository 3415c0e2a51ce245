"""One run of a stage's process, seen from the service: start it, hear its events, stop it, read its result.

Knows nothing of stores and job records.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tunewright.artifacts import Manifest
from tunewright.chassis import leash
from tunewright.chassis.child import write_atomically
from tunewright.chassis.errors import Interrupted, StageDied, TunewrightError, from_dict

_POLL_SECONDS = 0.2
_LOG_TAIL_BYTES = 2000

EventHandler = Callable[[dict[str, Any]], None]


@dataclass
class StageProcess:
    """A stage in a process of its own, on a leash: it never outlives the service."""

    folder: Path
    """Scratch folder of this run; task.json is in it."""
    on_event: EventHandler
    on_memory: Callable[[int], None]
    """Called about once a second with the resident bytes of the whole process group."""
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _stop_deadline: float = field(default=float("inf"), init=False)

    def run(self, task: dict[str, Any]) -> Manifest:
        """Run the task and return the draft of its artifact; blocks until the process is gone.

        Raises:
            TunewrightError: what the stage raised.
            StageDied: the process ended without a result.
            Interrupted: it was stopped.
        """
        write_atomically(self.folder / "task.json", json.dumps(task).encode())
        for leftover in ("events.jsonl", "result.json"):
            (self.folder / leftover).unlink(missing_ok=True)
        with (self.folder / "stage.log").open("ab") as log:
            command = leash.command([sys.executable, "-m", "tunewright.chassis.child", str(self.folder)])
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            self._follow(self._child)
        finally:
            self._child.kill()
            self._child.wait()
            if self._child.stdin is not None:
                self._child.stdin.close()
        return self._result(self._child.returncode)

    def stop(self, grace_seconds: float) -> None:
        """Ask the stage to save what it has and end; after `grace_seconds` it is killed. Returns at once."""
        self._stop_deadline = time.monotonic() + grace_seconds
        self._stop.set()

    def _follow(self, child: subprocess.Popen[bytes]) -> None:
        asked, last_memory = False, 0.0
        events = _new_lines(self.folder / "events.jsonl")
        while True:
            ended = child.poll() is not None
            for line in next(events):
                self.on_event(json.loads(line))
            if ended:
                return
            if self._stop.is_set() and not asked:
                asked = True
                child.send_signal(signal.SIGTERM)
            if time.monotonic() > self._stop_deadline:
                return
            if time.monotonic() - last_memory > 1:
                last_memory = time.monotonic()
                self.on_memory(_resident_bytes(child.pid))
            time.sleep(_POLL_SECONDS)

    def _result(self, code: int) -> Manifest:
        path = self.folder / "result.json"
        if path.exists():
            result = json.loads(path.read_bytes())
            if "error" in result:
                raise from_dict(result["error"])
            return Manifest.model_validate(result["manifest"])
        if self._stop.is_set():
            raise Interrupted(f"killed: it did not end within its grace period (status {code})")
        raise self._death(code)

    def _death(self, code: int) -> TunewrightError:
        number = -code if code < 0 else code - 128
        how = f"by signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"with status {code}"
        memory = "; the machine may be out of memory" if number == signal.SIGKILL else ""
        tail = _tail(self.folder / "stage.log")
        return StageDied(f"the stage's process ended {how} without a result{memory}. Its last lines: {tail}")


def _new_lines(path: Path) -> Iterator[list[str]]:
    """Yield, each time it is asked, the complete lines that were added since the last time."""
    position = 0
    while True:
        lines: list[str] = []
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                data = file.read()
            complete = data[: data.rfind(b"\n") + 1]
            position += len(complete)
            lines = complete.decode().splitlines()
        yield lines


def _resident_bytes(pid: int) -> int:
    total = 0
    try:
        processes = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip() or "(none)"
