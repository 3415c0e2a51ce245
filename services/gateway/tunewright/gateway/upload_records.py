"""Uploads in parts: what was announced, which parts came, how each ended. Knows no bytes."""

import secrets
import time
from typing import Any

import sqlalchemy as sa

from tunewright.chassis.errors import Conflict, InvalidSpec, NotFound, Violation
from tunewright.gateway.database import PARTS, UPLOADS, Database
from tunewright.gateway.keys import KeyRecord

LIFE_SECONDS = 3600
"""An upload that is not completed within an hour expires."""


class UploadRecords:
    """The records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, key: KeyRecord, **values: Any) -> str:  # noqa: ANN401 - columns of the table
        """Add an upload; return its id."""
        upload_id, now = f"upload_{secrets.token_hex(12)}", time.time()
        with self._database.write() as connection:
            connection.execute(
                UPLOADS.insert().values(
                    id=upload_id,
                    project=key.project,
                    key_id=key.id,
                    status="pending",
                    created_at=now,
                    expires_at=now + LIFE_SECONDS,
                    **values,
                )
            )
        return upload_id

    def get(self, project: str, upload_id: str) -> sa.Row[Any]:
        """Return an upload of a project; one that is too old is `expired`. Raises NotFound."""
        with self._database.write() as connection:
            return _row(connection, project, upload_id)

    def pending(self, project: str, upload_id: str) -> sa.Row[Any]:
        """Return an upload that still takes parts. Raises NotFound, Conflict."""
        row = self.get(project, upload_id)
        _check_pending(row)
        return row

    def check_room(self, project: str, upload_id: str, size_bytes: int) -> None:
        """Refuse a part that is more than the upload announced. Raises NotFound, Conflict, InvalidSpec."""
        with self._database.write() as connection:
            _check_room(connection, project, upload_id, size_bytes)

    def add_part(self, project: str, upload_id: str, part_id: str, *, size_bytes: int, sha256: str) -> float:
        """Add a part; return its time. Raises NotFound, Conflict, InvalidSpec."""
        now = time.time()
        values = {"id": part_id, "upload_id": upload_id, "bytes": size_bytes, "sha256": sha256, "created_at": now}
        with self._database.write() as connection:
            _check_room(connection, project, upload_id, size_bytes)
            connection.execute(PARTS.insert().values(**values))
        return now

    def forget_parts(self, upload_id: str) -> None:
        """Forget the parts of an upload, once their bytes are gone."""
        with self._database.write() as connection:
            connection.execute(PARTS.delete().where(PARTS.c.upload_id == upload_id))

    def pending_bytes(self, key_id: str) -> int:
        """Return the bytes that a key's uploads announced that still take parts."""
        where = (UPLOADS.c.key_id == key_id, UPLOADS.c.status == "pending", UPLOADS.c.expires_at > time.time())
        query = sa.select(sa.func.coalesce(sa.func.sum(UPLOADS.c.bytes), 0)).where(*where)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def parts(self, upload_id: str) -> dict[str, sa.Row[Any]]:
        """Return id → part."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(PARTS).where(PARTS.c.upload_id == upload_id)).all()
        return {row.id: row for row in rows}

    def end(self, project: str, upload_id: str, status: str, file_id: str | None = None) -> sa.Row[Any]:
        """Give a pending upload its end and return it. Raises NotFound, Conflict."""
        with self._database.write() as connection:
            _check_pending(_row(connection, project, upload_id))
            values = {"status": status, "file_id": file_id}
            connection.execute(UPLOADS.update().where(UPLOADS.c.id == upload_id).values(**values))
            return _row(connection, project, upload_id)

    def overdue(self) -> list[str]:
        """Mark uploads of all projects that are too old as expired; return their ids and of all that left parts."""
        where = (UPLOADS.c.status == "pending", UPLOADS.c.expires_at <= time.time())
        with self._database.write() as connection:
            ids = list(connection.execute(sa.select(UPLOADS.c.id).where(*where)).scalars())
            connection.execute(UPLOADS.update().where(UPLOADS.c.id.in_(ids)).values(status="expired"))
            ended = sa.select(UPLOADS.c.id).where(
                UPLOADS.c.status != "pending", UPLOADS.c.id.in_(sa.select(PARTS.c.upload_id))
            )
            left = connection.execute(ended).scalars()
            return sorted({*ids, *left})


def new_part_id() -> str:
    """Return an id that no part has."""
    return f"part_{secrets.token_hex(12)}"


def _row(connection: sa.Connection, project: str, upload_id: str) -> sa.Row[Any]:
    late = (UPLOADS.c.id == upload_id, UPLOADS.c.status == "pending", UPLOADS.c.expires_at <= time.time())
    connection.execute(UPLOADS.update().where(*late).values(status="expired"))
    query = sa.select(UPLOADS).where(UPLOADS.c.id == upload_id, UPLOADS.c.project == project)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"No such Upload object: {upload_id}", violations=[Violation("upload_id", "unknown upload")])
    return row


def _check_room(connection: sa.Connection, project: str, upload_id: str, size_bytes: int) -> None:
    """Refuse a part beyond the announced bytes; parts that come at once are looked at one after another."""
    connection.execute(sa.select(UPLOADS.c.id).where(UPLOADS.c.id == upload_id).with_for_update())
    row = _row(connection, project, upload_id)
    _check_pending(row)
    query = sa.select(sa.func.coalesce(sa.func.sum(PARTS.c.bytes), 0)).where(PARTS.c.upload_id == upload_id)
    there = int(connection.execute(query).scalar_one())
    if there + size_bytes > row.bytes:
        text = f"{size_bytes} bytes more than the {there} that came are above the {row.bytes} that were announced"
        raise InvalidSpec(f"data: {text}", violations=[Violation("data", text)])


def _check_pending(row: sa.Row[Any]) -> None:
    if row.status != "pending":
        raise Conflict(
            f"Upload {row.id} is {row.status}; only a pending one takes parts or is ended.",
            remedy="Create a new upload.",
        )
