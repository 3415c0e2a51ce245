"""Whose a thing is: the project of each run and deployment. What nobody is noted for is the default project's.

Notes stand in a table of their own, so that what was there before there were projects needs no change.
"""

import time

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunewright.gateway.database import OWNERS, Database
from tunewright.gateway.keys import DEFAULT_PROJECT, KeyRecord

RUN = "run"
DEPLOYMENT = "deployment"


class Owners:
    """The notes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, kind: str, identifier: str, key: KeyRecord) -> None:
        """Note that a thing is the project's whose key this is; the first note counts."""
        values = {"kind": kind, "id": identifier, "project": key.project, "key_id": key.id, "created_at": time.time()}
        try:
            with self._database.write() as connection:
                connection.execute(OWNERS.insert().values(**values))
        except IntegrityError:
            return

    def forget(self, kind: str, identifier: str) -> None:
        """Remove a note; silent if there is none."""
        with self._database.write() as connection:
            connection.execute(OWNERS.delete().where(OWNERS.c.kind == kind, OWNERS.c.id == identifier))

    def project(self, kind: str, identifier: str) -> str:
        """Return the project of a thing."""
        query = sa.select(OWNERS.c.project).where(OWNERS.c.kind == kind, OWNERS.c.id == identifier)
        with self._database.read() as connection:
            return str(connection.execute(query).scalar() or DEFAULT_PROJECT)

    def all(self, kind: str) -> dict[str, str]:
        """Return id → project of everything that somebody is noted for."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(OWNERS.c.id, OWNERS.c.project).where(OWNERS.c.kind == kind)).all()
        return {row.id: row.project for row in rows}
