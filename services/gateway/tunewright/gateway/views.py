"""Runs and events as users see them: JSON, read from the journal's tables. Writes nothing."""

import json
from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from tunewright.chassis.errors import NotFound
from tunewright.gateway.database import EVENTS, OWNERS, RUNS, STAGES, Database
from tunewright.gateway.keys import DEFAULT_PROJECT
from tunewright.gateway.owners import RUN


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

    def of_project(self, run_id: str, project: str) -> dict[str, Any]:
        """Return a run of a project with its stages.

        Raises:
            NotFound: no such run, or it is another project's.
        """
        found = self._runs(sa.select(RUNS).where(RUNS.c.id == run_id, is_of(project)))
        if not found:
            raise NotFound(f"no run has the id {run_id!r}", remedy="GET /v1/runs lists the runs there are.")
        return found[0]

    def made(self, project: str) -> set[str]:
        """Return the references of all that the project's runs have made."""
        return self._results(is_of(project))

    def made_by_others(self, project: str) -> set[str]:
        """Return the references of all that other projects' runs have made."""
        return self._results(sa.not_(is_of(project)))

    def newest(self, limit: int, after: str | None, project: str) -> list[dict[str, Any]]:
        """Return at most `limit` runs of a project, newest first, those older than `after` if given.

        Raises:
            NotFound: there is no run `after`.
        """
        order = (RUNS.c.created_at.desc(), RUNS.c.id.desc())
        query = sa.select(RUNS).where(is_of(project)).order_by(*order).limit(limit)
        if after:
            position = self.of_project(after, project)["created_at"]
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

    def newest_events(self, run_id: str, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Return at most `limit` events, newest first, those with a lower sequence number than `before` if given."""
        query = sa.select(EVENTS).where(EVENTS.c.run_id == run_id).order_by(EVENTS.c.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(EVENTS.c.sequence < before)
        with self._database.read() as connection:
            return [_event(row) for row in connection.execute(query)]

    def figures(self, run_id: str, stage: str) -> list[dict[str, Any]]:
        """Return the figures that a stage has told of its steps, with the time of each, oldest first."""
        query = (
            sa.select(EVENTS.c.time, EVENTS.c.data)
            .where(EVENTS.c.run_id == run_id, EVENTS.c.stage == stage, EVENTS.c.type == "progress")
            .order_by(EVENTS.c.sequence)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [{**json.loads(row.data), "time": row.time} for row in rows]

    def estimated_finish(self, run_id: str) -> int | None:
        """Return the Unix time at which the training of a run will end by its own newest estimate, None if unknown."""
        query = (
            sa.select(EVENTS.c.time, EVENTS.c.data)
            .where(EVENTS.c.run_id == run_id, EVENTS.c.stage == "train", EVENTS.c.type == "progress")
            .order_by(EVENTS.c.sequence.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        seconds = None if row is None else json.loads(row.data).get("eta_seconds")
        return None if row is None or seconds is None else int(row.time + seconds)

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

    def _results(self, where: sa.ColumnElement[bool]) -> set[str]:
        query = sa.select(STAGES.c.result).join(RUNS, RUNS.c.id == STAGES.c.run_id).where(where)
        with self._database.read() as connection:
            return {str(result) for result in connection.execute(query.distinct()).scalars() if "/" in (result or "")}

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


def is_of(project: str) -> sa.ColumnElement[bool]:
    """Return the condition that a run is a project's; one that nobody is noted for is the default project's."""
    noted = sa.select(OWNERS.c.id).where(OWNERS.c.kind == RUN)
    if project == DEFAULT_PROJECT:
        return RUNS.c.id.not_in(noted.where(OWNERS.c.project != project))
    return RUNS.c.id.in_(noted.where(OWNERS.c.project == project))


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
        "base_model": json.loads(row.recipe).get("base_name") or f"{row.name}-base",
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
