"""What each key has used, by day: requests and tokens. Counted in memory, added to the database every few seconds.

A process that is killed loses what it counted since; one that drains loses nothing. Knows nothing of limits.
"""

import logging
import threading
import time
from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunewright.chassis.errors import Unavailable
from tunewright.gateway.database import USAGE, Database
from tunewright.gateway.keys import KeyRecord

_FLUSH_SECONDS = 2.0
_FIGURES = ("requests", "input_tokens", "output_tokens")

_log = logging.getLogger(__name__)


class Usage:
    """The counters. Thread-safe; counting never waits for the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._fresh: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="usage", daemon=True)

    def launch(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what is counted, once more."""
        self._closing.set()
        self.flush()

    def count(self, key: KeyRecord, *, requests: int = 0, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Add to a key's figures of today (UTC)."""
        day = time.strftime("%Y-%m-%d", time.gmtime())
        with self._lock:
            figures = self._fresh[key.id, key.project, day]
            for place, value in enumerate((requests, input_tokens, output_tokens)):
                figures[place] += value

    def flush(self) -> None:
        """Add what was counted to the database; it is kept and tried again if that does not answer."""
        with self._lock:
            taken, self._fresh = self._fresh, defaultdict(lambda: [0, 0, 0])
        if not taken:
            return
        for name, figures in taken.items():
            try:
                with self._database.write() as connection:
                    _add(connection, *name, figures)
            except (Unavailable, IntegrityError) as error:  # another replica may have begun the same day just now
                _log.warning("usage of a key is written a little later: %s", type(error).__name__)
                with self._lock:
                    self._fresh[name] = [a + b for a, b in zip(self._fresh[name], figures, strict=True)]

    def of_project(self, project: str, since: str) -> list[dict[str, Any]]:
        """Return one entry a key and day, from a day (YYYY-MM-DD) on, newest day first."""
        self.flush()
        query = (
            sa.select(USAGE)
            .where(USAGE.c.project == project, USAGE.c.day >= since)
            .order_by(USAGE.c.day.desc(), USAGE.c.key_id)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            {"key_id": row.key_id, "day": row.day} | {name: getattr(row, name) for name in _FIGURES} for row in rows
        ]

    def _keep(self) -> None:
        while not self._closing.wait(_FLUSH_SECONDS):
            self.flush()


def _add(connection: sa.Connection, key_id: str, project: str, day: str, figures: list[int]) -> None:
    where = (USAGE.c.key_id == key_id, USAGE.c.project == project, USAGE.c.day == day)
    added = {name: USAGE.c[name] + value for name, value in zip(_FIGURES, figures, strict=True)}
    if connection.execute(USAGE.update().where(*where).values(**added)).rowcount == 0:
        values = dict(zip(_FIGURES, figures, strict=True))
        connection.execute(USAGE.insert().values(key_id=key_id, project=project, day=day, **values))
