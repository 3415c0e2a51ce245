"""Fine-tuning jobs: what was asked and what came of it beside the run that does the work. Knows no HTTP."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tunewright.chassis.errors import NotFound, Violation
from tunewright.gateway.database import JOBS, Database


class JobRecords:
    """The records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, job_id: str, **values: Any) -> None:  # noqa: ANN401 - columns of the table
        """Add a job."""
        with self._database.write() as connection:
            connection.execute(JOBS.insert().values(id=job_id, created_at=time.time(), **values))

    def remove(self, job_id: str) -> None:
        """Forget a job whose run could not be started."""
        with self._database.write() as connection:
            connection.execute(JOBS.delete().where(JOBS.c.id == job_id))

    def get(self, project: str, job_id: str) -> sa.Row[Any]:
        """Return a job of a project. Raises NotFound."""
        query = sa.select(JOBS).where(JOBS.c.id == job_id, JOBS.c.project == project)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"Could not find fine tune: {job_id}", violations=[Violation("id", "unknown job")])
        return row

    def newest(
        self, project: str, limit: int, after: str | None, metadata: Mapping[str, str] | None
    ) -> list[sa.Row[Any]]:
        """Return at most `limit` jobs of a project, newest first.

        Args:
            project: whose.
            limit: jobs at most.
            after: a job; only older ones are returned.
            metadata: pairs that a job must have; empty: any; None: jobs without metadata.

        Raises:
            NotFound: there is no job `after`.
        """
        query = sa.select(JOBS).where(JOBS.c.project == project).order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc())
        if after is not None:
            cursor = self.get(project, after)
            key = sa.tuple_(JOBS.c.created_at, JOBS.c.id)
            query = query.where(key < sa.tuple_(sa.literal(cursor.created_at), sa.literal(cursor.id)))
        found: list[sa.Row[Any]] = []
        with self._database.read() as connection:
            for row in connection.execute(query):
                if _has(json.loads(row.request).get("metadata"), metadata):
                    found.append(row)
                if len(found) == limit:
                    break
        return found

    def of_model(self, project: str, name: str) -> sa.Row[Any] | None:
        """Return the job of a project that made a model, None if none did."""
        query = sa.select(JOBS).where(JOBS.c.project == project, JOBS.c.model_name == name)
        with self._database.read() as connection:
            return connection.execute(query).first()

    def unsettled(self, project: str) -> list[sa.Row[Any]]:
        """Return the jobs whose result files are not made."""
        query = sa.select(JOBS).where(
            JOBS.c.project == project, JOBS.c.result_files.is_(None), JOBS.c.cancelled_at.is_(None)
        )
        with self._database.read() as connection:
            return list(connection.execute(query).all())

    def settle(self, job_id: str, *, trained_tokens: int, result_files: Sequence[str]) -> None:
        """Note what a job has made."""
        self._set(job_id, trained_tokens=trained_tokens, result_files=json.dumps(list(result_files)))

    def cancelled(self, job_id: str) -> None:
        """Note that somebody ended a job."""
        self._set(job_id, cancelled_at=time.time())

    def model_deleted(self, job_id: str) -> None:
        """Note that the job's model is gone."""
        self._set(job_id, model_deleted_at=time.time())

    def _set(self, job_id: str, **values: object) -> None:
        with self._database.write() as connection:
            connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(**values))


def _has(metadata: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> bool:
    if wanted is None:
        return metadata is None
    return all((metadata or {}).get(name) == value for name, value in wanted.items())
