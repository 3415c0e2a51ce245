"""A real PostgreSQL for tests: initdb in a temporary folder, reached over TCP on a port of its own.

Debian keeps the programs out of PATH, and they refuse to run as root: then they run as the user postgres.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a server and yield the URL of an empty database; folder and server are gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user = _owner(directory)
    data = directory / "data"
    port = _free_port()
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={directory} -c fsync=off"
    try:
        _run(as_user, "initdb", "--auth=trust", "--username=tunewright", "--no-sync", "-D", str(data))
        _run(as_user, "pg_ctl", "start", "-w", "-D", str(data), "-l", str(directory / "log"), "-o", options)
        try:
            yield f"postgresql://tunewright@127.0.0.1:{port}/postgres"
        finally:
            _run(as_user, "pg_ctl", "stop", "-m", "immediate", "-D", str(data))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _owner(directory: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    os.chown(directory, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(as_user: list[str], program: str, *arguments: str) -> None:
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    found = str(beside[-1]) if beside else program
    done = subprocess.run(
        [*as_user, found, *arguments], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
