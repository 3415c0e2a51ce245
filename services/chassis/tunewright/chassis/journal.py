"""The events of one job: numbered from 1 without gaps, kept in the store, followed live.

What a watcher sees is already in the store: a restart of the service can neither lose an event that was seen nor give
its number to another. Events are written in groups, at most one group a second; while the store is down they wait.

Knows nothing of how a job is run.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from tunewright.artifacts import ObjectNotFound, Store, StoreUnavailable
from tunewright.artifacts.layout import job_prefix
from tunewright.chassis.records import State

Event = dict[str, Any]
"""sequence, time (Unix seconds), type, message, severity, data, state."""

_FLUSH_SECONDS = 1.0
_RETRY_SECONDS = 2.0


class Journal:
    """Append to, and follow, the events of a job that this service runs. Thread-safe."""

    def __init__(self, store: Store, service: str, job_id: str) -> None:
        self._store = store
        self._prefix = f"{job_prefix(service, job_id)}events/"
        self._durable = read(store, service, job_id)
        self._waiting: list[Event] = []
        self._changed = threading.Condition()
        self._closing = False
        self._closed = False
        self._writer = threading.Thread(target=self._write_groups, name=f"journal-{job_id[:8]}", daemon=True)
        self._writer.start()

    @property
    def last_sequence(self) -> int:
        """Number of the newest event in the store, 0 if there is none."""
        return len(self._durable)

    def append(self, state: State, type_: str, message: str, severity: str = "info", **data: Any) -> None:  # noqa: ANN401
        """Add an event; it is seen once it is in the store."""
        with self._changed:
            sequence = len(self._durable) + len(self._waiting) + 1
            self._waiting.append(
                {
                    "sequence": sequence,
                    "time": time.time(),
                    "type": type_,
                    "message": message,
                    "severity": severity,
                    "data": data,
                    "state": state.value,
                }
            )
            self._changed.notify_all()

    def close(self, patience_seconds: float) -> None:
        """Write what waits, let the watchers end, and stop; waits at most `patience_seconds` for the store."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join(patience_seconds)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if not self._waiting:
            self._compact()

    def follow(self, after_sequence: int) -> Iterator[Event | None]:
        """Yield the events after a number, then new ones as they come; None about once a second while nothing comes."""
        position = after_sequence
        while True:
            with self._changed:
                if position >= len(self._durable) and not self._closed:
                    self._changed.wait(1.0)
                fresh = self._durable[position:]
                ended = self._closed
            yield from fresh
            position += len(fresh)
            if ended and not fresh:
                return
            if not fresh:
                yield None

    def _write_groups(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                group = list(self._waiting)
                closing = self._closing
            if group:
                self._write(group)
            elif closing:
                return
            if not closing:
                time.sleep(_FLUSH_SECONDS)

    def _write(self, group: list[Event]) -> None:
        try:
            self._store.put_bytes(_segment(self._prefix, group[0]["sequence"]), _to_lines(group))
        except StoreUnavailable:
            logging.getLogger(__name__).warning("events wait: the object store does not answer")
            time.sleep(_RETRY_SECONDS)
            return
        with self._changed:
            del self._waiting[: len(group)]
            self._durable += group
            self._changed.notify_all()

    def _compact(self) -> None:
        """Leave one object: a job of an hour has thousands of groups."""
        if not self._durable:
            return
        first = _segment(self._prefix, 1)
        try:
            self._store.put_bytes(first, _to_lines(self._durable))
            for info in list(self._store.list(self._prefix)):
                if info.key != first:
                    self._store.delete(info.key)
        except StoreUnavailable:
            logging.getLogger(__name__).warning("events stay in pieces: the object store does not answer")


def read(store: Store, service: str, job_id: str) -> list[Event]:
    """Return all events of a job in the store, in order; a job that is compacted right now is read whole as well."""
    prefix = f"{job_prefix(service, job_id)}events/"
    while True:
        try:
            segments = [store.get_bytes(info.key) for info in list(store.list(prefix))]
        except ObjectNotFound:
            continue  # compacted between listing and reading: the first segment now holds everything
        events = (json.loads(line) for segment in segments for line in segment.splitlines())
        by_number = {event["sequence"]: event for event in events}
        return [by_number[number] for number in sorted(by_number)]


def _segment(prefix: str, sequence: int) -> str:
    return f"{prefix}{sequence:020d}.jsonl"


def _to_lines(events: list[Event]) -> bytes:
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)
