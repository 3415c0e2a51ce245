"""Tells how far reading is, about twice a second, and hears the wish to stop. Knows rows and bytes only."""

import time

from tunewright.chassis.stage import Reporter

_SECONDS = 0.5


class Pace:
    """Progress in rows; their total is estimated from the bytes read and exact at the end.

    Args:
        total_bytes: size of all files.
        report: where progress goes.
    """

    def __init__(self, total_bytes: int, report: Reporter) -> None:
        self._total = total_bytes
        self._report = report
        self._started = self._told = time.monotonic()

    def tick(self, rows: int, done: int) -> None:
        """Say that `rows` rows and `done` bytes are done in all.

        Raises:
            Interrupted: a stop was requested.
        """
        now = time.monotonic()
        if now - self._told < _SECONDS:
            return
        self._told = now
        self._report.raise_if_stopped()
        share = done / self._total
        seconds = now - self._started
        self._report.progress(
            rows,
            max(rows, round(rows / share)),
            unit="rows",
            rows_per_second=rows / seconds,
            eta_seconds=seconds / share - seconds,
        )

    def finish(self, rows: int) -> None:
        """Say that all rows are read.

        Raises:
            Interrupted: a stop was requested.
        """
        self._report.raise_if_stopped()
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._report.progress(rows, rows, unit="rows", rows_per_second=rows / seconds, eta_seconds=0.0)
