"""The journal of runs: what was asked, how far each run is, and every event of it, numbered from 1 without gaps.

What it tells is what users see; that a run goes on after a crash is the durable workflow's business (`pipeline.py`).
Writing the same thing twice is harmless, because a workflow that is taken up again repeats its newest step.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from tunewright.chassis.errors import Cancelled, Conflict, NotFound, OutOfResources, TunewrightError
from tunewright.gateway.database import EVENTS, RUNS, STAGES, Database
from tunewright.gateway.keys import DEFAULT_PROJECT
from tunewright.gateway.owners import NAME, claim


class RunState(StrEnum):
    """State of a run; the last three never change."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True if nothing more happens."""
        return self in {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


_UNFINISHED = [state.value for state in RunState if not state.terminal]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of a run."""

    type: str
    message: str
    severity: str = "info"
    """info, warning or error."""
    stage: str | None = None
    time: float | None = None
    """Unix time, seconds; now if none."""
    data: Mapping[str, Any] | None = None
    job_id: str | None = None
    job_sequence: int | None = None
    """Number of the event within its job; with it, the same event is kept once however often it is told."""


class Journal:
    """Runs, their stages, their events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        run_id: str,
        *,
        name: str,
        owner: str,
        recipe: Mapping[str, Any],
        stages: Sequence[str],
        limit: int,
        project: str = DEFAULT_PROJECT,
    ) -> bool:
        """Add a run; return False if it is there already with the same recipe. Its name is the project's from then on.

        Raises:
            Conflict: the name is another project's or an unfinished run's, or the id was used for another recipe.
            OutOfResources: `limit` runs are unfinished.
        """
        text = json.dumps(recipe, sort_keys=True)
        with self._database.write() as connection:
            known = connection.execute(sa.select(RUNS.c.recipe).where(RUNS.c.id == run_id)).scalar()
            if known is not None:
                if known != text:
                    raise Conflict("this Idempotency-Key was used for another recipe", remedy="Use a new one.")
                return False
            claim(connection, NAME, name, project, owner)
            unfinished = connection.execute(
                sa.select(RUNS.c.id, RUNS.c.name).where(RUNS.c.state.in_(_UNFINISHED))
            ).all()
            if len(unfinished) >= limit:
                raise OutOfResources(
                    f"{limit} runs are unfinished", remedy="Wait until one of them ends, or cancel one."
                )
            for row in unfinished:
                if row.name == name:
                    raise Conflict(
                        f"run {row.id} with the name {name!r} is not finished",
                        remedy="Wait for it, or cancel it first.",
                    )
            connection.execute(
                RUNS.insert().values(
                    id=run_id, name=name, owner=owner, recipe=text, state=RunState.QUEUED.value, created_at=time.time()
                )
            )
            rows = [
                {"run_id": run_id, "name": stage, "position": position, "state": "pending"}
                for position, stage in enumerate(stages)
            ]
            connection.execute(STAGES.insert(), rows)
            _append(connection, run_id, Event(type="run", message="queued", data={"state": RunState.QUEUED.value}))
        return True

    def start(self, run_id: str) -> dict[str, Any]:
        """Mark a run as running and return its recipe."""
        with self._database.write() as connection:
            row = _row(connection, run_id)
            if row.started_at is None:
                connection.execute(RUNS.update().where(RUNS.c.id == run_id).values(started_at=time.time()))
            if row.state == RunState.QUEUED.value:
                _change(connection, run_id, RunState.RUNNING)
        recipe: dict[str, Any] = json.loads(row.recipe)
        return recipe

    def recipe(self, run_id: str) -> dict[str, Any]:
        """Return the recipe of a run."""
        with self._database.read() as connection:
            recipe: dict[str, Any] = json.loads(_row(connection, run_id).recipe)
        return recipe

    def stage_runs(
        self, run_id: str, stage: str, *, service: str, job_id: str | None = None, deployment: str | None = None
    ) -> None:
        """Mark a stage as running, in a job or as a deployment.

        Raises:
            Cancelled: somebody asked the run to end.
        """
        where = (STAGES.c.run_id == run_id, STAGES.c.name == stage)
        with self._database.write() as connection:
            if _row(connection, run_id).cancel_requested:
                raise Cancelled(f"run {run_id} was cancelled")
            row = connection.execute(sa.select(STAGES).where(*where)).one()
            begun = row.started_at or time.time()
            values = {"state": "running", "service": service, "job_id": job_id, "deployment": deployment}
            connection.execute(STAGES.update().where(*where).values(**values, started_at=begun))
            if row.state in {"pending", "paused"}:
                data = {"state": "running", "service": service, "job_id": job_id, "deployment": deployment}
                told = Event(type="stage", stage=stage, message=f"{stage}: running", data=data, job_id=job_id)
                _append(connection, run_id, told)

    def stage_succeeded(self, run_id: str, stage: str, result: str) -> None:
        """Mark a stage as succeeded; `result` is an artifact reference or the name of a deployment."""
        where = (STAGES.c.run_id == run_id, STAGES.c.name == stage)
        with self._database.write() as connection:
            row = connection.execute(sa.select(STAGES).where(*where)).one()
            if row.state == "succeeded":
                return
            now = time.time()
            begun = row.started_at or now
            values = {"state": "succeeded", "result": result, "finished_at": now, "started_at": begun}
            connection.execute(STAGES.update().where(*where).values(**values))
            data = {"state": "succeeded", "result": result, "seconds": now - begun}
            text = f"{stage}: succeeded, {result}"
            _append(connection, run_id, Event(type="stage", stage=stage, message=text, data=data, job_id=row.job_id))

    def tell(self, run_id: str, *events: Event) -> None:
        """Add events in one transaction; those of a job that are known already are passed over."""
        with self._database.write() as connection:
            for event in events:
                _append(connection, run_id, event)

    def warn(self, run_id: str, message: str) -> None:
        """Add a warning about the run as a whole."""
        self.tell(run_id, Event(type="run", severity="warning", message=message))

    def last_job_sequence(self, run_id: str, job_id: str) -> int:
        """Return the number of the newest event of this job that the journal has, 0 if none."""
        newest = sa.select(sa.func.max(EVENTS.c.job_sequence)).where(
            EVENTS.c.run_id == run_id, EVENTS.c.job_id == job_id
        )
        with self._database.read() as connection:
            return int(connection.execute(newest).scalar() or 0)

    def finish(self, run_id: str, error: TunewrightError | None = None) -> None:
        """End a run: succeeded without an error, cancelled by Cancelled, else failed. The first end counts.

        One that somebody cancelled ends as cancelled, whatever else went wrong on its way to that end.
        """
        with self._database.write() as connection:
            row = _row(connection, run_id)
            if RunState(row.state).terminal:
                return
            if row.cancel_requested and not isinstance(error, Cancelled):
                error = Cancelled(f"run {run_id} was cancelled")
            state = _outcome(error)
            stage = _close_stage(connection, run_id, state)
            failure = None
            if error is not None:
                failure = {**error.to_dict(), "retryable": error.retryable, "stage": stage}
            values = {"state": state.value, "finished_at": time.time(), "failure": failure and json.dumps(failure)}
            connection.execute(RUNS.update().where(RUNS.c.id == run_id).values(**values))
            told = Event(
                type="run",
                message=state.value if error is None else f"{state.value}: {error.message}",
                severity="error" if state is RunState.FAILED else "info",
                stage=stage,
                data={"state": state.value, "failure": failure},
            )
            _append(connection, run_id, told)

    def request_cancel(self, run_id: str) -> None:
        """Ask a run to end.

        Raises:
            NotFound: no such run.
            Conflict: it has ended, or its model already takes the public name.
        """
        with self._database.write() as connection:
            state = RunState(_row(connection, run_id).state)
            if state.terminal:
                raise Conflict(f"run {run_id} has ended: {state.value}")
            if state is RunState.CANCELLING:
                return
            if _promotes(connection, run_id):
                raise Conflict(f"run {run_id} is ending: its model takes the public name")
            connection.execute(RUNS.update().where(RUNS.c.id == run_id).values(cancel_requested=True))
            _change(connection, run_id, RunState.CANCELLING)

    def request_pause(self, run_id: str) -> None:
        """Ask a run to stop its job and wait for `resume`; asked twice, it is the same.

        Raises:
            NotFound: no such run.
            Conflict: it has ended, or is being cancelled.
        """
        with self._database.write() as connection:
            state = RunState(_row(connection, run_id).state)
            if state in {RunState.PAUSING, RunState.PAUSED}:
                return
            if state not in {RunState.QUEUED, RunState.RUNNING}:
                raise Conflict(f"run {run_id} cannot be paused: it is {state.value}")
            _change(connection, run_id, RunState.PAUSING)

    def paused(self, run_id: str) -> None:
        """Tell that nothing of the run works any more; harmless if it was resumed or cancelled meanwhile."""
        with self._database.write() as connection:
            if RunState(_row(connection, run_id).state) is RunState.PAUSING:
                _pause_stage(connection, run_id)
                _change(connection, run_id, RunState.PAUSED)

    def resume(self, run_id: str) -> None:
        """Let a paused run go on.

        Raises:
            NotFound: no such run.
            Conflict: it is not paused.
        """
        with self._database.write() as connection:
            row = _row(connection, run_id)
            if RunState(row.state) not in {RunState.PAUSING, RunState.PAUSED}:
                raise Conflict(f"run {run_id} cannot be resumed: it is {row.state}", remedy="Only a paused run can.")
            _change(connection, run_id, RunState.RUNNING if row.started_at else RunState.QUEUED)

    def pause_requested(self, run_id: str) -> bool:
        """Return True while the run shall not work."""
        with self._database.read() as connection:
            state = connection.execute(sa.select(RUNS.c.state).where(RUNS.c.id == run_id)).scalar()
        return state in {RunState.PAUSING.value, RunState.PAUSED.value}

    def cancel_requested(self, run_id: str) -> bool:
        """Return True once somebody asked the run to end."""
        with self._database.read() as connection:
            return bool(connection.execute(sa.select(RUNS.c.cancel_requested).where(RUNS.c.id == run_id)).scalar())

    def active_jobs(self, run_id: str) -> list[tuple[str, str]]:
        """Return service and job id of the run's unfinished jobs that no other unfinished run waits for."""
        mine = sa.select(STAGES.c.service, STAGES.c.job_id).where(
            STAGES.c.run_id == run_id, STAGES.c.state == "running", STAGES.c.job_id.is_not(None)
        )
        others = (
            sa.select(STAGES.c.job_id)
            .join(RUNS, RUNS.c.id == STAGES.c.run_id)
            .where(
                STAGES.c.run_id != run_id,
                STAGES.c.state == "running",
                RUNS.c.state.in_([RunState.QUEUED.value, RunState.RUNNING.value]),
            )
        )
        with self._database.read() as connection:
            shared = set(connection.execute(others).scalars())
            return [(row.service, row.job_id) for row in connection.execute(mine) if row.job_id not in shared]

    def deployments(self, run_id: str) -> list[str]:
        """Return the names of the deployments that the run asked for."""
        query = sa.select(STAGES.c.deployment).where(STAGES.c.run_id == run_id, STAGES.c.deployment.is_not(None))
        with self._database.read() as connection:
            return sorted({str(name) for name in connection.execute(query).scalars()})

    def deployments_of_others(self, run_id: str) -> set[str]:
        """Return the names of the deployments that other runs use which have not failed and were not cancelled."""
        given_up = [RunState.FAILED.value, RunState.CANCELLED.value]
        query = (
            sa.select(STAGES.c.deployment)
            .join(RUNS, RUNS.c.id == STAGES.c.run_id)
            .where(STAGES.c.run_id != run_id, STAGES.c.deployment.is_not(None), RUNS.c.state.not_in(given_up))
        )
        with self._database.read() as connection:
            return set(connection.execute(query.distinct()).scalars())

    def unfinished(self) -> list[str]:
        """Return the ids of all runs that have not ended."""
        query = sa.select(RUNS.c.id).where(RUNS.c.state.in_(_UNFINISHED)).order_by(RUNS.c.created_at)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())


def _outcome(error: TunewrightError | None) -> RunState:
    if error is None:
        return RunState.SUCCEEDED
    return RunState.CANCELLED if isinstance(error, Cancelled) else RunState.FAILED


def _change(connection: sa.Connection, run_id: str, state: RunState) -> None:
    connection.execute(RUNS.update().where(RUNS.c.id == run_id).values(state=state.value))
    _append(connection, run_id, Event(type="run", message=state.value, data={"state": state.value}))


def _pause_stage(connection: sa.Connection, run_id: str) -> None:
    """Mark the stage whose job was stopped; a deployment that is coming up goes on doing so."""
    where = (STAGES.c.run_id == run_id, STAGES.c.state == "running", STAGES.c.job_id.is_not(None))
    for name in connection.execute(sa.select(STAGES.c.name).where(*where)).scalars().all():
        told = Event(type="stage", stage=name, message=f"{name}: paused", data={"state": "paused"})
        _append(connection, run_id, told)
    connection.execute(STAGES.update().where(*where).values(state="paused"))


def _promotes(connection: sa.Connection, run_id: str) -> bool:
    query = sa.select(STAGES.c.state).where(STAGES.c.run_id == run_id, STAGES.c.name == "promote")
    return connection.execute(query).scalar() in {"running", "succeeded"}


def _close_stage(connection: sa.Connection, run_id: str, state: RunState) -> str | None:
    """Give the stage that was under way the run's end; return its name, None if there is none."""
    where = (STAGES.c.run_id == run_id, STAGES.c.state.in_(["running", "paused"]))
    stage = connection.execute(sa.select(STAGES.c.name).where(*where).order_by(STAGES.c.position.desc())).scalar()
    values = {"state": state.value, "finished_at": time.time()}
    connection.execute(STAGES.update().where(*where).values(**values))
    return stage


def _append(connection: sa.Connection, run_id: str, event: Event) -> None:
    # The lock on the run's row makes numbering safe in PostgreSQL; SQLite has one writer anyway.
    connection.execute(sa.select(RUNS.c.id).where(RUNS.c.id == run_id).with_for_update())
    if event.job_sequence is not None:
        known = sa.select(EVENTS.c.sequence).where(
            EVENTS.c.run_id == run_id, EVENTS.c.job_id == event.job_id, EVENTS.c.job_sequence == event.job_sequence
        )
        if connection.execute(known).first() is not None:
            return
    newest = connection.execute(sa.select(sa.func.max(EVENTS.c.sequence)).where(EVENTS.c.run_id == run_id)).scalar()
    connection.execute(
        EVENTS.insert().values(
            run_id=run_id,
            sequence=(newest or 0) + 1,
            time=event.time or time.time(),
            stage=event.stage,
            type=event.type,
            severity=event.severity,
            message=event.message,
            data=json.dumps(event.data or {}),
            job_id=event.job_id,
            job_sequence=event.job_sequence,
        )
    )


def _row(connection: sa.Connection, run_id: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(RUNS).where(RUNS.c.id == run_id).with_for_update()).first()
    if row is None:
        raise NotFound(f"no run has the id {run_id!r}")
    return row
