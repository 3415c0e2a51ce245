"""The folder of one stack: its secrets, its state, its logs and its data. The only place that spells their paths.

    stack.json    identity and secrets, made once (0600)        api_key       the key alone, for other programs (0600)
    state.json    what runs, rewritten by the supervisor        supervisor.lock   held by the living supervisor
    tls/          authority and certificates (0600)             logs/<service>.log
    store/        the object store's data                       work/<service>/   scratch, can be deleted when down
    models/       base models that recipes name by folder       data/         the gateway's database

Knows nothing of processes.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tunewright.cli.errors import CliError
from tunewright.cli.stack.certificates import write_private
from tunewright.cli.stack.processes import ProcessMark

DEFAULT = Path("var/stack")

Phase: TypeAlias = Literal["starting", "ready", "stopping", "stopped", "failed"]
ServiceState: TypeAlias = Literal["waiting", "starting", "up", "restarting", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """What stays the same over the life of a stack."""

    stack_id: str
    api_key: str
    engine_key: str
    store_access_key: str
    store_secret_key: str


@dataclass(kw_only=True)
class ServiceStatus:
    """One service as the supervisor last saw it."""

    state: ServiceState = "waiting"
    process: ProcessMark | None = None
    addresses: dict[str, str] = field(default_factory=dict)
    """What it serves, by protocol: grpc, metrics, http, s3; host:port each."""
    restarts: int = 0
    started: float = 0.0
    """Seconds since the epoch."""
    ready: float = 0.0
    """Seconds since the epoch; 0 until it first served."""
    detail: str = ""


@dataclass(kw_only=True)
class StackStatus:
    """The whole stack as the supervisor last saw it."""

    phase: Phase = "stopped"
    supervisor: ProcessMark | None = None
    gateway_port: int = 0
    import_root: str = ""
    error: str = ""
    services: dict[str, ServiceStatus] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Return the gateway's address."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "StackStatus":
        """Return what `to_json` wrote."""
        services = {name: ServiceStatus(**_marked(values, "process")) for name, values in document["services"].items()}
        return cls(**_marked(document, "supervisor") | {"services": services})


def _marked(values: dict[str, Any], key: str) -> dict[str, Any]:
    mark = values.get(key)
    return values | {key: ProcessMark(int(mark["pid"]), float(mark["started"])) if mark else None}


@dataclass(frozen=True)
class StackFolder:
    """Paths below one stack's folder, and the files whose content the command line itself owns."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.absolute())

    @property
    def exists(self) -> bool:
        """Return True if a stack was made here."""
        return (self.path / "stack.json").is_file()

    @property
    def tls(self) -> Path:
        """Folder of the certificates."""
        return self.path / "tls"

    @property
    def store(self) -> Path:
        """Folder of the object store's data."""
        return self.path / "store"

    @property
    def models(self) -> Path:
        """Folder below which recipes name base models, unless `up` was given another one."""
        return self.path / "models"

    @property
    def api_key_file(self) -> Path:
        """File that holds the API key alone."""
        return self.path / "api_key"

    def log(self, service: str) -> Path:
        """Log of a service."""
        return self.path / "logs" / f"{service}.log"

    def work(self, service: str) -> Path:
        """Scratch space of a service."""
        return self.path / "work" / service

    def ready_file(self, service: str) -> Path:
        """File in which a service tells its real addresses."""
        return self.path / "work" / f"{service}.ready.json"

    def create(self) -> StackConfig:
        """Return the stack's configuration; make the folder and fresh secrets when there is none.

        Raises:
            CliError: the folder cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            for part in (self.store, self.models, self.path / "logs", self.path / "data", self.path / "work"):
                part.mkdir(exist_ok=True)
            if not self.exists:
                config = _fresh_config()
                write_private(self.path / "stack.json", json.dumps(asdict(config), indent=2).encode())
                write_private(self.api_key_file, config.api_key.encode())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return self.config()

    def config(self) -> StackConfig:
        """Return the stack's configuration.

        Raises:
            CliError: there is no stack here, or its file is damaged.
        """
        try:
            return StackConfig(**json.loads((self.path / "stack.json").read_bytes()))
        except FileNotFoundError as error:
            raise CliError(f"there is no stack in {self.path}", remedy="Start one with `tunewright up`.") from error
        except (ValueError, TypeError) as error:
            remedy = f"Restore the file, or move {self.path} away and start afresh (its data stay in the old folder)."
            raise CliError(f"{self.path / 'stack.json'} is damaged: {error}", remedy=remedy) from error

    def status(self) -> StackStatus:
        """Return the state last written; an empty one if there is none."""
        try:
            return StackStatus.from_json(json.loads((self.path / "state.json").read_bytes()))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return StackStatus()

    def write_status(self, status: StackStatus) -> None:
        """Replace the state in one step."""
        write_private(self.path / "state.json", json.dumps(status.to_json(), indent=1).encode())

    @contextlib.contextmanager
    def supervisor_lock(self) -> Iterator[bool]:
        """Hold the supervisor's lock; yields False if another living process holds it."""
        descriptor = os.open(self.path / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)

    def supervised(self) -> bool:
        """Return True if a supervisor lives."""
        if not self.exists:
            return False
        with self.supervisor_lock() as free:
            return not free


def find_stack(start: Path) -> StackFolder | None:
    """Return the stack of `start` or of the nearest folder above it, as git finds its repository."""
    for folder in (start.absolute(), *start.absolute().parents):
        if (found := StackFolder(folder / DEFAULT)).exists:
            return found
    return None


def _fresh_config() -> StackConfig:
    return StackConfig(
        stack_id=secrets.token_hex(16),
        api_key=f"tw-{secrets.token_urlsafe(32)}",
        engine_key=secrets.token_urlsafe(32),
        store_access_key=secrets.token_hex(10).upper(),
        store_secret_key=secrets.token_urlsafe(32),
    )


def _unwritable(path: Path, error: OSError) -> CliError:
    return CliError(f"cannot write {path}: {error.strerror}", remedy="Name a folder you may write: --dir FOLDER.")
