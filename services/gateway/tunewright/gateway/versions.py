"""Versions behind public names: what each serves, its share of the traffic, and every change with who and why.

    starting ──► standby ──► canary ──► serving ──► retired      rolled_back, failed: taken away before that

At most one version of a name serves and at most one other is its candidate (starting, standby or canary). Knows no
engine and no rule: `rollouts.py` moves versions, `canary.py` judges them.
"""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from tunewright.chassis.errors import Conflict, NotFound
from tunewright.gateway.database import ALIASES, CHANGES, VERSIONS, Database
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.owners import DEPLOYMENT, NAME, alias_id, claim, claim_for_run, taken

ALL_TRAFFIC = 100.0
"""Weights are percent."""


class VersionState(StrEnum):
    """Where a version is on its way."""

    STARTING = "starting"
    STANDBY = "standby"
    CANARY = "canary"
    SERVING = "serving"
    RETIRED = "retired"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


CANDIDATES = (VersionState.STARTING, VersionState.STANDBY, VersionState.CANARY)
GONE = (VersionState.RETIRED, VersionState.ROLLED_BACK, VersionState.FAILED)


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a public name."""

    alias: str
    number: int
    deployment: str
    """Name of its deployment; never used for another version."""
    model: str
    """Reference of the model, or of the adapter's base."""
    adapter: str | None
    spec: Mapping[str, Any]
    """The recipe's `deployment` section."""
    state: VersionState
    weight: float
    """Percent of the name's traffic: wanted while it starts, given from then on."""
    rules: Mapping[str, Any]
    """What a canary is judged by."""
    live: bool
    """A deployment may exist."""
    detail: str
    created_at: float
    """Unix time, seconds."""
    changed_at: float
    served_at: float | None
    """When it was given all traffic last."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Who wants a change, and why."""

    who: str
    why: str = ""


class Versions:
    """All versions, kept in the gateway's database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, alias: str) -> list[Version]:
        """Return the versions of a name, oldest first; none if it has none."""
        return self._select(VERSIONS.c.alias == alias)

    def known(self, alias: str) -> list[Version]:
        """Return the versions of a name, oldest first.

        Raises:
            NotFound: it has none.
        """
        found = self.of(alias)
        if not found:
            raise NotFound(f"no model is called {alias!r}", remedy="GET /v1/aliases lists the names there are.")
        return found

    def live(self) -> list[Version]:
        """Return every version that a deployment may exist for."""
        return self._select(VERSIONS.c.live.is_(True))

    def aliases(self) -> list[str]:
        """Return the names that have a version that is not gone."""
        query = sa.select(VERSIONS.c.alias).where(VERSIONS.c.state.not_in(GONE)).distinct().order_by(VERSIONS.c.alias)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def add(
        self,
        alias: str,
        *,
        model: str,
        adapter: str | None,
        spec: Mapping[str, Any],
        weight: float,
        rules: Mapping[str, Any],
        cause: Cause,
        key: KeyRecord,
        standing: Collection[str] = (),
    ) -> Version:
        """File a version that is to be brought up; from then on, the name and its deployment are the key's project's.

        Args:
            alias: the public name.
            model: reference of the model, or of the adapter's base.
            adapter: reference of the adapter, if it is one.
            spec: the recipe's `deployment` section.
            weight: percent of the traffic once it answers.
            rules: what a canary is judged by.
            cause: who wants it, and why.
            key: whose the version is.
            standing: names of the deployments there are; the new version's own may not be among them.

        Raises:
            Conflict: the name or its deployment's is another's, or the name has a candidate already.
        """
        with self._database.write() as connection:
            claim(connection, NAME, alias, key.project, key.id)
            mine = sa.select(VERSIONS).where(VERSIONS.c.alias == alias).order_by(VERSIONS.c.number)
            rows = connection.execute(mine).all()
            for row in rows:
                if row.state in CANDIDATES:
                    raise Conflict(
                        f"version {row.number} of {alias!r} is a candidate already ({row.state})",
                        remedy="Promote it or roll it back first.",
                    )
            number = rows[-1].number + 1 if rows else 1
            if f"{alias}-v{number}" in standing:
                raise taken(f"{alias}-v{number}")
            claim(connection, DEPLOYMENT, f"{alias}-v{number}", key.project, key.id)
            now = time.time()
            values = {
                "alias": alias,
                "number": number,
                "deployment": f"{alias}-v{number}",
                "model": model,
                "adapter": adapter,
                "spec": json.dumps(dict(spec)),
                "state": VersionState.STARTING.value,
                "weight": weight,
                "rules": json.dumps(dict(rules)),
                "live": True,
                "detail": "",
                "created_at": now,
                "changed_at": now,
            }
            connection.execute(VERSIONS.insert().values(**values))
            _note(connection, alias, "deploy", number, cause, {"model": model, "adapter": adapter, "weight": weight})
        return self.get(alias, number)

    def get(self, alias: str, number: int) -> Version:
        """Return one version.

        Raises:
            NotFound: there is none.
        """
        found = self._select(VERSIONS.c.alias == alias, VERSIONS.c.number == number)
        if not found:
            raise NotFound(f"{alias!r} has no version {number}")
        return found[0]

    def adopt(
        self, alias: str, deployment: str, model: str, spec: Mapping[str, Any], cause: Cause, run_id: str
    ) -> None:
        """Give all traffic to a deployment that stands already; harmless if it has it.

        Raises:
            Conflict: the name is not of the project whose run this is.
        """
        with self._database.write() as connection:
            claim_for_run(connection, alias, run_id)
            rows = connection.execute(sa.select(VERSIONS).where(VERSIONS.c.alias == alias)).all()
            known = next((row for row in rows if row.deployment == deployment), None)
            if known is not None and known.state == VersionState.SERVING:
                return
            number = known.number if known else max((row.number for row in rows), default=0) + 1
            if known is None:
                now = time.time()
                values = {"alias": alias, "number": number, "deployment": deployment, "model": model, "adapter": None}
                values |= {
                    "spec": json.dumps(dict(spec)),
                    "rules": "{}",
                    "weight": 0.0,
                    "detail": "",
                    "live": True,
                    "created_at": now,
                }
                state = VersionState.STANDBY.value
                connection.execute(VERSIONS.insert().values(**values, state=state, changed_at=now))
            _serve(connection, alias, number, run_id)
            _note(connection, alias, "promote", number, cause, {"deployment": deployment})

    def serve(
        self, version: Version, cause: Cause, action: str = "promote", data: Mapping[str, Any] | None = None
    ) -> bool:
        """Give a version all traffic; the one that served is retired. False if it is no candidate any more."""
        with self._database.write() as connection:
            if not _still(connection, version, CANDIDATES):
                return False
            _serve(connection, version.alias, version.number)
            _note(connection, version.alias, action, version.number, cause, data)
        return True

    def change(
        self,
        version: Version,
        state: VersionState,
        cause: Cause,
        action: str,
        *,
        data: Mapping[str, Any] | None = None,
        **values: Any,  # noqa: ANN401 - columns
    ) -> bool:
        """Move a version from the state it was seen in to another one. False if somebody moved it before."""
        if state in GONE:
            values["weight"] = 0.0
        with self._database.write() as connection:
            if not _still(connection, version, (version.state,)):
                return False
            where = (VERSIONS.c.alias == version.alias, VERSIONS.c.number == version.number)
            changed = {"state": state.value, "changed_at": time.time(), **values}
            connection.execute(VERSIONS.update().where(*where).values(**changed))
            _note(connection, version.alias, action, version.number, cause, data)
        return True

    def tell(self, version: Version, detail: str) -> None:
        """Keep what a version does right now, for people."""
        if detail == version.detail:
            return
        where = (VERSIONS.c.alias == version.alias, VERSIONS.c.number == version.number)
        with self._database.write() as connection:
            connection.execute(VERSIONS.update().where(*where).values(detail=detail))

    def close(self, alias: str, cause: Cause) -> None:
        """Retire all versions of a name and forget the name itself.

        Raises:
            NotFound: it has none.
        """
        self.known(alias)
        with self._database.write() as connection:
            connection.execute(ALIASES.delete().where(ALIASES.c.name == alias))
            where = (VERSIONS.c.alias == alias, VERSIONS.c.state.not_in(GONE))
            values = {"state": VersionState.RETIRED.value, "weight": 0.0, "changed_at": time.time()}
            connection.execute(VERSIONS.update().where(*where).values(**values))
            _note(connection, alias, "undeploy", None, cause, None)

    def gone(self, version: Version) -> None:
        """Keep that a version's deployment is no more."""
        where = (VERSIONS.c.alias == version.alias, VERSIONS.c.number == version.number, VERSIONS.c.state.in_(GONE))
        with self._database.write() as connection:
            connection.execute(VERSIONS.update().where(*where).values(live=False, detail="stopped"))

    def note(self, alias: str, action: str, number: int | None, cause: Cause, data: Mapping[str, Any]) -> None:
        """Add an entry to the list of changes."""
        with self._database.write() as connection:
            _note(connection, alias, action, number, cause, data)

    def changes(self, alias: str, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest changes of a name, newest first."""
        query = sa.select(CHANGES).where(CHANGES.c.alias == alias).order_by(CHANGES.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [
                {
                    "object": "alias.change",
                    "time": row.time,
                    "action": row.action,
                    "version": row.version,
                    "who": row.who,
                    "why": row.why,
                    "data": json.loads(row.data),
                }
                for row in connection.execute(query)
            ]

    def _select(self, *where: sa.ColumnElement[bool]) -> list[Version]:
        query = sa.select(VERSIONS).where(*where).order_by(VERSIONS.c.alias, VERSIONS.c.number)
        with self._database.read() as connection:
            return [_version(row) for row in connection.execute(query)]


def _version(row: sa.Row[Any]) -> Version:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    values["spec"], values["rules"] = json.loads(row.spec), json.loads(row.rules)
    return Version(**{**values, "state": VersionState(row.state)})


def _still(connection: sa.Connection, version: Version, states: tuple[VersionState, ...]) -> bool:
    where = (VERSIONS.c.alias == version.alias, VERSIONS.c.number == version.number)
    found = connection.execute(sa.select(VERSIONS.c.state).where(*where).with_for_update()).scalar()
    return found in states


def _serve(connection: sa.Connection, alias: str, number: int, run_id: str | None = None) -> None:
    now = time.time()
    others = (VERSIONS.c.alias == alias, VERSIONS.c.number != number)
    retired = {"state": VersionState.RETIRED.value, "weight": 0.0, "changed_at": now}
    connection.execute(VERSIONS.update().where(*others, VERSIONS.c.state.not_in(GONE)).values(**retired))
    mine = (VERSIONS.c.alias == alias, VERSIONS.c.number == number)
    values = {"state": VersionState.SERVING.value, "weight": ALL_TRAFFIC, "changed_at": now, "served_at": now}
    connection.execute(VERSIONS.update().where(*mine).values(**values, live=True))
    deployment = connection.execute(sa.select(VERSIONS.c.deployment).where(*mine)).scalar_one()
    pointed = {"deployment": deployment, "changed_at": now} | ({"run_id": run_id} if run_id else {})
    changed = connection.execute(ALIASES.update().where(ALIASES.c.name == alias).values(**pointed))
    if changed.rowcount == 0:
        connection.execute(
            ALIASES.insert().values(**{"name": alias, "created_at": now, "run_id": alias_id(alias), **pointed})
        )


def _note(
    connection: sa.Connection, alias: str, action: str, number: int | None, cause: Cause, data: Mapping[str, Any] | None
) -> None:
    values = {"alias": alias, "time": time.time(), "action": action, "version": number}
    values |= {"who": cause.who, "why": cause.why, "data": json.dumps(dict(data or {}))}
    connection.execute(CHANGES.insert().values(**values))
