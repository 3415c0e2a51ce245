"""Whose a thing is: the project of each run, deployment and public name.

A run or deployment that nobody is noted for is the default project's. A public name is one project's from the first run
or version of it on, for as long as there is a trace of it. Notes stand in a table of their own, so that what was there
before there were projects needs no change.
"""

import time

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunewright.chassis.errors import Conflict
from tunewright.gateway.database import OWNERS, RUNS, VERSIONS, Database
from tunewright.gateway.keys import DEFAULT_PROJECT, KeyRecord

RUN = "run"
DEPLOYMENT = "deployment"
NAME = "name"


class Owners:
    """The notes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._note_names()

    def note(self, kind: str, identifier: str, key: KeyRecord) -> None:
        """Note that a thing is the project's whose key this is; the first note counts."""
        values = {"kind": kind, "id": identifier, "project": key.project, "key_id": key.id, "created_at": time.time()}
        try:
            with self._database.write() as connection:
                connection.execute(OWNERS.insert().values(**values))
        except IntegrityError:
            return

    def project(self, kind: str, identifier: str) -> str:
        """Return the project of a thing."""
        query = sa.select(OWNERS.c.project).where(OWNERS.c.kind == kind, OWNERS.c.id == identifier)
        with self._database.read() as connection:
            return str(connection.execute(query).scalar() or DEFAULT_PROJECT)

    def of_name(self, name: str) -> str | None:
        """Return the project of a public name, None if it is nobody's."""
        with self._database.read() as connection:
            return _noted(connection, NAME, name)

    def all(self, kind: str) -> dict[str, str]:
        """Return id → project of everything that somebody is noted for."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(OWNERS.c.id, OWNERS.c.project).where(OWNERS.c.kind == kind)).all()
        return {row.id: row.project for row in rows}

    def _note_names(self) -> None:
        """Note whose the names are that were there before names were noted: the first run's, or who deployed."""
        with self._database.write() as connection:
            noted = sa.select(OWNERS.c.id).where(OWNERS.c.kind == NAME)
            deployed = sa.select(VERSIONS.c.alias).where(VERSIONS.c.alias.not_in(noted)).distinct()
            names = set(connection.execute(deployed).scalars())
            made = sa.select(RUNS.c.id, RUNS.c.name).where(RUNS.c.name.not_in(noted)).order_by(RUNS.c.created_at)
            first: dict[str, str] = {}
            for row in connection.execute(made):
                first.setdefault(row.name, row.id)
            for name in sorted(names | set(first)):
                project = _noted(connection, RUN, alias_id(name))
                if project is None and name in first:
                    project = _noted(connection, RUN, first[name])
                claim(connection, NAME, name, project or DEFAULT_PROJECT)


def claim(connection: sa.Connection, kind: str, identifier: str, project: str, key_id: str = "") -> None:
    """Make a thing a project's within the caller's transaction; harmless if it is already.

    Raises:
        Conflict: it is another project's.
    """
    values = {"kind": kind, "id": identifier, "project": project, "key_id": key_id, "created_at": time.time()}
    if _noted(connection, kind, identifier) is None:
        try:
            with connection.begin_nested():  # another gateway may claim it in this very moment
                connection.execute(OWNERS.insert().values(**values))
        except IntegrityError:
            pass
    if _noted(connection, kind, identifier) != project:
        raise taken(identifier)


def claim_for_run(connection: sa.Connection, name: str, run_id: str) -> None:
    """Make a public name that of the project whose run this is. Raises Conflict."""
    claim(connection, NAME, name, _noted(connection, RUN, run_id) or DEFAULT_PROJECT)


def alias_id(alias: str) -> str:
    """Return what stands for the run of a name that no run made."""
    return f"alias:{alias}"


def taken(name: str) -> Conflict:
    """Return the error of a name that is another's."""
    return Conflict(f"the name {name!r} is taken", remedy="Choose another name.")


def _noted(connection: sa.Connection, kind: str, identifier: str) -> str | None:
    query = sa.select(OWNERS.c.project).where(OWNERS.c.kind == kind, OWNERS.c.id == identifier)
    return connection.execute(query).scalar()
