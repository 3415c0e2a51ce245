"""API keys: made here, shown once, kept only as hashes.

A key is `tw-<id>-<secret>`; the secret has 256 random bits. A slow password hash (argon2) protects guessable secrets;
at 256 bits there is nothing to guess, so a salted SHA-256 is as safe and costs microseconds instead of tens of
milliseconds on every request. The id finds the record, the comparison of the hashes takes the same time for any key.

A key belongs to a project, may do what its scopes say, and has limits of its own. Knows nothing of HTTP.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import InvalidSpec, NotFound, Unauthenticated

PREFIX = "tw"
DEFAULT_PROJECT = "default"
_PROJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_RELOAD_SECONDS = 1.0
_PARTS = 3
_NOBODY_SALT = secrets.token_hex(16)


class Scope(StrEnum):
    """What a key may do."""

    ADMIN = "admin"
    """Everything in its project, deployments and usage among it."""
    TRAIN = "train"
    """Files, uploads, jobs, runs, their artifacts; delete tuned models."""
    INFER = "infer"
    """Look at models and ask them."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a key may use; 0: no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    """Of prompts and answers together."""
    storage_bytes: int = 0
    """Of the files that were uploaded with it and are not deleted."""


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """What is kept of a key."""

    id: str
    name: str
    created_at: int
    """Unix time, seconds."""
    salt: str
    sha256: str
    """SHA-256 of salt and whole key, hexadecimal."""
    project: str = DEFAULT_PROJECT
    """Keys of one project see each other's files, jobs and models; those of others do not."""
    scopes: tuple[Scope, ...] = (Scope.ADMIN,)
    limits: Limits = field(default_factory=Limits)

    def may(self, *scopes: Scope) -> bool:
        """Return True if one of these scopes is the key's; an admin has them all."""
        return Scope.ADMIN in self.scopes or any(scope in self.scopes for scope in scopes)


def create(
    path: Path,
    name: str,
    *,
    project: str = DEFAULT_PROJECT,
    scopes: Sequence[str] = (Scope.ADMIN,),
    limits: Limits | None = None,
) -> str:
    """Add a key to the file and return it: the only time it is seen.

    Raises:
        InvalidSpec: the name is empty or taken, project, scope or limit are none, or the file is damaged.
    """
    if not _PROJECT.fullmatch(project):
        raise InvalidSpec(f"a project is 1 to 32 lower-case letters, digits or dashes, found {project!r}")
    if any(value < 0 for value in asdict(limits or Limits()).values()):
        raise InvalidSpec("a limit is 0 (none) or more")
    key_id = secrets.token_hex(4)
    key = f"{PREFIX}-{key_id}-{secrets.token_urlsafe(32)}"
    salt = secrets.token_hex(16)
    record = KeyRecord(
        id=key_id,
        name=name,
        created_at=int(time.time()),
        salt=salt,
        sha256=_hash(salt, key),
        project=project,
        scopes=_scopes(scopes),
        limits=limits or Limits(),
    )
    with _locked(path):
        records = load(path)
        if not name.strip() or any(other.name == name for other in records):
            raise InvalidSpec(f"a key's name must be given and new; {name!r} is empty or taken")
        _save(path, [*records, record])
    return key


def revoke(path: Path, key_id: str) -> None:
    """Remove a key; running gateways refuse it within a second.

    Raises:
        NotFound: no key has this id.
    """
    with _locked(path):
        records = load(path)
        left = [record for record in records if record.id != key_id]
        if len(left) == len(records):
            raise NotFound(f"no API key has the id {key_id!r}")
        _save(path, left)


def load(path: Path) -> list[KeyRecord]:
    """Return all records, none if there is no file.

    Raises:
        InvalidSpec: the file is not what `create` writes.
    """
    try:
        return [_record(item) for item in json.loads(path.read_bytes())["keys"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec(
            f"{path} is not a file of API keys: {error}", remedy="Restore it or create it anew."
        ) from error


def _scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    known = [scope.value for scope in Scope]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InvalidSpec(f"scopes are {', '.join(known)}; found {', '.join(unknown) or 'none'}")
    return tuple(sorted({Scope(name) for name in names}))


def _record(item: dict[str, Any]) -> KeyRecord:
    """Return a record as it stands in the file; one from before there were projects may do everything in `default`."""
    known = {entry.name for entry in fields(KeyRecord)}
    if unknown := item.keys() - known:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    extra: dict[str, Any] = {}
    if "scopes" in item:
        extra["scopes"] = tuple(Scope(name) for name in item["scopes"])
    if "limits" in item:
        extra["limits"] = Limits(**item["limits"])
    return KeyRecord(**{**item, **extra})


class KeyRing:
    """The keys that open the door: those of the file, and the bootstrap key if there is one."""

    def __init__(self, path: Path, bootstrap: str = "") -> None:
        self._path = path
        self._bootstrap = _own_record(bootstrap) if bootstrap else None
        self._records: dict[str, KeyRecord] = {}
        self._stamp: tuple[int, int] | None = None
        self._looked_at = 0.0
        self._refresh()

    @property
    def empty(self) -> bool:
        """True if nobody can come in."""
        return self._bootstrap is None and not self._records

    def check(self, key: str) -> KeyRecord:
        """Return the record of a valid key.

        Raises:
            Unauthenticated: it is not one.
        """
        self._refresh()
        parts = key.split("-", _PARTS - 1)
        found = self._records.get(parts[1]) if len(parts) == _PARTS and parts[0] == PREFIX else None
        record = found or self._bootstrap or _NOBODY
        if hmac.compare_digest(_hash(record.salt, key), record.sha256):
            return record
        raise Unauthenticated("Incorrect API key provided.")

    def all(self) -> list[KeyRecord]:
        """Return the records of all keys."""
        self._refresh()
        return [*self._records.values(), *([self._bootstrap] if self._bootstrap else [])]

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._stamp is not None and now - self._looked_at < _RELOAD_SECONDS:
            return
        self._looked_at = now
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._records = {record.id: record for record in load(self._path)}
            self._stamp = stamp


def _own_record(key: str) -> KeyRecord:
    salt = secrets.token_hex(16)
    return KeyRecord(id="bootstrap", name="bootstrap", created_at=0, salt=salt, sha256=_hash(salt, key))


def _hash(salt: str, key: str) -> str:
    return hashlib.sha256(f"{salt}{key}".encode()).hexdigest()


_NOBODY = KeyRecord(id="", name="", created_at=0, salt=_NOBODY_SALT, sha256="0" * 64)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _save(path: Path, records: list[KeyRecord]) -> None:
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"keys": [asdict(record) for record in records]}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
