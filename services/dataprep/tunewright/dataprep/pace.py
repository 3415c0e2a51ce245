"""Tells how far reading is, about twice a second, and hears the wish to stop. Knows rows and bytes only."""

import time

from tunewright.chassis.stage import Reporter

_SECONDS = 0.5
_ROWS_BETWEEN_LOOKS = 64


class Pace:
    """Progress in rows; their total is estimated from the bytes read and exact at the end.

    Args:
        total_bytes: size of all files.
        report: where progress goes.
    """

    def __init__(self, total_bytes: int, report: Reporter) -> None:
        self._total = total_bytes
        self._report = report
        self._before = 0
        self._started = self._told = time.monotonic()

    def tick(self, rows: int, offset: int) -> None:
        """Say that `rows` rows are done in all, and `offset` bytes of the present file.

        Raises:
            Interrupted: a stop was requested.
        """
        if rows % _ROWS_BETWEEN_LOOKS:
            return
        now = time.monotonic()
        if now - self._told < _SECONDS:
            return
        self._told = now
        self._report.raise_if_stopped()
        share = (self._before + offset) / self._total
        seconds = now - self._started
        self._report.progress(
            rows,
            max(rows, round(rows / share)),
            unit="rows",
            rows_per_second=rows / seconds,
            eta_seconds=seconds / share - seconds,
        )

    def file_done(self, size_bytes: int) -> None:
        """Say that the present file is read to its end."""
        self._before += size_bytes

    def finish(self, rows: int) -> None:
        """Say that all rows are read.

        Raises:
            Interrupted: a stop was requested.
        """
        self._report.raise_if_stopped()
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._report.progress(rows, rows, unit="rows", rows_per_second=rows / seconds, eta_seconds=0.0)
