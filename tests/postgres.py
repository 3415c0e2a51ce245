"""A real PostgreSQL for tests: initdb in a temporary folder, reached over TCP on a port of its own.

Debian keeps the programs out of PATH, and they refuse to run as root: then they run as the user postgres.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_SECONDS = 30.0


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a server and yield the URL of an empty database; folder and server are gone afterwards.

    `setpriv` kills the server too if the tests die first.
    """
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user = _owner(directory)
    data = directory / "data"
    port = _free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": directory, "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    try:
        _run(as_user, "initdb", "--auth=trust", "--username=tunewright", "--no-sync", "-D", str(data))
        command = [*(as_user or ["setpriv"]), "--pdeathsig", "KILL", _program("postgres"), "-D", str(data), *options]
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(port, directory / "log")
            yield f"postgresql://tunewright@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown
            server.wait(_START_SECONDS)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_it_answers(port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not come up: {log.read_text()}")
        time.sleep(0.1)


def _owner(directory: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    os.chown(directory, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(as_user: list[str], program: str, *arguments: str) -> None:
    command = [*as_user, _program(program), *arguments]
    done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else name


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
