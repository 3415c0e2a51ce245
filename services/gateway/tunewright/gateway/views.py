"""Runs and events as users see them: JSON, read from the journal's tables. Writes nothing."""

import json
from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from tunewright.chassis.errors import NotFound
from tunewright.gateway.database import EVENTS, RUNS, STAGES, Database


class RunViews:
    """Questions about runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, run_id: str) -> dict[str, Any]:
        """Return a run with its stages.

        Raises:
            NotFound: no such run.
        """
        found = self._runs(sa.select(RUNS).where(RUNS.c.id == run_id))
        if not found:
            raise NotFound(f"no run has the id {run_id!r}", remedy="GET /v1/runs lists the runs there are.")
        return found[0]

    def newest(self, limit: int, after: str | None) -> list[dict[str, Any]]:
        """Return at most `limit` runs, newest first, those older than `after` if given.

        Raises:
            NotFound: there is no run `after`.
        """
        query = sa.select(RUNS).order_by(RUNS.c.created_at.desc(), RUNS.c.id.desc()).limit(limit)
        if after:
            position = self.get(after)["created_at"]
            key = sa.tuple_(RUNS.c.created_at, RUNS.c.id)
            query = query.where(key < sa.tuple_(sa.literal(position), sa.literal(after)))
        return self._runs(query)

    def events(self, run_id: str, after: int, limit: int = 500) -> list[dict[str, Any]]:
        """Return at most `limit` events with a sequence number above `after`, in order."""
        query = (
            sa.select(EVENTS)
            .where(EVENTS.c.run_id == run_id, EVENTS.c.sequence > after)
            .order_by(EVENTS.c.sequence)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_event(row) for row in connection.execute(query)]

    def state(self, run_id: str) -> str:
        """Return the state of a run.

        Raises:
            NotFound: no such run.
        """
        with self._database.read() as connection:
            state = connection.execute(sa.select(RUNS.c.state).where(RUNS.c.id == run_id)).scalar()
        if state is None:
            raise NotFound(f"no run has the id {run_id!r}")
        return str(state)

    def counts(self) -> dict[str, int]:
        """Return the number of runs in each state."""
        query = sa.select(RUNS.c.state, sa.func.count()).group_by(RUNS.c.state)
        with self._database.read() as connection:
            return {str(row[0]): int(row[1]) for row in connection.execute(query)}

    def _runs(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            ids = [row.id for row in rows]
            stages = connection.execute(
                sa.select(STAGES).where(STAGES.c.run_id.in_(ids)).order_by(STAGES.c.position)
            ).all()
        by_run = defaultdict(list)
        for stage in stages:
            by_run[stage.run_id].append(_stage(stage))
        return [_run(row, by_run[row.id]) for row in rows]


def _run(row: sa.Row[Any], stages: list[dict[str, Any]]) -> dict[str, Any]:
    running = [stage["name"] for stage in stages if stage["state"] == "running"]
    return {
        "id": row.id,
        "object": "run",
        "name": row.name,
        "state": row.state,
        "stage": running[-1] if running else None,
        "stages": stages,
        "artifacts": {stage["name"]: stage["result"] for stage in stages if "/" in (stage["result"] or "")},
        "model": row.name if row.state == "succeeded" else None,
        "base_model": f"{row.name}-base",
        "failure": json.loads(row.failure) if row.failure else None,
        "recipe": json.loads(row.recipe),
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }


def _stage(row: sa.Row[Any]) -> dict[str, Any]:
    ended = row.finished_at is not None and row.started_at is not None
    return {
        "name": row.name,
        "state": row.state,
        "service": row.service,
        "job_id": row.job_id,
        "deployment": row.deployment,
        "result": row.result,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "seconds": row.finished_at - row.started_at if ended else None,
    }


def _event(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "object": "run.event",
        "run_id": row.run_id,
        "sequence": row.sequence,
        "time": row.time,
        "stage": row.stage,
        "type": row.type,
        "severity": row.severity,
        "message": row.message,
        "data": json.loads(row.data),
        "job_id": row.job_id,
    }
