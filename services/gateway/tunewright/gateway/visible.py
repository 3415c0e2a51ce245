"""Which models a project sees, and what their public names stand for. Looked up at most once a second.

A model is the project's whose run promoted it, or whose run or key deployed it. A fine-tuning job's model goes by its
`ft:` name, its base by the name that the job gave it; the names of the deployments behind them are not shown.
"""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from tunewright.gateway.database import ALIASES, JOBS, RUNS, STAGES, Database
from tunewright.gateway.journal import RunState
from tunewright.gateway.keys import DEFAULT_PROJECT
from tunewright.gateway.owners import DEPLOYMENT, NAME, RUN, Owners
from tunewright.gateway.routing import ModelNotFound, Route, Routes, Served

_FRESH_SECONDS = 1.0
CHECKPOINT = re.compile(r"(ft:.+):ckpt-step-([1-9][0-9]{0,9})")
"""Public name of a checkpoint: its job's model, and the step."""
_CHECKPOINT_DEPLOYMENT = re.compile(r"(ftjob-[0-9a-f]{24})-step-([0-9]+)")


def checkpoint_name(model: str, step: object) -> str:
    """Return the public name of a checkpoint."""
    return f"{model}:ckpt-step-{step}"


def checkpoint_deployment(job_id: str, step: object) -> str:
    """Return the name under which a checkpoint is deployed."""
    return f"{job_id}-step-{step}"


@dataclass(frozen=True, kw_only=True)
class Visible:
    """A name that a project's applications may use as `model`."""

    name: str
    served: Served
    listed: bool
    """False for names that are there for us: deployments behind an alias."""
    root: str | None = None
    """Of a fine-tuned model, the base that its job named."""


@dataclass(frozen=True)
class _Snapshot:
    names: dict[str, dict[str, Visible]] = field(default_factory=dict)
    """Project → name → model."""


class VisibleModels:
    """The names of all projects. Thread-safe."""

    def __init__(self, database: Database, routes: Routes, owners: Owners) -> None:
        self._database = database
        self._routes = routes
        self._owners = owners
        self._lock = threading.Lock()
        self._snapshot = _Snapshot()
        self._table: dict[str, Served] = {}
        self._read_at = float("-inf")

    def known(self, project: str, model: str) -> bool:
        """Return True if a look-up of this model asks nobody."""
        fresh = self._routes.fresh and time.monotonic() - self._read_at < _FRESH_SECONDS
        return fresh and self._routes.table() is self._table and model in self._snapshot.names.get(project, {})

    def forget(self, older_than: float = 0) -> None:
        """Look everything up again at the next question, if what is known is older than so many seconds."""
        self._routes.forget(older_than)
        if time.monotonic() - self._read_at >= older_than:
            self._read_at = float("-inf")

    def of_project(self, project: str) -> dict[str, Visible]:
        """Return name → model. Raises Unavailable."""
        with self._lock:
            table = self._routes.table()
            if table is not self._table or time.monotonic() - self._read_at > _FRESH_SECONDS:
                began = time.monotonic()
                self._snapshot, self._table = self._read(table), table
                self._read_at = began
            return self._snapshot.names.get(project, {})

    def get(self, project: str, model: str) -> Visible:
        """Return one model of a project.

        Raises:
            ModelNotFound: it sees none of this name.
            Unavailable: inference is down.
        """
        asked = time.monotonic()
        found = self.of_project(project).get(model)
        if found is None and self._read_at < asked:
            self.forget()  # it may have come in this very second
            found = self.of_project(project).get(model)
        if found is None:
            raise ModelNotFound(f"The model {model!r} does not exist or you do not have access to it.")
        return found

    def owns(self, project: str, deployment: str) -> bool:
        """Return True if a deployment, whatever its state, is the project's."""
        projects = self._projects_of_deployments(self._owners.all(RUN)).get(deployment, {DEFAULT_PROJECT})
        return project in projects

    def used_by_another(self, project: str, deployment: str) -> bool:
        """Return True if another project deployed it, or an unfinished run or a public name of another has it."""
        if self._owners.all(DEPLOYMENT).get(deployment, project) != project:
            return True
        named = sa.and_(RUNS.c.state == RunState.SUCCEEDED.value, RUNS.c.name.in_(sa.select(ALIASES.c.name)))
        under_way = RUNS.c.state.not_in([state.value for state in RunState if state.terminal])
        query = (
            sa.select(RUNS.c.id)
            .join(STAGES, RUNS.c.id == STAGES.c.run_id)
            .where(STAGES.c.deployment == deployment, sa.or_(named, under_way))
        )
        runs = self._owners.all(RUN)
        with self._database.read() as connection:
            return any(runs.get(run, DEFAULT_PROJECT) != project for run in connection.execute(query).scalars())

    def used_beside(self, run_id: str, deployment: str) -> bool:
        """Return True if another project than that of this run uses a deployment."""
        return self.used_by_another(self._owners.project(RUN, run_id), deployment)

    def resolve(self, project: str, model: str, user: str = "") -> Route:
        """Return where a project's model answers for one of its users. Raises ModelNotFound, Unavailable."""
        return replace(self._routes.resolve(self.get(project, model).served.name, user), model=model)

    def _read(self, table: dict[str, Served]) -> _Snapshot:
        owners = self._owners.all(NAME)
        projects = self._projects_of_deployments(self._owners.all(RUN))
        names: dict[str, dict[str, Visible]] = defaultdict(dict)
        behind = {served.deployment.name for served in table.values() if served.alias is not None}
        for name, served in table.items():
            mine = {owners.get(name, DEFAULT_PROJECT)} if served.alias else projects.get(name, set())
            for project in mine or {DEFAULT_PROJECT}:
                listed = served.alias is not None or name not in behind
                names[project][name] = Visible(name=name, served=served, listed=listed)
        self._name_jobs(table, names)
        return _Snapshot(dict(names))

    def _name_jobs(self, table: dict[str, Served], names: dict[str, dict[str, Visible]]) -> None:
        """Show what fine-tuning jobs made by the names that the contract gives them."""
        checkpoints = [found for name in table if (found := _CHECKPOINT_DEPLOYMENT.fullmatch(name))]
        for job in self._jobs():
            own = names[job.project]
            for found in checkpoints:
                if found[1] == job.name and found[0] in own:
                    served, name = own.pop(found[0]).served, checkpoint_name(job.model_name, found[2])
                    if job.model_deleted_at is None:
                        own[name] = Visible(name=name, served=served, listed=True, root=job.base_model)
            for name in (job.name, job.base_deployment):
                if name in own:
                    own[name] = Visible(name=name, served=own[name].served, listed=False)
            if job.state == "succeeded" and job.model_deleted_at is None and job.name in table:
                own[job.model_name] = Visible(
                    name=job.model_name, served=table[job.name], listed=True, root=job.base_model
                )
            named = job.base_deployment in own and job.base_model not in own
            if named and not job.base_model.startswith("ft:"):  # those have their own job, or were deleted
                own[job.base_model] = Visible(name=job.base_model, served=table[job.base_deployment], listed=True)

    def _projects_of_deployments(self, runs: dict[str, str]) -> dict[str, set[str]]:
        query = sa.select(STAGES.c.deployment, STAGES.c.run_id).where(STAGES.c.deployment.is_not(None)).distinct()
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        found: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            found[row.deployment].add(runs.get(row.run_id, DEFAULT_PROJECT))
        for name, project in self._owners.all(DEPLOYMENT).items():
            found[name].add(project)
        return found

    def _jobs(self) -> Sequence[Any]:
        columns = (JOBS.c.project, JOBS.c.model_name, JOBS.c.base_model, JOBS.c.base_deployment)
        query = sa.select(*columns, JOBS.c.model_deleted_at, RUNS.c.name, RUNS.c.state).join(
            RUNS, RUNS.c.id == JOBS.c.run_id
        )
        with self._database.read() as connection:
            return connection.execute(query).all()
