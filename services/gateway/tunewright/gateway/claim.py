"""One process an executor id: the name under which interrupted runs are taken up is claimed before any run is.

Two gateways of one name on one database would both take up the same runs. The claim is a lock that ends with its
holder, however that dies: flock on a file beside SQLite's, a session's advisory lock in PostgreSQL. Knows no run.
"""

import fcntl
import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tunewright.chassis.errors import Conflict, Unavailable
from tunewright.gateway.database import with_driver

_WAIT_SECONDS = 3.0
"""A predecessor that was told to end, or killed a moment ago, gives the name back within these."""
_POLL_SECONDS = 0.2
_CHECK_SECONDS = 2.0
"""PostgreSQL forgets a session's locks when the connection breaks; that is noticed, and mended, this often."""
_KEEPALIVES = ("tcp_keepalives_idle=10", "tcp_keepalives_interval=5", "tcp_keepalives_count=3")
"""A holder whose machine vanished is given up after 25 s instead of PostgreSQL's two hours."""

_log = logging.getLogger(__name__)


class _Lock(Protocol):
    def take(self) -> str | None:
        """Take it and return None, or return who has it."""

    def close(self) -> None:
        """Give it back."""


def claim(database_url: str, executor_id: str, *, on_lost: Callable[[], None], wait: float = _WAIT_SECONDS) -> "Claim":
    """Claim `executor_id` in a database for this process.

    Args:
        database_url: sqlite:///FILE or postgresql://…
        executor_id: the name.
        on_lost: called from a thread if the claim was lost and another process has it now.
        wait: seconds that a predecessor is given to end.

    Raises:
        Conflict: another process has the name; it is named.
        Unavailable: the database does not answer.
    """
    lock = _lock(with_driver(database_url), executor_id)
    deadline = time.monotonic() + wait
    while (holder := lock.take()) is not None:
        if time.monotonic() > deadline:
            lock.close()
            raise Conflict(
                f"another gateway already works under the executor id {executor_id!r} in this database: {holder}",
                remedy="Stop it, or give this one a TUNEWRIGHT_EXECUTOR_ID, or a TUNEWRIGHT_DATABASE_URL, of its own.",
            )
        time.sleep(_POLL_SECONDS)
    return Claim(lock, executor_id, on_lost)


class Claim:
    """A claimed name. It is kept until `close`, or until the process ends."""

    def __init__(self, lock: _Lock, executor_id: str, on_lost: Callable[[], None]) -> None:
        self._lock = lock
        self._executor_id = executor_id
        self._on_lost = on_lost
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._keep, name="executor-claim", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Give the name back."""
        self._closing.set()
        self._watch.join()
        self._lock.close()

    def _keep(self) -> None:
        """Take the lock again where a broken connection lost it; nobody goes on beside another holder."""
        while not self._closing.wait(_CHECK_SECONDS):
            try:
                holder = self._lock.take()
            except Unavailable:
                continue  # without its database no gateway works, so nothing is lost yet
            if holder is not None:
                _log.critical("the executor id %r was taken over: %s", self._executor_id, holder)
                self._on_lost()
                return


def _lock(url: str, executor_id: str) -> _Lock:
    if not url.startswith("sqlite"):
        return _SessionLock(url, executor_id)
    return _FileLock(Path(f"{sa.make_url(url).database}.{hashlib.sha256(executor_id.encode()).hexdigest()[:12]}.lock"))


class _FileLock:
    """Held by an open file, so the system gives it back when the process dies. Its text says who has it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+")
        self._held = False

    def take(self) -> str | None:
        """Lock the file and return None, or return what its holder wrote."""
        if self._held:
            return None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            return self._file.read() or "a process that is just starting"
        self._held = True
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        return None

    def close(self) -> None:
        """Close the file, and with it the lock."""
        self._file.close()


class _SessionLock:
    """Held by one connection, which is used for nothing else."""

    def __init__(self, url: str, executor_id: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        digest = hashlib.sha256(f"tunewright.gateway:{executor_id}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._connection: sa.Connection | None = None

    def take(self) -> str | None:
        """Lock in the session and return None, or return whose session has it. Raises Unavailable."""
        try:
            if self._connection is not None:
                self._connection.execute(sa.select(1))
                return None
            return self._connect()
        except DBAPIError as error:
            self._forget()
            raise Unavailable(
                f"the gateway's database does not answer: {error.orig}",
                remedy="Check TUNEWRIGHT_DATABASE_URL and that the database is up.",
            ) from error

    def close(self) -> None:
        """End the session, and with it the lock."""
        self._forget()
        self._engine.dispose()

    def _connect(self) -> str | None:
        connection = self._engine.connect()
        for setting in _KEEPALIVES:
            connection.exec_driver_sql(f"SET {setting}")
        name = f"tunewright gateway, process {os.getpid()} on {socket.gethostname()}"[:63]
        connection.execute(sa.select(sa.func.set_config("application_name", name, False)))
        if connection.execute(sa.select(sa.func.pg_try_advisory_lock(self._key))).scalar():
            self._connection = connection
            return None
        holder = connection.execute(_HOLDER, {"key": self._key}).scalar()
        connection.close()
        return str(holder or "a process that is just ending")

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


_HOLDER = sa.text(
    "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' "
    "AND l.granted AND l.objsubid = 1 AND ((l.classid::bigint << 32) | l.objid::bigint) = :key "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
