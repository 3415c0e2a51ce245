"""The gateway's own tables and the engine they live in: SQLite in a file, or PostgreSQL.

They share the database with DBOS's tables and never touch those. Knows nothing of what the rows mean.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from tunewright.chassis.errors import Unavailable

_METADATA = sa.MetaData()

RUNS = sa.Table(
    "gateway_runs",
    _METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, index=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("failure", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
)
STAGES = sa.Table(
    "gateway_run_stages",
    _METADATA,
    sa.Column("run_id", sa.String(64), sa.ForeignKey(RUNS.c.id), primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("service", sa.String(32)),
    sa.Column("job_id", sa.String(64), index=True),
    sa.Column("deployment", sa.String(128)),
    sa.Column("result", sa.String(128)),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
)
EVENTS = sa.Table(
    "gateway_run_events",
    _METADATA,
    sa.Column("run_id", sa.String(64), sa.ForeignKey(RUNS.c.id), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("stage", sa.String(32)),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("job_id", sa.String(64)),
    sa.Column("job_sequence", sa.Integer),
    sa.UniqueConstraint("run_id", "job_id", "job_sequence"),
)
ALIASES = sa.Table(
    "gateway_aliases",
    _METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("deployment", sa.String(128), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
)
OWNERS = sa.Table(
    "gateway_owners",
    _METADATA,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("project", sa.String(32), nullable=False),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
FILES = sa.Table(
    "gateway_files",
    _METADATA,
    sa.Column("project", sa.String(32), primary_key=True),
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("key_id", sa.String(64), nullable=False, index=True),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
)
UPLOADS = sa.Table(
    "gateway_uploads",
    _METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("project", sa.String(32), nullable=False),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("mime_type", sa.Text, nullable=False),
    sa.Column("file_expires_after", sa.Integer),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("file_id", sa.String(80)),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)
PARTS = sa.Table(
    "gateway_upload_parts",
    _METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("upload_id", sa.String(64), sa.ForeignKey(UPLOADS.c.id), nullable=False, index=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
JOBS = sa.Table(
    "gateway_fine_tuning_jobs",
    _METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("project", sa.String(32), nullable=False, index=True),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False, unique=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("base_model", sa.Text, nullable=False),
    sa.Column("base_deployment", sa.String(128), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("cancelled_at", sa.Float),
    sa.Column("trained_tokens", sa.BigInteger),
    sa.Column("result_files", sa.Text),
    sa.Column("model_deleted_at", sa.Float),
)
USAGE = sa.Table(
    "gateway_usage",
    _METADATA,
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("project", sa.String(32), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
)
VERSIONS = sa.Table(
    "gateway_versions",
    _METADATA,
    sa.Column("alias", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("deployment", sa.String(128), nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("adapter", sa.String(128)),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("weight", sa.Float, nullable=False),
    sa.Column("rules", sa.Text, nullable=False),
    sa.Column("live", sa.Boolean, nullable=False, index=True),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Column("served_at", sa.Float),
)
CHANGES = sa.Table(
    "gateway_alias_changes",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("alias", sa.String(64), nullable=False, index=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("who", sa.String(128), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)


class Database:
    """Transactions on the gateway's tables. Thread-safe.

    Args:
        url: sqlite:///FILE or postgresql://…
    """

    def __init__(self, url: str) -> None:
        self.url = with_driver(url)
        if self.url.startswith("sqlite"):
            _make_folder(self.url)
        self._engine = sa.create_engine(self.url, pool_pre_ping=True)
        if self._engine.dialect.name == "sqlite":
            _tune_sqlite(self._engine)
        with self._mapped():
            _METADATA.create_all(self._engine)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that is committed at the end of the block.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._mapped(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a connection for statements that only read; takes no lock.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._mapped(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
                raise
            raise Unavailable(
                f"the gateway's database does not answer: {error.orig}",
                remedy="Check TUNEWRIGHT_DATABASE_URL and that the database is up; runs go on when it is back.",
            ) from error


def with_driver(url: str) -> str:
    """Return `url` with the driver that is installed: psycopg 3 for PostgreSQL."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return f"postgresql+psycopg://{url.removeprefix(scheme)}"
    return url


def _make_folder(url: str) -> None:
    database = sa.make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)


def _tune_sqlite(engine: sa.Engine) -> None:
    """Readers beside one writer (WAL), and transactions that take the write lock at their start instead of midway."""

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA busy_timeout=30000")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
