"""Which files a project has: who uploaded them, for what, until when. The bytes are upload artifacts in the store.

One artifact may be the file of several projects: the same bytes under the same name have one id. Knows no store.
"""

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tunewright.gateway.database import FILES, Database
from tunewright.gateway.keys import KeyRecord


class FileRecords:
    """The records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, key: KeyRecord, file_id: str, *, filename: str, size_bytes: int, purpose: str, expires_at: float | None
    ) -> None:
        """Note a file of the key's project; the same file again keeps its date and takes the new expiry."""
        where = (FILES.c.project == key.project, FILES.c.id == file_id)
        values = {
            "project": key.project, "id": file_id, "key_id": key.id, "filename": filename, "bytes": size_bytes,
            "purpose": purpose, "created_at": time.time(), "expires_at": expires_at,
        }  # fmt: skip
        try:
            with self._database.write() as connection:
                if connection.execute(FILES.update().where(*where).values(expires_at=expires_at)).rowcount == 0:
                    connection.execute(FILES.insert().values(**values))
        except IntegrityError:
            return  # the same file came through another replica at the same moment

    def get(self, project: str, file_id: str) -> sa.Row[Any] | None:
        """Return a project's record of a file, None if there is none or it has expired."""
        query = sa.select(FILES).where(FILES.c.project == project, FILES.c.id == file_id, _lives())
        with self._database.read() as connection:
            return connection.execute(query).first()

    def of_project(self, project: str) -> dict[str, sa.Row[Any]]:
        """Return id → record of the files that have not expired."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(FILES).where(FILES.c.project == project, _lives())).all()
        return {row.id: row for row in rows}

    def expired(self) -> list[sa.Row[Any]]:
        """Return the records of all projects whose time is over."""
        query = sa.select(FILES).where(FILES.c.expires_at.is_not(None), FILES.c.expires_at <= time.time())
        with self._database.read() as connection:
            return list(connection.execute(query).all())

    def known(self) -> set[str]:
        """Return the ids of all files of all projects."""
        with self._database.read() as connection:
            return set(connection.execute(sa.select(FILES.c.id).distinct()).scalars())

    def projects(self, file_id: str) -> set[str]:
        """Return the projects that have a file."""
        with self._database.read() as connection:
            return set(connection.execute(sa.select(FILES.c.project).where(FILES.c.id == file_id)).scalars())

    def remove(self, project: str, file_id: str) -> None:
        """Forget a project's record of a file; silent if there is none."""
        with self._database.write() as connection:
            connection.execute(FILES.delete().where(FILES.c.project == project, FILES.c.id == file_id))

    def stored_bytes(self, key_id: str) -> int:
        """Return the bytes of the files that were uploaded with a key."""
        query = sa.select(sa.func.coalesce(sa.func.sum(FILES.c.bytes), 0)).where(FILES.c.key_id == key_id, _lives())
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())


def _lives() -> sa.ColumnElement[bool]:
    return sa.or_(FILES.c.expires_at.is_(None), FILES.c.expires_at > time.time())
