"""The reporter a stage gets: writes what the stage says to a sink, keeps its checkpoints, hears SIGTERM.

Used by `child.py` (sink: a file that the service reads) and `alone.py` (sink: the terminal). Knows nothing of either.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import Interrupted
from tunewright.chassis.stage import Severity

Sink = Callable[[dict[str, Any]], None]


class StageReporter:
    """Implements `stage.Reporter`.

    Args:
        sink: gets one JSON-able mapping an event: time, type, message, severity, data.
        checkpoints: folder for the stage's checkpoints, holds the newest valid one on a resume.
        outbox: complete checkpoints are hard-linked here for the service to upload; None keeps them local.
        runtime: facts of this run that are not part of the job's identity.
    """

    def __init__(self, sink: Sink, checkpoints: Path, outbox: Path | None, runtime: Mapping[str, Any]) -> None:
        self._sink = sink
        self._checkpoints = checkpoints
        self._outbox = outbox
        self._runtime = dict(runtime)
        self._stop = threading.Event()
        self._handed = 0
        checkpoints.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's own checkpoints."""
        return self._checkpoints

    @property
    def runtime(self) -> Mapping[str, Any]:
        """Facts of this run; `manifests` holds the manifest of each input by name."""
        return self._runtime

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Tell how far the stage is."""
        text = " ".join(_words(name, value) for name, value in figures.items())
        data = {"step": step, "total": total, "unit": unit, **figures}
        self._say("progress", f"{step}/{total} {unit} {text}".rstrip(), Severity.INFO, data)

    def event(self, type_: str, message: str, *, severity: Severity = Severity.INFO, **data: Any) -> None:  # noqa: ANN401
        """Tell that something happened."""
        self._say(type_, message, severity, data)

    def checkpoint(self, directory: Path, step: int) -> None:
        """Hand over a complete checkpoint."""
        if self._outbox is not None:
            self._handed += 1
            _link_tree(directory, self._outbox / handed_name(step, self._handed))
        data = {"step": step, "handed": self._handed}
        self._say("checkpoint", f"checkpoint after step {step} written", Severity.INFO, data)

    def stop_requested(self) -> bool:
        """Return True after SIGTERM."""
        return self._stop.is_set()

    def raise_if_stopped(self) -> None:
        """Raise Interrupted after SIGTERM."""
        if self._stop.is_set():
            raise Interrupted("stopped before its end")

    def stop_on_signals(self) -> None:
        """Request a stop on SIGTERM and SIGINT, in place of dying at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    def _say(self, type_: str, message: str, severity: Severity, data: Mapping[str, Any]) -> None:
        event = {"time": time.time(), "type": type_, "message": message, "severity": severity.value, "data": dict(data)}
        self._sink(event)


def handed_name(step: int, number: int) -> str:
    """Return the folder in the outbox of the checkpoint that was handed over as the nth, from 1.

    A checkpoint may be handed over again with other figures in it while the first is still on its way to the store.
    """
    return f"checkpoint-{step}-{number}"


def _words(name: str, value: float) -> str:
    """Return a figure for people; bytes in GB (10^9)."""
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')}={value / 1e9:.2f}GB"
    return f"{name}={value:.4g}"


def _link_tree(source: Path, target: Path) -> None:
    """Make `target` appear at once, complete, with hard links to the files of `source`."""
    partial = target.with_name(target.name + ".partial")
    for file in source.rglob("*"):
        if file.is_file():
            copy = partial / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, copy)
    partial.rename(target)
