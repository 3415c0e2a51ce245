"""Aliases: the public name of a tuned model, and the deployment that answers for it. Knows nothing of engines."""

from dataclasses import dataclass

import sqlalchemy as sa

from tunewright.gateway.database import ALIASES, Database


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A public name."""

    name: str
    deployment: str
    run_id: str
    """The run that promoted the deployment."""
    created_at: float
    """Unix time, seconds."""


class Aliases:
    """All public names, kept in the gateway's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, Alias]:
        """Return name → alias."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(ALIASES)).all()
        return {
            row.name: Alias(name=row.name, deployment=row.deployment, run_id=row.run_id, created_at=row.created_at)
            for row in rows
        }

    def remove(self, name: str) -> None:
        """Forget a name; silent if there is none."""
        with self._database.write() as connection:
            connection.execute(ALIASES.delete().where(ALIASES.c.name == name))
