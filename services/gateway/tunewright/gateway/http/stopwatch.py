"""Times one answer on its way through: the first piece, the pace of those after it, how it ended. Reads no text."""

import time

from tunewright.gateway.traffic import Key, Traffic

_EVENT_END = b"\n\n"
ERROR_EVENT = b'data: {"error"'
"""Never within an answer's text, where quotes are escaped."""
_FRAME_EVENTS = 3
"""Of a stream's events, those that carry no token: the role before, the usage or the finish and [DONE] after."""


class Stopwatch:
    """One answer of a version.

    Args:
        traffic: where the figures go.
        version: alias and number, None if it is no version's answer.
        blamed: versions that this request counted an error of, in this try or one before; each is counted once.
    """

    def __init__(self, traffic: Traffic, version: Key | None, blamed: set[Key]) -> None:
        self._traffic = traffic
        self._version = version
        self._blamed = blamed
        self._started = time.perf_counter()
        self._first = self._last = 0.0
        self._events = 0
        self._broken = False
        self._whole_token: float | None = None

    def piece(self, data: bytes) -> None:
        """See a piece of a stream."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._events += data.count(_EVENT_END)
        self._broken = self._broken or ERROR_EVENT in data

    def whole(self, tokens: int) -> None:
        """See the end of an answer that is no stream; without the number of its tokens it says nothing of its pace."""
        if tokens > 0:
            self._whole_token = (time.perf_counter() - self._started) / tokens

    def end(self, *, ok: bool) -> None:
        """Keep the figures; `ok` is False if the version is to blame."""
        if not ok or self._broken:
            self.blame(self._version)
            return
        gaps = self._events - _FRAME_EVENTS
        self._traffic.record(
            self._version,
            ok=True,
            ttft=self._first - self._started if self._first else None,
            per_token=(self._last - self._first) / gaps if gaps > 0 else None,
            whole_token=self._whole_token,
        )

    def blame(self, version: Key | None) -> None:
        """Count an error of a version, once a request."""
        if version is not None and version not in self._blamed:
            self._blamed.add(version)
            self._traffic.record(version, ok=False)
